"""`tw secret`: the value comes from standard input, and nothing prints one."""

import io

import pytest

from pytw.limits import SECRET_BYTES_MAX
from tests.commands.lines import tw


def given(monkeypatch, value: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(value)))


@pytest.mark.parametrize(
    ("given_bytes", "sent"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"a\n\n", "a\n"),
        (b" a ", " a "),
    ],
)
def test_set_sends_what_standard_input_holds(capsys, server, tmp_path, monkeypatch, given_bytes, sent):
    asked, answers = server
    given(monkeypatch, given_bytes)
    answers.append((200, {"template": "a/b", "name": "k", "warnings": ["there is no template a/b yet"]}))
    code, out, err = tw(capsys, "secret", "set", "5", "a/b", "k", "--data-dir", str(tmp_path))
    assert (code, out, err) == (0, "a/b: secret k is set\n", "warning: there is no template a/b yet\n")
    assert asked == [("PUT", "/guilds/5/templates/a%2Fb/secrets/k", {"value": sent})]


def test_set_reads_no_more_than_a_secret_may_have(capsys, server, tmp_path, monkeypatch):
    asked, answers = server
    given(monkeypatch, b"x" * (1 << 20))
    code, _, err = tw(capsys, "secret", "set", "5", "t", "k", "--data-dir", str(tmp_path))
    assert (code, "longer than a secret may be" in err, asked) == (2, True, [])
    given(monkeypatch, b"x" * SECRET_BYTES_MAX + b"\r\n")
    answers.append((200, {"template": "t", "name": "k"}))
    assert tw(capsys, "secret", "set", "5", "t", "k", "--data-dir", str(tmp_path))[0] == 0
    assert len(asked[0][2]["value"]) == SECRET_BYTES_MAX


def test_set_refuses_what_is_no_text(capsys, server, tmp_path, monkeypatch):
    given(monkeypatch, b"\xff")
    code, _, err = tw(capsys, "secret", "set", "5", "t", "k", "--data-dir", str(tmp_path))
    assert (code, "not UTF-8" in err, server[0]) == (2, True, [])


def test_ls_and_rm(capsys, server, tmp_path):
    asked, answers = server
    row = {"name": "k", "set_at": "2026-01-01T00:00:00+00:00", "readable": False}
    answers += [(200, {"secrets": [row]}), (200, {"secrets": []}), (200, {"removed": True})]
    flags = ["--data-dir", str(tmp_path)]
    assert "another" not in (out := tw(capsys, "secret", "ls", "5", "t", *flags)[1])
    assert out.startswith("k  set 2026") and "key that this server does not have" in out
    assert tw(capsys, "secret", "ls", "5", "t", "--user", *flags)[1] == "no secrets\n"
    assert tw(capsys, "secret", "rm", "5", "t", "k", *flags)[1] == "t: secret k is gone\n"
    assert [entry[:2] for entry in asked] == [
        ("GET", "/guilds/5/templates/t/secrets"),
        ("GET", "/users/5/templates/t/secrets"),
        ("DELETE", "/guilds/5/templates/t/secrets/k"),
    ]
