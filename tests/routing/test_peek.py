"""`peek` against a tree made by orjson."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytw.errors import ProtocolError
from pytw.routing import Peek, peek
from pytw.types import ID_MAX, USER_BIT

#: Trees of JSON are slow to make, above all on a busy machine.
slow_to_make = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

MESSAGE = Path(__file__).with_name("message_create.json").read_bytes().strip()
REACTION = Path(__file__).with_name("message_reaction_remove.json").read_bytes().strip()

ACTOR_EVENTS = ["MESSAGE_REACTION_ADD", "TYPING_START", "ENTITLEMENT_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE"]
NAMES = [
    "MESSAGE_CREATE",
    "MESSAGE_UPDATE",
    "MESSAGE_DELETE",
    "GUILD_CREATE",
    "GUILD_DELETE",
    "INTERACTION_CREATE",
    "GUILD_MEMBER_ADD",
    "VOICE_STATE_UPDATE",
    "THREAD_MEMBER_UPDATE",
    *ACTOR_EVENTS,
]


def snowflake(value: Any) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= ID_MAX:
        return int(text)
    return 0


def id_of(value: Any) -> int:
    return snowflake(value.get("id")) if isinstance(value, dict) else 0


def expected(frame: dict[str, Any]) -> dict[str, Any]:
    """What `peek` must say, by the table of spec/discord.md 1.9."""
    t, d = frame.get("t"), frame.get("d")
    out = {"op": frame["op"], "t": t, "s": frame.get("s"), "guild_id": 0, "author_id": 0, "webhook": False}
    if not isinstance(d, dict) or t is None:
        return out
    if "guild_id" in d:
        out["guild_id"] = snowflake(d["guild_id"])
    elif t in ("GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"):
        out["guild_id"] = snowflake(d.get("id"))
    if t in ("MESSAGE_CREATE", "MESSAGE_UPDATE"):
        out["author_id"] = id_of(d.get("author"))
    elif t == "INTERACTION_CREATE":
        member = d.get("member")
        out["author_id"] = (id_of(member.get("user")) if isinstance(member, dict) else 0) or id_of(d.get("user"))
    elif t in ACTOR_EVENTS:
        out["author_id"] = snowflake(d.get("user_id"))
    out["webhook"] = d.get("webhook_id") is not None
    return out


def seen(p: Peek) -> dict[str, Any]:
    return {k: getattr(p, k) for k in ("op", "t", "s", "guild_id", "author_id", "webhook")}


nasty = st.sampled_from(['"', "\\", '\\"', '{"guild_id":"1"}', "}", "]", "[[", '"}', "\\\\", "é⚓", "\u2028", "a" * 40])
texts = st.lists(nasty | st.text(max_size=6), max_size=3).map("".join)
snowflakes = st.integers(0, 1 << 65).map(str) | st.integers(0, 1 << 63) | st.none() | texts | st.just("12\u0031")
users = st.fixed_dictionaries({}, optional={"id": snowflakes, "username": texts, "user": st.just({"id": "1"})})
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53), 1 << 53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(texts, t, max_size=3), max_leaves=5)
keys = st.sampled_from(["id", "guild_id", "author", "user", "user_id", "member", "webhook_id"])
bodies = st.dictionaries(texts, trees, max_size=4).flatmap(
    lambda noise: st.fixed_dictionaries(
        {k: st.just(v) for k, v in noise.items() if k not in {"id", "guild_id", "author", "user", "user_id", "member"}},
        optional={
            "id": snowflakes,
            "guild_id": snowflakes,
            "author": users | trees,
            "user": users | trees,
            "user_id": snowflakes,
            "member": st.fixed_dictionaries({}, optional={"user": users, "id": snowflakes}) | trees,
            "webhook_id": snowflakes,
            "nested": st.dictionaries(keys, trees, max_size=3),
        },
    )
)
frames = st.fixed_dictionaries(
    {"op": st.integers(0, 11)},
    optional={
        "t": st.sampled_from(NAMES) | st.none() | texts,
        "s": st.none() | st.integers(0, 1 << 40),
        "d": bodies | trees,
    },
).flatmap(lambda f: st.permutations(list(f.items())).map(dict))


def shuffled(value: Any) -> Any:
    """Objects with their keys in reverse order, at every level."""
    if isinstance(value, dict):
        return {k: shuffled(v) for k, v in reversed(list(value.items()))}
    return [shuffled(v) for v in value] if isinstance(value, list) else value


def test_sample_frames() -> None:
    p = peek(MESSAGE)
    assert seen(p) == expected(orjson.loads(MESSAGE))
    assert (p.guild_id, p.author, p.tenant) == (410000000000000001, "287654321098765432", 410000000000000001)
    assert orjson.loads(MESSAGE[p.start : p.end]) == orjson.loads(MESSAGE)["d"]
    p = peek(REACTION)
    assert (p.t, p.s, p.author_id) == ("MESSAGE_REACTION_REMOVE", 48214, 287654321098765432)


@slow_to_make
@given(frames, st.sampled_from([0, orjson.OPT_INDENT_2, orjson.OPT_SORT_KEYS]))
def test_agrees_with_a_tree(frame: dict[str, Any], option: int) -> None:
    for value in (frame, shuffled(frame)):
        data = orjson.dumps(value, option=option)
        p = peek(data)
        assert seen(p) == expected(value)
        if "d" in value:
            assert orjson.loads(data[p.start : p.end]) == value["d"]
        else:
            assert p.start == p.end


@slow_to_make
@given(frames)
def test_escaped_keys_and_text_are_read_as_text(frame: dict[str, Any]) -> None:
    r"""Every character as \\uXXXX must not hide a guild or a name."""

    def escape(value: Any) -> str:
        if isinstance(value, str):
            units = value.encode("utf-16-be")
            return '"' + "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)) + '"'
        if isinstance(value, dict):
            return "{" + ",".join(f"{escape(k)}:{escape(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(escape, value)) + "]"
        return json.dumps(value)

    assert seen(peek(escape(frame).encode())) == expected(frame)


@slow_to_make
@given(frames, st.data())
def test_a_frame_cut_anywhere_is_refused(frame: dict[str, Any], data: st.DataObject) -> None:
    whole = orjson.dumps(frame)
    with pytest.raises(ProtocolError):
        peek(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_each_prefix_of_a_message_is_refused() -> None:
    for size in range(len(MESSAGE)):
        with pytest.raises(ProtocolError):
            peek(MESSAGE[:size])


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\tsdop0123 n', max_size=80).map(str.encode))
def test_random_bytes_give_a_peek_or_a_protocol_error(data: bytes) -> None:
    for frame in (data, b'{"op":0,"t":"MESSAGE_CREATE","d":' + data, b'{"op":0,"d":{' + data + b"}}"):
        try:
            p = peek(frame)
        except ProtocolError:
            continue
        assert 0 <= p.start <= p.end <= len(frame)


def test_direct_messages_belong_to_their_author() -> None:
    p = peek(b'{"t":"MESSAGE_CREATE","s":1,"op":0,"d":{"channel_id":"5","author":{"id":"77"}}}')
    assert p.tenant == 77 | USER_BIT
    p = peek(b'{"t":"INTERACTION_CREATE","s":1,"op":0,"d":{"user":{"id":"78"}}}')
    assert p.tenant == 78 | USER_BIT


def test_the_last_of_two_equal_keys_counts() -> None:
    p = peek(b'{"op":1,"op":0,"d":{"guild_id":"1","guild_id":"2"},"t":"MESSAGE_DELETE","d":{"guild_id":"3"}}')
    assert (p.op, p.guild_id) == (0, 3)


def test_deep_nesting_costs_no_stack() -> None:
    assert peek(b'{"op":0,"t":"X","d":{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}}").guild_id == 0
    with pytest.raises(ProtocolError):
        peek(b'{"op":0,"d":' + b"[" * 1_000_000)


def test_frames_without_an_event() -> None:
    assert peek(b'{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}').op == 10
    assert peek(b'{"op":9,"d":false}').t is None
    for bad in (
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"op":"0"}',
        b'{"op":0} x',
        b'{"op":99999999999999999999}',
        b'{"op":0,"s":"1"}',
    ):
        with pytest.raises(ProtocolError):
            peek(bad)


def test_only_bytes_are_taken() -> None:
    for bad in ("{}", None, bytearray(b"{}")):
        with pytest.raises(TypeError):
            peek(bad)  # type: ignore[arg-type]
