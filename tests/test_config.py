"""`pytw.config`: names file, key and what was expected; documents itself; keeps secrets."""

import os
from pathlib import Path

import pytest

from pytw import config
from pytw.config import keys
from pytw.config.__main__ import render
from pytw.errors import ConfigError
from pytw.limits import Limits

ROOT = Path(__file__).resolve().parents[1]


def read(tmp_path, text="", environ=None, **flags):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return config.read(str(file), environ or {}, flags)


def refused(tmp_path, text="", environ=None, **flags):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, environ, **flags)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_configured_is_a_whole_configuration(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = config.read(None, {})
    assert found.config.addrs.template_worker == "127.0.0.1:60000"
    assert found.config.limits == Limits()
    assert found.origins == {}
    assert found.warnings == []


def test_working_directory_is_searched_for_the_file(monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text("servers: {main: 5}")
    monkeypatch.chdir(tmp_path)
    assert config.load(None, {}).servers.main == 5


def test_reference_file_is_accepted_as_it_is(tmp_path):
    found = read(
        tmp_path,
        """
discord_auth:
  token: "abc"
  client_id: "123456789012345678"
  client_secret: secret
  root_users: ["1", 2]
  allowed_redirects: [https://example.org/authorize]
meta:
  postgres_url: postgres://pytw:pw@db/pytw
  proxy: http://127.0.0.1:3221
  support_server_invite: https://discord.gg/x
  sandwich_http_api: http://127.0.0.1:29334
  default_error_channel: "9"
sites: {api: https://a.example, frontend: https://f.example, docs: https://d.example}
servers: {main: "7"}
object_storage:
  type: s3-like
  base_path: null
  endpoint: 127.0.0.1:8333
  secure: false
  cdn_secure: true
  cdn_endpoint: cdn.example
  access_key: k
  secret_key: s
addrs: {template_worker: "0.0.0.0:60000", mesophyll_server: "127.0.0.1:30000"}
""",
    ).config
    assert found.discord_auth.root_users == [1, 2]
    assert found.discord_auth.client_id == 123456789012345678
    assert found.object_storage.cdn_secure is True
    assert found.object_storage.base_path == ""
    assert found.dev_mode(dev=False) is False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("addrs: {template_worker: nowhere}", ["addrs.template_worker", "HOST:PORT", "'nowhere'"]),
        ("addrs: {template_worker: '127.0.0.1:65536'}", ["addrs.template_worker", "HOST:PORT"]),
        ("limits: {cpu_bucket_ms: 1}", ["limits.cpu_bucket_ms", "a whole number from 10 to 600,000", "got 1"]),
        ("limits: {cpu_bucket_ms: soon}", ["limits.cpu_bucket_ms", "whole number", "'soon'"]),
        ("limits: {cpu_bucket_ms: true}", ["limits.cpu_bucket_ms", "whole number"]),
        ("log: {level: loud}", ["log.level", "debug, info, warning, error", "'loud'"]),
        ("log: {json: maybe}", ["log.json", "true or false"]),
        ("discord_auth: {root_users: [x]}", ["discord_auth.root_users", "a list of Discord ids"]),
        ("discord_auth: {client_id: -1}", ["discord_auth.client_id", "a Discord id"]),
        ("meta: {postgres_url: mysql://x}", ["meta.postgres_url", "postgresql://"]),
        ("meta: 5", ["meta", "expected keys and values"]),
        ("- 1", ["the file", "expected keys and values"]),
        ("limits: {cpu_bucket: 1}", ["unknown key limits.cpu_bucket", "did you mean limits.cpu_bucket_ms?"]),
        ("adrs: {}", ["unknown key adrs", "did you mean addrs?"]),
        ("5: 6", ["unknown key 5"]),
        ("a: [1", ["line 2, column 1", "not YAML"]),
        ("a: &x [*x]", ["unknown key a"]),
        ("limits: &x {limits: *x}", ["unknown key limits.limits"]),
        ("!!python/object/apply:os.system ['true']", ["not YAML"]),
        ("data_dir: ''", ["data_dir", "a folder"]),
    ],
)
def test_error_names_file_key_and_what_was_expected(tmp_path, text, parts):
    message = refused(tmp_path, text)
    assert "config.yaml" in message
    for part in parts:
        assert part in message


def test_error_does_not_show_a_secret(tmp_path):
    assert "hunter2" not in refused(tmp_path, "meta: {postgres_url: 'mysql://u:hunter2@h/d'}")
    assert "hunter2" not in refused(tmp_path, "discord_auth: {token: [hunter2]}")


def test_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        config.read(str(tmp_path / "nothing.yaml"), {})
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.read(str(tmp_path / "config.yaml"), {})


def test_flag_beats_variable_beats_file_beats_default(tmp_path):
    text = "limits: {cpu_bucket_ms: 11, slice_ms: 12, unbreakable_ms: 13}"
    environ = {"TW_LIMITS_SLICE_MS": "22", "TW_LIMITS_UNBREAKABLE_MS": "23"}
    found = read(tmp_path, text, environ, **{"limits.unbreakable_ms": ("--unbreakable", 33)})
    limits = found.config.limits
    assert (limits.cpu_bucket_ms, limits.slice_ms, limits.unbreakable_ms) == (11, 22, 33)
    assert limits.vm_memory_bytes == 20 * 1024 * 1024
    assert found.origins["limits.slice_ms"] == "TW_LIMITS_SLICE_MS"


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("TW_DATABASE_URL", "postgresql://a@b/c", "meta.postgres_url", "postgresql://a@b/c"),
        ("TW_DISCORD_TOKEN", "t", "discord_auth.token", "t"),
        ("TW_DATA_DIR", "/d", "data_dir", "/d"),
        ("TW_PG_BIN", "/p", "pg.bin", "/p"),
        ("TW_PG_USER", "u", "pg.user", "u"),
        ("TW_ADDRS_TEMPLATE_WORKER", "127.0.0.1:1", "addrs.template_worker", "127.0.0.1:1"),
        ("TW_LOG_JSON", "true", "log.json", True),
        ("TW_DISCORD_AUTH_ROOT_USERS", "1, 2", "discord_auth.root_users", [1, 2]),
    ],
)
def test_variable_sets_its_key(name, value, path, expected):
    found = config.read(None, {name: value, "TW_CONFIG": os.devnull}).config
    for part in path.split("."):
        found = getattr(found, part)
    assert found == expected


def test_wrong_variable_is_named(tmp_path):
    message = refused(tmp_path, "", {"TW_LIMITS_CPU_BUCKET_MS": "x"})
    assert message.startswith("TW_LIMITS_CPU_BUCKET_MS: limits.cpu_bucket_ms: expected a whole number")


def test_unknown_variable_is_a_warning_with_a_suggestion(tmp_path):
    found = read(tmp_path, "", {"TW_LIMIT_CPU_BUCKET_MS": "1", "TWO": "1", "TW_TOKEN": "x"})
    (warning,) = found.warnings
    assert warning == "TW_LIMIT_CPU_BUCKET_MS is not a setting; did you mean TW_LIMITS_CPU_BUCKET_MS?"


def test_links_are_what_is_configured(tmp_path):
    found = read(tmp_path, "{sites: {api: https://a.example, docs: https://d.example}}").config
    assert found.links == {
        "support_server": "",
        "api_url": "https://a.example",
        "frontend_url": "",
        "docs_url": "https://d.example",
    }


def test_key_of_a_later_version_is_accepted_and_said_to_do_nothing(tmp_path):
    found = read(tmp_path, "{discord_auth: {client_secret: abc}, meta: {sandwich_http_api: ''}}")
    assert found.config.discord_auth.client_secret == "abc"
    assert found.warnings == ["no effect in this version: discord_auth.client_secret"]


@pytest.mark.parametrize(
    ("text", "flag", "dev"),
    [
        ("", False, True),
        ("", True, True),
        ("discord_auth: {token: t}", False, False),
        ("discord_auth: {token: t}", True, True),
        ("meta: {postgres_url: postgres://h/d}", True, True),
        ("{meta: {postgres_url: postgres://h/d}, discord_auth: {token: t}}", False, False),
        ("{addrs: {template_worker: '0.0.0.0:1'}, discord_auth: {token: t}}", False, False),
        ("addrs: {template_worker: '[::1]:1'}", False, True),
    ],
)
def test_dev_mode_is_the_flag_or_no_credentials_at_all(tmp_path, text, flag, dev):
    assert read(tmp_path, text).config.dev_mode(dev=flag) is dev


@pytest.mark.parametrize(
    ("text", "flag", "part"),
    [
        ("meta: {postgres_url: postgres://h/d}", False, "meta.postgres_url is set but discord_auth.token is not"),
        ("discord_auth: {client_secret: s}", False, "discord_auth.token is not"),
        ("addrs: {template_worker: '0.0.0.0:1'}", False, "dev mode only listens on loopback"),
        ("{addrs: {template_worker: '127.evil.example:1'}, discord_auth: {token: t}}", True, "loopback"),
    ],
)
def test_half_a_configuration_does_not_become_dev_mode(tmp_path, text, flag, part):
    found = read(tmp_path, text).config
    with pytest.raises(ConfigError, match=part):
        found.dev_mode(dev=flag)


def test_every_default_passes_its_own_check():
    for key in keys():
        assert key.check(key.default, "default") == key.default, key.path


def test_every_key_has_a_description_and_a_variable_of_its_own():
    every = list(keys())
    assert all(key.rules.description for key in every)
    assert len({key.variable for key in every}) == len(every)


def test_documentation_is_up_to_date():
    assert (ROOT / "docs/configuration.md").read_text() == render(), "run `make docs`"


def test_control_socket_path_that_no_socket_can_have_is_refused(tmp_path):
    assert config.control_socket(str(tmp_path)) == str(tmp_path / "control.sock")
    with pytest.raises(ConfigError, match="107 bytes"):
        config.control_socket("/" + "x" * 120)


def test_address_splits_into_host_and_port():
    assert config.split_address("[::1]:80") == ("::1", 80)
    assert config.split_address("localhost:0") == ("localhost", 0)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p%40w@h/d",
        "postgres://u:hunter2@h:5432/d?sslmode=require",
        "postgres://u:x@h/d?password=hunter2&a=b",
    ],
)
def test_password_of_a_url_is_hidden(url):
    shown = config.without_password(url)
    assert "p%40w" not in shown
    assert "hunter2" not in shown
    assert shown.startswith("postgres://u:(hidden)@h")
