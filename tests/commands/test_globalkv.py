"""`tw globalkv`: what a server is asked, and what is said of its answer."""

import json

import pytest

from tests.commands.lines import tw

PLACE = "/i/global-kvs/a%2Fb/key/1"
TOLD = {"scope": "a/b", "key": "key", "version": 1}
ROW = {**TOLD, "review_state": "pending", "owner_type": "guild", "owner_id": "5", "price": None, "short": "what it is"}


def _run(capsys, tmp_path, *args):
    return tw(capsys, "globalkv", *args, "--data-dir", str(tmp_path))


def test_list_shows_what_waits_and_where_to_go_on(capsys, server, tmp_path):
    asked, answers = server
    answers.append((200, {"items": [ROW, {**ROW, "owner_type": "staff", "price": 7}], "after": "1:key:a/b"}))
    code, out, err = _run(capsys, tmp_path, "list", "--limit", "2")
    assert (code, asked) == (0, [("GET", "/i/global-kvs?state=pending&limit=2", None)])
    assert out == "a/b key 1  pending  guild 5  what it is\na/b key 1  pending  staff  price 7  what it is\n"
    assert err == "note: there are more: --after '1:key:a/b'\n"


def test_list_goes_on(capsys, server, tmp_path):
    asked, answers = server
    answers.append((200, {"items": [], "after": None}))
    code, out, _ = _run(capsys, tmp_path, "list", "--state", "denied", "--after", "1:key:a/b")
    assert (code, out) == (0, "nothing is denied\n")
    assert asked[0][1] == "/i/global-kvs?state=denied&limit=100&after=1%3Akey%3Aa%2Fb"


def test_show_tells_data_and_buyers(capsys, server, tmp_path):
    asked, answers = server
    bought = {"owner_type": "user", "owner_id": "8", "price": 3, "granted_by": "42"}
    answers += [
        (200, {"partial": {**ROW, "long": "more", "public_metadata": {}}, "data": {"type": "Value", "data": ["ä"]}}),
        (200, {"items": [bought], "after": None}),
    ]
    code, out, _ = _run(capsys, tmp_path, "show", "a/b", "key", "1")
    assert (code, [a[:2] for a in asked]) == (0, [("GET", PLACE), ("GET", PLACE + "/purchases")])
    assert out.splitlines()[1:] == ["more", "metadata: {}", 'data: ["ä"]', "bought by user 8 for 3, noted by 42"]


def test_publish_sends_the_file_and_what_the_flags_say(capsys, server, tmp_path):
    asked, answers = server
    (tmp_path / "data.json").write_text('{"a": null}')
    answers += [(201, {**TOLD, "review_state": "pending"}), (201, {**TOLD, "review_state": "approved"})]
    assert _run(capsys, tmp_path, "publish", "a/b", "key", "1", "data.json", "--short", "x")[0] == 0
    flags = ["--long", "l", "--metadata", '{"t": 1}', "--public", "--price", str(2**40), "--approved"]
    code, out, _ = _run(capsys, tmp_path, "publish", "a/b", "key", "1", "data.json", "--short", "x", *flags)
    assert (code, out) == (0, "a/b key 1: published, approved\n")
    least = {**TOLD, "short": "x", "data": {"a": None}}
    assert [a[2] for a in asked] == [
        least,
        {
            **least,
            "long": "l",
            "public_metadata": {"t": 1},
            "public_data": True,
            "price": 2**40,
            "review_state": "approved",
        },
    ]


@pytest.mark.parametrize(
    ("args", "expected", "answer", "told"),
    [
        (("review", "a/b", "key", "1", "approved"), ("PUT", PLACE + "/review", {"state": "approved"}), {}, "approved"),
        (("price", "a/b", "key", "1", str(2**40)), ("PUT", PLACE + "/price", {"price": 2**40}), {}, f"price {2**40}"),
        (("price", "a/b", "key", "1", "none"), ("PUT", PLACE + "/price", {"price": None}), {}, "free"),
        (
            ("grant", "a/b", "key", "1", "5"),
            ("PUT", PLACE + "/purchases/guilds/5", None),
            {"price": 7},
            "bought by guild 5 for 7",
        ),
        (
            ("grant", "a/b", "key", "1", "5", "--user", "--paid", "3"),
            ("PUT", PLACE + "/purchases/users/5", {"price": 3}),
            {"price": 3},
            "bought by user 5 for 3",
        ),
        (
            ("revoke", "a/b", "key", "1", "5"),
            ("DELETE", PLACE + "/purchases/guilds/5", None),
            {},
            "no longer bought by guild 5",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_an_action_is_one_request(capsys, server, tmp_path, args, expected, answer, told):
    asked, answers = server
    answers += [(200, {**TOLD, **answer})] * 2
    assert _run(capsys, tmp_path, *args) == (0, f"a/b key 1: {told}\n", "")
    code, out, _ = _run(capsys, tmp_path, *args, "--json")
    assert (code, json.loads(out)) == (0, {**TOLD, **answer})
    assert asked == [expected] * 2


@pytest.mark.parametrize(
    "args",
    [
        ("show", "..", "key", "1"),
        ("show", "s", "key", "0"),
        ("price", "s", "key", "1", "-1"),
        ("price", "s", "key", "1", "free"),
        ("price", "s", "key", "1", str(2**63)),
        ("review", "s", "key", "1", "liked"),
        ("grant", "s", "key", "1", "0"),
        ("publish", "s", "key", "1", "missing.json", "--short", "x"),
        ("publish", "s", "key", "1", "bad.json", "--short", "x"),
        ("publish", "s", "key", "1", "bad.json"),
    ],
)
def test_what_is_wrong_is_refused_before_a_server_is_asked(capsys, server, tmp_path, args):
    asked, _ = server
    (tmp_path / "bad.json").write_text("{")
    code, out, err = _run(capsys, tmp_path, *args)
    assert (code in (1, 2), out, asked) == (True, "", [])
    assert err.count("\n") == 1, err
