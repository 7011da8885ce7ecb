"""Secrets of templates: bounds, what is stored, and keys that are changed, copied or lost."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from pytw.config import Config
from pytw.config.sections import Secrets
from pytw.errors import (
    ConfigError,
    LimitExceeded,
    NotFound,
    RequestError,
    StorageRefused,
    StorageUnavailable,
    Unavailable,
)
from pytw.limits import SECRET_BYTES_MAX, SECRETS_TEMPLATE_MAX, SECRETS_TENANT_MAX
from pytw.main.secrets import open_secrets
from pytw.storage.keyfiles import read_key_file
from pytw.storage.pool import Database, open_pool
from pytw.storage.secretbox import SecretBox, decoded_key
from pytw.storage.secrets import SecretStore
from pytw.types import Id

GUILD, USER = Id.guild(7), Id.user(7)
KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = await open_pool(database_url, 4)
    yield found
    await found.close()


@pytest.fixture
def secrets(database: Database) -> SecretStore:
    return SecretStore(database, SecretBox(KEY))


async def test_secret_is_its_templates_alone(secrets: SecretStore) -> None:
    await secrets.put(GUILD, "t", "token", "hunter2 ü\n\0")
    assert await secrets.secret_get(GUILD.key, "t", "token") == "hunter2 ü\n\0"
    for tenant, template, name in ((USER.key, "t", "token"), (GUILD.key, "u", "token"), (GUILD.key, "t", "Token")):
        assert await secrets.secret_get(tenant, template, name) is None


async def test_set_again_gives_the_new_value(secrets: SecretStore) -> None:
    for value in ("one", "two"):
        await secrets.put(GUILD, "t", "a", value)
        assert await secrets.secret_get(GUILD.key, "t", "a") == value
    assert [(s.name, s.readable) for s in await secrets.list(GUILD, "t")] == [("a", True)]


async def test_remove_and_remove_all(secrets: SecretStore) -> None:
    for name in "cab":
        await secrets.put(GUILD, "t", name, name)
    await secrets.put(GUILD, "u", "a", "other")
    await secrets.remove(GUILD, "t", "c")
    with pytest.raises(NotFound):
        await secrets.remove(GUILD, "t", "c")
    assert [s.name for s in await secrets.list(GUILD, "t")] == ["a", "b"]
    assert (await secrets.remove_all(GUILD, "t"), await secrets.remove_all(GUILD, "t")) == (2, 0)
    assert (await secrets.has_any(GUILD, "t"), await secrets.has_any(GUILD, "u")) == (False, True)


async def test_what_is_stored_shows_nothing_and_is_different_each_time(
    secrets: SecretStore, database: Database
) -> None:
    for template in "tu":
        await secrets.put(GUILD, template, "a", "hunter2")
    rows = [row["ciphertext"] for row in await database.fetch("SELECT ciphertext FROM template_secrets")]
    assert rows[0][9:] != rows[1][9:]
    assert all(b"hunter2" not in row and row[:1] == b"\x01" for row in rows)


@pytest.mark.parametrize("copied", ["template = 'u'", "name = 'b'", "owner_id = '8'", "owner_type = 'user'"])
async def test_a_row_that_is_copied_elsewhere_does_not_open(
    secrets: SecretStore, database: Database, copied: str
) -> None:
    await secrets.put(GUILD, "t", "a", "hunter2")
    await database.execute(f"UPDATE template_secrets SET {copied}")
    row = await database.fetchrow("SELECT owner_type, owner_id, template, name FROM template_secrets")
    assert row is not None
    owner = Id.user(7) if row["owner_type"] == "user" else Id.guild(int(row["owner_id"]))
    with pytest.raises(StorageUnavailable) as refused:
        await secrets.secret_get(owner.key, row["template"], row["name"])
    assert refused.value.detail == f"secret {row['name']} cannot be read here: its key is missing"


@pytest.mark.parametrize("at", [0, 3, 12, -1])
async def test_a_damaged_row_does_not_open(secrets: SecretStore, database: Database, at: int) -> None:
    await secrets.put(GUILD, "t", "a", "hunter2")
    row = bytearray(await database.fetchval("SELECT ciphertext FROM template_secrets"))
    row[at] ^= 1
    await database.execute("UPDATE template_secrets SET ciphertext = $1", bytes(row))
    with pytest.raises(StorageUnavailable):
        await secrets.secret_get(GUILD.key, "t", "a")


async def test_another_key_is_told_to_who_can_mend_it(
    secrets: SecretStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await secrets.put(GUILD, "t", "a", "hunter2")
    other = SecretStore(database, SecretBox(OTHER))
    assert [s.readable for s in await other.list(GUILD, "t")] == [False]
    with caplog.at_level(logging.ERROR), pytest.raises(StorageUnavailable):
        await other.secret_get(GUILD.key, "t", "a")
    await other.warn_of_other_keys()
    assert len(caplog.messages) == 2
    assert all("another key" in text and "secrets.old_keys" in text for text in caplog.messages)


async def test_keys_can_be_changed(secrets: SecretStore, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await secrets.put(GUILD, "t", "old", "one")
    both = SecretStore(database, SecretBox(OTHER, [KEY]))
    await both.put(GUILD, "t", "new", "two")
    await both.warn_of_other_keys()
    assert caplog.messages == []
    assert [await both.secret_get(GUILD.key, "t", name) for name in ("old", "new")] == ["one", "two"]
    with pytest.raises(StorageUnavailable):
        await secrets.secret_get(GUILD.key, "t", "new")


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("a b", "x", RequestError, "not a name of a secret"),
        ("", "x", RequestError, "not a name of a secret"),
        ("a" * 65, "x", RequestError, "not a name of a secret"),
        ("a", "", RequestError, "empty"),
        ("a", "\ud800", RequestError, "UTF-8"),
        ("a", "ü" * (SECRET_BYTES_MAX // 2) + "x", LimitExceeded, "4,097 bytes"),
    ],
)
async def test_what_cannot_be_a_secret_is_refused(
    secrets: SecretStore, name: str, value: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await secrets.put(GUILD, "t", name, value)
    assert await secrets.list(GUILD, "t") == []


async def test_bounds_per_template_and_tenant_do_not_hinder_a_change(secrets: SecretStore, database: Database) -> None:
    await secrets.put(GUILD, "t", "s0", "x" * SECRET_BYTES_MAX)
    copy = """INSERT INTO template_secrets (owner_id, owner_type, template, name, ciphertext)
        SELECT owner_id, owner_type, $1, 's' || n, ciphertext FROM template_secrets, generate_series(1, $2::int) n"""
    await database.execute(copy, "t", SECRETS_TEMPLATE_MAX - 1)
    with pytest.raises(LimitExceeded, match="template t has 50 secrets already"):
        await secrets.put(GUILD, "t", "more", "x")
    await secrets.put(GUILD, "t", "s0", "changed")
    await database.execute("DELETE FROM template_secrets WHERE name <> 's0'")
    await database.execute(copy, "other", SECRETS_TENANT_MAX - 1)
    with pytest.raises(LimitExceeded, match="the tenant has 1,000 secrets already"):
        await secrets.put(GUILD, "t", "more", "x")
    await secrets.put(USER, "t", "more", "x")


async def test_bounds_hold_for_many_writers_at_once(secrets: SecretStore) -> None:
    writers = (secrets.put(GUILD, "t", f"s{number}", "x") for number in range(SECRETS_TEMPLATE_MAX + 8))
    found = await asyncio.gather(*writers, return_exceptions=True)
    assert [type(end) for end in found if end is not None] == [LimitExceeded] * 8
    assert len(await secrets.list(GUILD, "t")) == SECRETS_TEMPLATE_MAX


async def test_without_a_key_nothing_is_written_or_read(database: Database, secrets: SecretStore) -> None:
    await secrets.put(GUILD, "t", "a", "x")
    blind = SecretStore(database, None)
    for work in (blind.put(GUILD, "t", "b", "x"), blind.secret_get(GUILD.key, "t", "a")):
        with pytest.raises(Unavailable, match="no key"):
            await work
    assert [(s.name, s.readable) for s in await blind.list(GUILD, "t")] == [("a", False)]


def test_key_lies_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secrets.key"
    box = open_secrets(Config(), tmp_path)
    assert (file.stat().st_mode & 0o777, len(file.read_bytes())) == (0o600, 32)
    sealed = box.seal(GUILD, "t", "a", "x")
    assert open_secrets(Config(), tmp_path).open(GUILD, "t", "a", sealed) == "x"
    key = base64.b64encode(file.read_bytes()).decode()
    file.unlink()
    elsewhere = open_secrets(Config(secrets=Secrets(key=key)), tmp_path)
    assert elsewhere.open(GUILD, "t", "a", sealed) == "x"
    assert not file.exists()


def test_key_of_the_configuration_goes_before_the_file_and_old_ones_behind(tmp_path: Path) -> None:
    sealed = open_secrets(Config(), tmp_path).seal(GUILD, "t", "a", "x")
    new, old = (base64.b64encode(key).decode() for key in (KEY, OTHER))
    box = open_secrets(Config(secrets=Secrets(key=new, old_keys=[old])), tmp_path)
    assert box.open(GUILD, "t", "a", sealed) == "x"
    assert SecretBox(KEY).opens(box.seal(GUILD, "t", "a", "y"))
    assert box.opens(SecretBox(OTHER).seal(GUILD, "t", "a", "z"))


@pytest.mark.parametrize("text", ["x", "é", base64.b64encode(b"short").decode(), base64.b64encode(b"l" * 33).decode()])
def test_key_that_is_none_says_how_to_make_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"secrets\.key is not 32 bytes in base64 .*openssl rand"):
        decoded_key(text, name="secrets.key")


def test_file_that_holds_no_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"short")
    with pytest.raises(StorageRefused, match="does not hold 32 bytes"):
        read_key_file(tmp_path / "k", of="secrets", hint="h")
    with pytest.raises(StorageRefused, match="cannot keep the key of secrets"):
        read_key_file(tmp_path / "no" / "k", of="secrets", hint="h")


def test_key_is_hidden_where_settings_are_shown() -> None:
    for field in msgspec.structs.fields(Secrets):
        from pytw.config import keys

        (key,) = [key for key in keys() if key.path == f"secrets.{field.name}"]
        assert key.secret
