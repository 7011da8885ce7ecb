"""`tw template versions|diff|deploy|rollback|undelete`, `put --shop` and `tw shop`: what a server is asked, and what is said."""

import pytest

from tests.commands.lines import one_line, tw

ANSWER = {"name": "x", "version": 3, "events": ["MESSAGE"], "paused": False, "running": True}
DEPLOYED = "x: version 3 deployed, listens for MESSAGE\n"
LISTING = {"name": "greet", "version": "1.10", "state": "pending", "owner": {"type": "guild", "id": "5"}, "short": "hi"}
FLUSHED = {"name": "greet", "version": "1.10", "tenants": 3, "away": 1}


@pytest.mark.parametrize(
    ("args", "asked_for", "said"),
    [
        (["deploy", "5", "x", "3"], ("POST", "/guilds/5/templates/x/deploy", {"version": 3}), DEPLOYED),
        (["rollback", "5", "x"], ("POST", "/guilds/5/templates/x/rollback", {}), DEPLOYED),
        (["rollback", "5", "x", "3"], ("POST", "/guilds/5/templates/x/rollback", {"version": 3}), DEPLOYED),
        (["undelete", "5", "x", "--user"], ("POST", "/users/5/templates/x/undelete", {}), DEPLOYED),
        (
            ["put", "5", "x", "--shop", "$shop/greet#latest"],
            ("PUT", "/guilds/5/templates/x", {"shop": "$shop/greet#latest"}),
            DEPLOYED,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_change_of_what_runs(capsys, server, tmp_path, args, asked_for, said):
    asked, answers = server
    answers.append((200, ANSWER))
    assert tw(capsys, "template", *args, "--data-dir", str(tmp_path)) == (0, said, "")
    assert asked == [asked_for]


def test_what_the_shop_runs_is_told(capsys, server, tmp_path):
    answers = server[1]
    answers.append((200, {**ANSWER, "version": None, "shop_ref": "$shop/greet#latest", "shop_version": "1.10"}))
    out = tw(capsys, "template", "put", "5", "x", "--shop", "$shop/greet#latest", "--data-dir", str(tmp_path))[1]
    assert out == "x: $shop/greet#latest (now 1.10) deployed, listens for MESSAGE\n"


def test_draft_is_saved_and_not_deployed(capsys, server, tmp_path):
    asked, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((200, {"name": "x", "version": 4, "deployed": False, "events": []}))
    out = tw(capsys, "template", "put", "5", "x", "x.luau", "--draft", "--data-dir", str(tmp_path))[1]
    assert out == "x: version 4 saved as a draft\n"
    assert asked[0][2]["deploy"] is False


def test_broken_version_is_told_with_its_number(capsys, server, tmp_path):
    answers = server[1]
    (tmp_path / "x.luau").write_text("return (")
    answers.append(
        (422, {"message": "x does not compile: init.luau:1: no", "hint": "saved as version 4, which does not run"})
    )
    code, line = one_line(capsys, "template", "put", "5", "x", "x.luau", "--data-dir", str(tmp_path))
    assert (code, "init.luau:1: no (saved as version 4" in line) == (1, True)


def test_versions_say_which_runs_and_which_cannot(capsys, server, tmp_path):
    asked, answers = server
    row = {"digest": "ab" * 32, "created_at": "2026-01-02T03:04:05+00:00", "author": "9", "message": "", "runs": False}
    rows = [
        {**row, "version": 4, "error": "init.luau:1: no\nmore"},
        {**row, "version": 3, "runs": True, "message": "mended\n9  it"},
        {**row, "version": 2, "deployed_at": "2026-01-02T03:04:05+00:00"},
        {**row, "version": 1, "author": None},
    ]
    answers.append((200, {"versions": rows}))
    out = tw(capsys, "template", "versions", "5", "x", "--before", "9", "--data-dir", str(tmp_path))[1]
    assert asked[0][:2] == ("GET", "/guilds/5/templates/x/versions?limit=20&before=9")
    assert out.splitlines() == [
        "4  abababababab  2026-01-02 03:04:05  9  broken: init.luau:1: no",
        "3  abababababab  2026-01-02 03:04:05  9  runs  mended 9 it",
        "2  abababababab  2026-01-02 03:04:05  9  ran",
        "1  abababababab  2026-01-02 03:04:05  -  never ran",
    ]


def test_diff_is_against_what_runs_unless_a_second_version_is_named(capsys, server, tmp_path):
    asked, answers = server
    old = {"version": 1, "entry": "init", "files": {"init.luau": "a\nb\n", "gone.luau": "x\n"}}
    new = {"version": 3, "entry": "main", "files": {"init.luau": "a\nc\n", "new.luau": "y\n"}}
    for more in ([], ["3"]):
        answers += [(200, old), (200, new)]
        lines = tw(capsys, "template", "diff", "5", "x", "1", *more, "--data-dir", str(tmp_path))[1].splitlines()
        assert lines[0] == "entry: init -> main"
        assert {"--- init.luau (version 1)", "+++ init.luau (version 3)", "-b", "+c", "-x", "+y"} <= set(lines)
    paths = [path for _, path, _ in asked]
    assert paths == [f"/guilds/5/templates/x{end}" for end in ("/versions/1", "", "/versions/1", "/versions/3")]
    answers += [(200, old), (200, old)]
    assert tw(capsys, "template", "diff", "5", "x", "1", "1", "--data-dir", str(tmp_path))[1] == "no difference\n"


@pytest.mark.parametrize(
    ("args", "asked_for", "answer", "said"),
    [
        (
            ["review", "greet", "1.10", "approved", "--note", "fine"],
            ("PUT", "/i/shop/greet/1.10/review", {"state": "approved", "note": "fine"}),
            FLUSHED,
            "$shop/greet#1.10: approved; 2 tenants run what follows from it; 1 more when their worker is back",
        ),
        (
            ["withdraw", "greet", "1.10"],
            ("PUT", "/i/shop/greet/1.10/withdraw", {}),
            {**FLUSHED, "away": 0},
            "$shop/greet#1.10: withdrawn; 3 tenants run what follows from it",
        ),
        (
            ["list", "greet", "--state", "pending"],
            ("GET", "/i/shop?name=greet&state=pending&limit=100", None),
            {"templates": [LISTING], "after": None},
            "$shop/greet#1.10  pending  guild 5  hi",
        ),
        (
            ["show", "greet", "1.10", "--source"],
            ("GET", "/i/shop/greet/1.10", None),
            {**LISTING, "events": ["A"], "allowed_caps": ["kv:*"], "files": {"init.luau": "return 1"}},
            "$shop/greet#1.10  pending  guild 5  hi\nevents: A\ncapabilities: kv:*\n  init.luau  8 bytes\n\n"
            "-- init.luau\nreturn 1",
        ),
        (
            ["publish", "greet", "1.10", "x.luau", "--short", "hi", "--guild", "5"],
            (
                "PUT",
                "/i/shop/greet/1.10",
                {"files": {"init.luau": "return 1"}, "short": "hi", "owner": {"type": "guild", "id": "5"}},
            ),
            {"events": ["A"]},
            "$shop/greet#1.10: published, listens for A, waits for its review",
        ),
        (
            ["publish", "greet", "1.10", "x.luau", "--user", "5", "--cap", "kv:*", "--event", "A"],
            (
                "PUT",
                "/i/shop/greet/1.10",
                {
                    "files": {"init.luau": "return 1"},
                    "events": ["A"],
                    "allowed_caps": ["kv:*"],
                    "owner": {"type": "user", "id": "5"},
                },
            ),
            {"events": ["A"]},
            "$shop/greet#1.10: published, listens for A, waits for its review",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_shop_command_asks_its_route(capsys, server, tmp_path, args, asked_for, answer, said):
    asked, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((200, answer))
    assert tw(capsys, "shop", *args, "--data-dir", str(tmp_path))[:2] == (0, said + "\n")
    assert asked == [asked_for]
