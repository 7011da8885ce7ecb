"""`tw kv`: what a server is asked, and what is said of its answer."""

import json

import pytest

from tests.commands.lines import one_line, tw

RECORD = {
    "id": "f00",
    "key": "ban:1\n",
    "scopes": ["a", "b c"],
    "value": {"x": "ü"},
    "version": 3,
    "expires_at": None,
    "resume": False,
    "attempts": 0,
    "due_at": None,
    "given_up": False,
}


@pytest.fixture
def ask(capsys, server, tmp_path):
    return lambda *args: tw(capsys, "kv", *args, "--data-dir", str(tmp_path))


def test_get_prints_the_value_as_json(ask, server):
    asked, answers = server
    answers += [(200, RECORD), (200, RECORD)]
    assert ask("get", "5", "k&", "--scope", "a", "--scope", "b c", "--tagged")[:2] == (0, '{"x": "ü"}\n')
    assert asked == [("GET", "/guilds/5/kv/record?key=k%26&scope=a&scope=b+c&tagged=1", None)]
    assert json.loads(ask("get", "5", "k", "--scope", "a", "--user", "--json")[1]) == RECORD


def test_set_sends_json(ask, server):
    asked, answers = server
    answers.append((200, {"key": "k", "version": 2}))
    flags = ["--scope", "s", "--expires-at", "2027-01-31T12:00:00", "--resume", "--if-version", "1"]
    assert ask("set", "5", "k", '["x"]', *flags, "--user")[:2] == (0, "k: version 2\n")
    body = {
        "key": "k",
        "scopes": ["s"],
        "value": ["x"],
        "tagged": False,
        "expires_at": "2027-01-31T12:00:00+00:00",
        "resume": True,
        "if_version": 1,
    }
    assert asked == [("PUT", "/users/5/kv/record", body)]


@pytest.mark.parametrize(
    "args",
    [
        ("set", "5", "k", "1"),
        ("set", "5", "k", "1", "--scope", "s", "--expires-at", "soon"),
        ("set", "5", "k", "1", "--scope", "s", "--expires-at", "9999-12-31T23:59:59-10:00"),
        ("set", "5", "k", "1", "--scope", "s", "--expires-in", "nan"),
        ("set", "5", "k", "1", "--scope", "s", "--expires-at", "2027-01-01", "--expires-in", "5"),
        ("get", "5", "k"),
        ("rm", "5"),
        ("rm", "5", "k"),
        ("rm", "5", "k", "--scope", "s", "--id", "x"),
    ],
)
def test_what_says_too_little_or_too_much_is_refused(ask, server, args):
    code, _, err = ask(*args)
    assert code == 2
    assert "Traceback" not in err
    assert server[0] == []


@pytest.mark.parametrize("value", ["text", '"a', "[" * 100_000])
def test_a_value_that_is_no_json_is_refused_with_how_a_text_is_written(capsys, server, tmp_path, value):
    code, text = one_line(capsys, "kv", "set", "5", "k", value, "--scope", "s", "--data-dir", str(tmp_path))
    assert (code, server[0]) == (1, [])
    assert text.startswith("tw: VALUE is not JSON: ")
    assert text.endswith("""(a text stands in quotes: '"text"')""")


def test_find_goes_through_pages_and_quotes_what_scripts_wrote(ask, server):
    asked, answers = server
    late = {**RECORD, "expires_at": "2020-01-01T00:00:00Z", "attempts": 10, "given_up": True, "resume": True}
    answers += [(200, {"records": [RECORD], "after": "f00:x"}), (200, {"records": [late], "after": "f01:y"})]
    code, out, _ = ask("find", "5", "ban:%", "--limit", "2")
    assert code == 0
    assert out.splitlines() == [
        r'"ban:1\n"  ["a" "b c"]  {"x": "ü"}  (version 3)  f00',
        r'"ban:1\n"  ["a" "b c"]  {"x": "ü"}  (version 3; expired 2020-01-01T00:00:00Z, given up after 10 attempts; resume)  f00',
        'there are more: --after "f01:y"',
    ]
    assert [path for _, path, _ in asked] == [
        "/guilds/5/kv?query=ban%3A%25&limit=2",
        "/guilds/5/kv?query=ban%3A%25&limit=1&after=f00%3Ax",
    ]
    answers.append((200, {"records": [], "after": None}))
    assert ask("find", "5", "--scope", "s")[1] == "no keys\n"


def test_rm_takes_a_key_or_an_id(ask, server):
    asked, answers = server
    answers += [(200, {"deleted": 2}), (200, {"deleted": 1})]
    assert ask("rm", "5", "k", "--scope", "s")[:2] == (0, "2 removed\n")
    assert ask("rm", "5", "--id", "f00")[0] == 0
    assert [path for _, path, _ in asked] == ["/guilds/5/kv/record?key=k&scope=s", "/guilds/5/kv/record?id=f00"]
