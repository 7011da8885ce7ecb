"""`tw tenant`: what a server is asked, and what is said of its answer."""

import pytest

from tests.commands.lines import tw

STATE = {"events": ["A", "B"], "data": {"k": 1}, "banned": True, "revision": 3}


@pytest.mark.parametrize(
    ("args", "answer", "expected", "said"),
    [
        (["ban", "5"], {"banned": True, "running": True}, ("PUT", "/guilds/5/ban"), "5: banned\n"),
        (["unban", "5", "--user"], {"banned": False}, ("DELETE", "/users/5/ban"), "5: not banned\n"),
        (["show", "5"], STATE, ("GET", "/guilds/5/state"), "banned\nevents: A, B\ndata keys: k\nrevision: 3\n"),
    ],
)
def test_tenant_command_asks_its_route(capsys, server, tmp_path, args, answer, expected, said):
    asked, answers = server
    answers.append((200, answer))
    assert tw(capsys, "tenant", *args, "--data-dir", str(tmp_path))[:2] == (0, said)
    assert asked[0][:2] == expected


def test_ban_tells_that_its_worker_is_away(capsys, server, tmp_path):
    server[1].append((202, {"banned": True, "running": False, "hint": "its worker is away"}))
    code, out, err = tw(capsys, "tenant", "ban", "5", "--data-dir", str(tmp_path))
    assert (code, out, err) == (0, "5: banned\n", "note: its worker is away\n")
