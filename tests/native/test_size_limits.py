"""Limits on what is compiled and what crosses: sources, values, answers, event data."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgpack
import pytest

from pytw.types import Outcome

from .conftest import Driver, Failed

Make = Callable[..., Driver]


def test_a_source_that_is_too_long_is_refused(make: Make) -> None:
    d = make(source_bytes_max=2_000)
    done = d.bad("--" + "x" * 3_000)
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "size") and "2000 allowed" in done.error
    failed = d.wait(d.check("--" + "x" * 3_000))
    assert isinstance(failed, Failed) and (failed.code, failed.hint) == ("limit_exceeded", "size")
    d.load(("t", "--" + "x" * 3_000))
    assert d.done(d.event()).limit == "size"


# ---- values that cross -----------------------------------------------------------------------------

DEEP = "(function() local t = {} for _ = 1, 70 do t = {t} end return t end)()"
LONG = "string.rep('x', 5e6)"
MANY = "table.create(100001, 1)"


@pytest.mark.parametrize(("value", "limit"), [(DEEP, "depth"), (LONG, "size"), (MANY, "size")])
@pytest.mark.parametrize("way", ["return {}", "host('x', {})", "coroutine.wrap(function() host('x', {}) end)()"])
def test_a_value_that_is_too_deep_or_too_large_ends_its_event_by_the_limits_name(
    make: Make, value: str, limit: str, way: str
) -> None:
    d = make()
    done = d.bad(way.replace("{}", value))
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, limit) and not d.calls
    assert f"(limit: {limit})" in done.error


def test_a_breach_that_was_caught_is_text_with_the_limits_name_and_value(make: Make) -> None:
    d = make()
    assert "deeper than 64 levels" in d.ok(f"return select(2, pcall(host, 'x', {DEEP}))")
    assert "more than 100,000 parts (limit: size)" in d.ok(f"return select(2, pcall(host, 'x', {MANY}))")
    done = d.bad(f"pcall(host, 'x', {DEEP}) error('later')")
    assert (done.outcome, done.limit) == (Outcome.SCRIPT_ERROR, None)
    done = d.bad("error('I say (limit: depth)')")
    assert (done.outcome, done.limit) == (Outcome.SCRIPT_ERROR, None)


def test_an_answer_that_is_too_deep_is_a_breach_where_the_call_was_made(make: Make) -> None:
    d = make()
    d.holding = True
    answer: list[object] = []
    for _ in range(70):
        answer = [answer]
    for source, expected in (("host('x')", "depth"), ("return (pcall(host, 'x'))", None)):
        number = d.script(source)
        d.until(lambda: bool(d.calls))
        d.engine.answer(d.calls.pop()[0], msgpack.packb(answer))
        assert d.done(number).limit == expected


def test_host_calls_that_are_refused_breach_the_limit_on_calls(make: Make) -> None:
    d = make(threads_max=10)
    done = d.bad("for _ = 1, 10 do task.spawn(host, 'never') end host('never')")
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "calls") and "10 may" in done.error


def test_event_data_that_is_too_deep_breaches_the_limit_on_depth(make: Make) -> None:
    d = make()
    d.load(("t", "return function(ctx) return type(ctx:event().data) end"))
    assert d.done(d.event(b"[" * 64 + b"]" * 64)).value == "table"
    done = d.done(d.event(b"[" * 65 + b"]" * 65))
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "depth") and "64 levels" in done.error
    assert d.done(d.event(b"[1,]")).outcome is Outcome.SCRIPT_ERROR


def test_events_of_one_name_may_look_as_different_as_they_like(make: Make) -> None:
    """What is kept of one event's keys and sizes changes nothing about the next."""
    d = make()
    d.load(("t", "return function(ctx) return ctx:event().data end"))
    shapes = [
        {f"key{i}": {"a": [1] * i} for i in range(1, 40)},
        {"key1": 1, "key2": [{}, {"key1": "x"}], "key3": []},
        [{"key1": None, "key2": True}, "key1"],
        {f"{i:04}-{'k' * (i % 40)}": i for i in range(600)},
    ]
    for _ in range(3):
        for shape in shapes:
            got = d.done(d.event(json.dumps(shape).encode())).value
            assert got == json.loads(json.dumps(shape), object_hook=_without_nulls)


def _without_nulls(found: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in found.items() if value is not None}


def test_huge_empty_tables_do_not_hold_the_thread_on_their_way_out(make: Make) -> None:
    d = make()
    hollow = d.done(d.script("local t = table.create(500000) return table.create(90000, t)"))
    assert (hollow.outcome, hollow.limit) == (Outcome.LIMIT_EXCEEDED, "unbreakable")
