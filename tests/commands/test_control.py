"""`tw template` and `tw mock say`: what a server is asked, and what is said of its answer."""

import json
import socket
import threading

import pytest

from pytw.commands.template import read_files
from pytw.errors import RequestError
from tests.commands.lines import one_line, tw


def test_template_put_sends_the_luau_files_of_the_folder_and_its_aliases(capsys, server, tmp_path):
    asked, answers = server
    folder = tmp_path / "t"
    (folder / "lib").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "init.luau").write_text("return {}")
    (folder / "lib/a.luau").write_text("return 'ä'")
    (folder / "README.md").write_text("no")
    (folder / ".git/x.luau").write_text("no")
    (folder / "lib/.luaurc").write_text("{}")
    answers.append((200, {"name": "a/b", "version": 3, "events": ["MESSAGE"]}))
    code, out, _ = tw(capsys, "template", "put", "5", "a/b", "t", "--data-dir", str(tmp_path), "--message", "m")
    assert (code, out) == (0, "a/b: version 3 deployed, listens for MESSAGE\n")
    files = {"init.luau": "return {}", "lib/.luaurc": "{}", "lib/a.luau": "return 'ä'"}
    assert asked == [("PUT", "/guilds/5/templates/a%2Fb", {"files": files, "message": "m"})]


def test_template_put_tells_warnings_and_hints_beside_its_answer(capsys, server, tmp_path):
    _, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((202, {"version": 1, "events": ["NOPE"], "warnings": ["no NOPE"], "hint": "its worker is away"}))
    code, out, err = tw(capsys, "template", "put", "5", "x", "x.luau", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "x: version 1 deployed, listens for NOPE\n")
    assert err == "warning: no NOPE\nnote: its worker is away\n"


def test_template_put_sends_what_the_flags_say(capsys, server, tmp_path):
    asked, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((200, {"version": 1}))
    flags = ["--entry", "main", "--event", "A", "--event", "B", "--cap", "kv:read", "--paused", "--user"]
    assert tw(capsys, "template", "put", "5", "x", "x.luau", *flags, "--data-dir", str(tmp_path))[0] == 0
    assert asked == [
        (
            "PUT",
            "/users/5/templates/x",
            {
                "files": {"init.luau": "return 1"},
                "entry": "main",
                "events": ["A", "B"],
                "allowed_caps": ["kv:read"],
                "paused": True,
            },
        )
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["list", "5"], ("GET", "/guilds/5/templates")),
        (["show", "5", "x"], ("GET", "/guilds/5/templates/x")),
        (["rm", "5", "x", "--user"], ("DELETE", "/users/5/templates/x")),
        (["pause", "5", "x"], ("POST", "/guilds/5/templates/x/pause")),
        (["resume", "5", "x"], ("POST", "/guilds/5/templates/x/resume")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_template_command_asks_its_route(capsys, server, tmp_path, args, expected):
    asked, answers = server
    row = {"name": "x", "version": 2, "events": ["MESSAGE"], "paused": True, "files": {"init.luau": "return 1"}}
    answers.append((200, [row] if args[0] == "list" else row))
    code, out, _ = tw(capsys, "template", *args, "--data-dir", str(tmp_path))
    assert code == 0
    assert asked[0][:2] == expected
    assert "x" in out


def test_show_prints_the_source_on_request(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, {"name": "x", "version": 1, "events": [], "files": {"init.luau": "return 'here'"}}))
    assert "return 'here'" in tw(capsys, "template", "show", "5", "x", "--source", "--data-dir", str(tmp_path))[1]


def test_json_is_the_answer_of_the_server(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, [{"name": "x"}]))
    assert json.loads(tw(capsys, "template", "list", "5", "--json", "--data-dir", str(tmp_path))[1]) == [{"name": "x"}]


@pytest.mark.parametrize(
    ("status", "reply", "text"),
    [
        (400, {"message": "init.luau:3: expected 'end'", "code": "script_error"}, "init.luau:3: expected 'end'"),
        (404, {"message": "no template x"}, "no template x"),
        (400, {"message": "bad name", "hint": "only letters"}, "bad name (only letters)"),
        (502, b"<html>", "<html>"),
        (503, b"", "503"),
    ],
)
def test_refusal_of_the_server_is_one_line(capsys, server, tmp_path, status, reply, text):
    _, answers = server
    answers.append((status, reply))
    code, line = one_line(capsys, "template", "show", "5", "x", "--data-dir", str(tmp_path))
    assert code == 1
    assert text in line


def test_mock_say_prints_what_came_back(capsys, server, tmp_path):
    asked, answers = server
    answers.append((200, {"sent": {"id": "1"}, "replies": [{"author": {"username": "tw"}, "content": "hi you"}]}))
    code, out, _ = tw(capsys, "mock", "say", "5", "hi", "--wait", "1.5", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "tw: hi you\n")
    assert asked == [("POST", "/mock/say", {"guild_id": "5", "content": "hi", "wait_s": 1.5})]


def test_mock_say_without_an_answer_names_what_is_not_ready(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, {"sent": {"id": "1"}, "replies": []}))
    answers.append((503, {"ready": False, "parts": {"database": True, "workers": False, "worker.1": False}}))
    code, out, err = tw(capsys, "mock", "say", "5", "hi", "--wait", "0", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "")
    assert err == "nothing came back within 0 s; not ready: workers, worker.1\n"


def test_mock_say_to_a_server_without_readyz_keeps_to_its_own_matter(capsys, server, tmp_path):
    _, answers = server
    answers.extend([(200, {"replies": []}), (404, {"message": "Not Found"})])
    code, _, err = tw(capsys, "mock", "say", "5", "hi", "--wait", "0", "--data-dir", str(tmp_path))
    assert (code, err) == (0, "nothing came back within 0 s\n")


def test_url_without_a_token_says_where_to_go_instead(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        code, line = one_line(capsys, "template", "list", "5", "--url", url)
        thread.join()
    assert code == 1
    assert "without --url" in line


def test_folder_without_luau_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"no \.luau or \.lua files"):
        read_files(tmp_path)


def test_url_and_token_reach_a_server_over_tcp(capsys, monkeypatch):
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                heads.append(connection.recv(65536).decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("TW_TOKEN", "secret")
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/"
        assert tw(capsys, "template", "list", "5", "--url", url)[0] == 0
        thread.join()
    assert heads[0].startswith("GET /api/guilds/5/templates HTTP/1.1\r\n")
    assert "\r\nAuthorization: secret\r\n" in heads[0]


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["template", "show", "5", "\udcff"], 2, "is not UTF-8 text"),
        (["kv", "get", "5", "\udcff", "--scope", "s"], 2, "is not UTF-8 text"),
        (["kv", "set", "5", "k\udcff", "1", "--scope", "s"], 2, "is not UTF-8 text"),
        (["kv", "set", "5", "k", "NaN", "--scope", "s"], 1, "JSON"),
        (["kv", "set", "5", "k", "1e400", "--scope", "s"], 1, "JSON"),
        (["kv", "find", "5", "--token", "a\nb", "--url", "http://127.0.0.1:1"], 8, "--token"),
        (["kv", "find", "five"], 2, "'five' is not a whole number"),
    ],
)
def test_what_cannot_be_sent_is_one_line(capsys, server, tmp_path, args, code, part):
    found = one_line(capsys, *args, "--data-dir", str(tmp_path))
    assert found[0] == code and part in found[1], found
    assert server[0] == []


def test_data_folder_that_is_a_file_has_no_server(capsys, tmp_path):
    (tmp_path / "x").write_text("")
    code, err = one_line(capsys, "kv", "find", "5", "--data-dir", str(tmp_path / "x"))
    assert (code, "no server answers" in err) == (9, True)


def test_a_terminal_gets_nothing_to_obey(capsys, server, tmp_path):
    _, answers = server
    answers += [(200, {"name": "x", "files": {"a.luau": "\x1b[2J\r\n\tä\u202e\x9b"}})] * 2
    answers.append((400, {"message": "boom \x1b[31m"}))
    out = tw(capsys, "template", "show", "5", "x", "--source", "--data-dir", str(tmp_path))[1]
    assert "\n\\u001b[2J\r\n\tä\\u202e\\u009b\n" in out
    as_json = tw(capsys, "template", "show", "5", "x", "--json", "--data-dir", str(tmp_path))[1]
    assert json.loads(as_json)["files"]["a.luau"] == "\x1b[2J\r\n\tä\u202e\x9b"
    assert not {"\x1b", "\x9b", "\u202e"} & set(as_json)
    assert "boom \\u001b[31m" in one_line(capsys, "template", "show", "5", "x", "--data-dir", str(tmp_path))[1]
