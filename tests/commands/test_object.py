"""`tw object`: what a server is asked, and what becomes of bytes."""

import io
import json
import sys

import pytest

from pytw.limits import OBJECT_BYTES_MAX
from tests.commands.lines import one_line, tw

ITEM = {"key": "a/ü", "size": 1234, "last_modified": "2026-11-22T10:00:00.5+00:00", "etag": '"1"'}


@pytest.fixture
def ask(capsys, server, tmp_path):
    return lambda *args: tw(capsys, "object", *args, "--data-dir", str(tmp_path))


def test_ls_goes_on_until_the_last_page(ask, server):
    asked, answers = server
    answers += [(200, {"objects": [ITEM], "after": "a/ü"}), (200, {"objects": [{**ITEM, "key": "b"}], "after": None})]
    code, out, _ = ask("ls", "5", "a b", "--user")
    assert (code, out.splitlines()) == (0, ["    1,234  2026-11-22T10:00:00  a/ü", "    1,234  2026-11-22T10:00:00  b"])
    assert [path for _, path, _ in asked] == [
        "/users/5/objects?prefix=a+b",
        "/users/5/objects?prefix=a+b&after=a%2F%C3%BC",
    ]
    answers.append((200, {"objects": [], "after": None}))
    assert ask("ls", "5")[1] == "no files\n"
    answers.append((200, {"objects": [ITEM], "after": None}))
    assert json.loads(ask("ls", "5", "--json")[1]) == {"objects": [ITEM]}


def test_get_writes_the_bytes_as_they_are(ask, server, tmp_path):
    asked, answers = server
    data = b"\x00\xff\r\n{not json"
    answers.append((200, data))
    assert ask("get", "5", "a/ü?", "out.bin")[:2] == (0, "out.bin: 13 bytes\n")
    assert (tmp_path / "out.bin").read_bytes() == data
    assert asked == [("GET", "/guilds/5/objects/a%2F%C3%BC%3F", None)]


def test_get_without_a_file_is_for_pipes_only(ask, server, monkeypatch):
    _, answers = server
    answers.append((200, b"\x00\xff"))
    written = io.TextIOWrapper(io.BytesIO())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        ask("get", "5", "k")
    assert written.buffer.getvalue() == b"\x00\xff"
    monkeypatch.setattr(written, "isatty", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        code, _, err = ask("get", "5", "k")
    assert code == 2
    assert "name a FILE, or redirect the output" in err


def test_put_sends_the_file_or_standard_input(ask, server, tmp_path, monkeypatch):
    asked, answers = server
    (tmp_path / "in").write_bytes(b"[1]")
    answers.append((200, {"key": "k", "size": 3}))
    assert ask("put", "5", "k", "in")[:2] == (0, "k: 3 bytes\n")
    answers.append((200, {"key": "k", "size": 1}))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"7")))
    assert ask("put", "5", "k")[:2] == (0, "k: 1 bytes\n")
    assert asked == [("PUT", "/guilds/5/objects/k", [1]), ("PUT", "/guilds/5/objects/k", 7)]


def test_put_of_more_than_a_file_may_have_asks_nobody(capsys, server, tmp_path):
    (tmp_path / "in").write_bytes(b"x" * (OBJECT_BYTES_MAX + 1))
    code, text = one_line(capsys, "object", "put", "5", "k", "in", "--data-dir", str(tmp_path))
    assert (code, text) == (1, "tw: in has more than 524,288 bytes (no file may be longer)")
    code, text = one_line(capsys, "object", "put", "5", "k", "missing", "--data-dir", str(tmp_path))
    assert (code, text) == (1, "tw: cannot read missing: No such file or directory")
    assert server[0] == []


def test_rm_removes_each(ask, server):
    asked, answers = server
    answers += [(200, {"key": "a", "removed": True}), (200, {"key": "b/c", "removed": True})]
    assert ask("rm", "5", "a", "b/c")[:2] == (0, "a: removed\nb/c: removed\n")
    assert [path for _, path, _ in asked] == ["/guilds/5/objects/a", "/guilds/5/objects/b%2Fc"]


def test_adopt_tells_what_was_left(ask, server):
    asked, answers = server
    answers.append((200, {"taken": 2, "here": 1, "left": {"a": "too long"}}))
    told = "2 files taken over, 1 were here already\nleft: a: too long\n"
    assert ask("adopt", "5")[:2] == (0, told)
    assert asked == [("POST", "/guilds/5/objects", None)]


@pytest.mark.parametrize("command", ["get", "put", "rm"])
@pytest.mark.parametrize("key", ["..", "../x", "a//b", "", "a\nb"])
def test_keys_that_would_be_lost_on_their_way_are_refused(capsys, server, tmp_path, command, key):
    code, text = one_line(capsys, "object", command, "5", key, "--data-dir", str(tmp_path))
    assert code == 1
    assert "not a path of an object" in text
    assert server[0] == []


def test_a_refusal_is_one_line(capsys, server, tmp_path):
    server[1].append((404, {"message": "there is no object 'k'", "code": "not_found"}))
    code, text = one_line(capsys, "object", "get", "5", "k", "out", "--data-dir", str(tmp_path))
    assert (code, text) == (1, "tw: there is no object 'k'")
    assert not (tmp_path / "out").exists()
