"""2.4 of the catalogue: threads, timers, waits and queues."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgpack
import pytest

from pytw.types import Outcome
from tests.native.conftest import on_a_busy_machine

from .conftest import ATTACKER, NEIGHBOUR_S, Arena, Case, ending, stands

Make = Callable[..., Arena]

CASES = {
    "S01": Case("local function f() task.spawn(f) task.spawn(f) end f()", {"calls", "cpu"}),
    "S01-deferred": Case("local function f() task.defer(f) task.defer(f) end f() task.wait(60)", {"calls", "cpu"}),
    "S01-in coroutines": Case(
        "local function f() coroutine.wrap(function() task.spawn(f) task.defer(f) end)() end f() task.wait(60)",
        {"calls", "cpu"},
    ),
    "S01-that wait": Case("while true do task.spawn(function() task.wait(60) end) end", {"cpu", "calls"}),
    "S01-that yield": Case("while true do task.spawn(coroutine.yield) end", {"cpu", "memory"}),
    "S03": Case("for i = 1, 1e6 do task.delay(3600, function() end) end", {"calls"}),
    "S03-in pcall": Case("while true do pcall(task.delay, 3600, function() end) end", {"cpu"}),
    "S03-cancelled": Case(
        "for i = 1, 3000 do task.cancel(task.delay(3600, function() end)) end return 'room'", {"ok"}, "room"
    ),
    "S03-huge": Case("return pcall(task.delay, 1e300, print) or pcall(task.wait, 1 / 0)", {"ok"}, False),
    "S03-not a number": Case("return task.wait(0 / 0) < 1 and task.wait(-1 / 0) < 1", {"ok"}, True),
    "S06": Case("task.cancel(coroutine.running()) return 5", {"cancelled"}),
    "S06-in a child": Case(
        "local me = coroutine.running() task.spawn(function() task.cancel(me) end) task.wait(60)", {"cancelled"}
    ),
    "S06-the running parent": Case(
        "local me = coroutine.running() local co = coroutine.create(function() task.cancel(me) return 1 end) coroutine.resume(co) task.wait(60)",
        {"cancelled"},
    ),
    "S06-twice": Case(
        "local t = task.delay(60, function() end) task.cancel(t) pcall(task.cancel, t) return coroutine.status(t)",
        {"ok"},
        "suspended",
    ),
    "S06-close": Case(
        "local co co = coroutine.create(function() return pcall(coroutine.close, co) end) local _, ok = coroutine.resume(co) return ok",
        {"ok"},
        False,
    ),
    "S06-close one that waits": Case(
        "local co = task.spawn(function() task.wait(0.05) end) coroutine.close(co) task.wait(0.1) return coroutine.status(co)",
        {"ok"},
        "dead",
    ),
    "S06-close one that calls": Case(
        "local co = task.spawn(host, 'never') coroutine.close(co) task.wait(0.05) return coroutine.status(co)",
        {"ok"},
        "dead",
    ),
    "S07": Case(
        "local ok, e = pcall(function() task.wait(0.05) error('z', 0) end) return tostring(ok) .. e", {"ok"}, "falsez"
    ),
    "S07-deep": Case(
        """local function f(n) if n == 0 then task.wait(0.05) error('z', 0) end local ok, e = pcall(f, n - 1) error(e, 0) end
        return select(2, pcall(f, 50))""",
        {"ok"},
        "z",
    ),
    "S08": Case("table.sort({2, 1}, function(a, b) task.wait() return a < b end)", {"error"}),
    "S08-gsub": Case("return (pcall(string.gsub, 'a', 'a', function() host('x') end))", {"ok"}, False),
    "S08-index": Case(
        "return (pcall(function() return setmetatable({}, {__index = function() task.wait() end}).x end))",
        {"ok"},
        False,
    ),
    "S08-yield": Case("return (pcall(table.sort, {2, 1}, coroutine.yield))", {"ok"}, False),
    "S09": Case(
        """local log = {}
        local co = coroutine.create(function() log[#log + 1] = tostring(task.wait(0.1)) coroutine.yield() log[#log + 1] = 'woken twice' end)
        coroutine.resume(co) coroutine.resume(co, 'fake')
        task.wait(0.2)
        return table.concat(log, ' ')""",
        {"ok"},
        "fake",
    ),
    "S09-again": Case(
        """local co = coroutine.create(function() for _ = 1, 20 do task.wait(0.05) end end)
        for _ = 1, 15 do coroutine.resume(co) end
        task.wait(0.06)
        return coroutine.status(co)""",
        {"ok"},
        "suspended",
    ),
    "S09-spawned": Case(
        "local co = coroutine.create(function() return task.wait(0.05) end) coroutine.resume(co) task.spawn(co, 1) task.spawn(co, 2) return coroutine.status(co)",
        {"ok"},
        "dead",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_scheduler(name: str) -> None:
    stands(CASES[name])


@on_a_busy_machine
def test_s05_a_thread_that_waits_for_no_time_runs_at_most_twenty_times_a_second() -> None:
    a = Arena()
    n = a.ok("local n, since = 0, os.clock() while os.clock() - since < 0.5 do task.wait(0) n += 1 end return n")
    a.engine.close()
    assert 1 <= n <= 11


def test_s08_the_error_says_why(arena: Make) -> None:
    error = arena().error("table.sort({2, 1}, function(a, b) task.wait() return a < b end)")
    assert "has to wait" in error and "table.sort" in error


def test_s10_a_forged_reply_is_not_the_hosts(arena: Make) -> None:
    """A thread that is resumed early gets what its resumer gives; the host's answer reaches no later wait of it."""
    a = arena()
    a.holding = True
    number = a.script(
        """local got = {}
        local co = coroutine.create(function() got[1] = host('a') got[2] = host('b') end)
        coroutine.resume(co) coroutine.resume(co, 'forged')
        task.wait(0.3)
        return got"""
    )
    a.until(lambda: len(a.calls) == 2)
    (first, *_), (second, *_) = a.calls
    a.engine.answer(first, msgpack.packb(["late"]))
    a.engine.answer(first, msgpack.packb(["twice"]))
    a.engine.answer(second + 1_000, msgpack.packb(["nobody's"]))
    a.pump(0.05)
    a.engine.answer(second, msgpack.packb(["right"]))
    assert a.done(number).value == ["forged", "right"]


def test_s10_an_answer_for_another_tenants_call_id_reaches_only_its_caller(arena: Make) -> None:
    a = arena()
    a.holding = True
    mine, other = a.script("return host('x', 1)"), a.script("return host('x', 2)", tenant=5)
    a.until(lambda: len(a.calls) == 2)
    for call, request, *_ in reversed(a.calls):
        a.engine.answer(call, msgpack.packb([request]))
    assert (a.done(mine).value, a.done(other).value) == (mine, other)


@on_a_busy_machine
def test_s11_everything_of_a_tenant_ends_with_it() -> None:
    a = Arena()
    a.script(
        "for _ = 1, 50 do task.spawn(host, 'never') task.delay(0.2, host, 'late') coroutine.wrap(task.wait)(60) end task.wait(60)"
    )
    a.until(lambda: len(a.calls) >= 8)
    start = time.monotonic()
    a.wait(a.drop())
    assert time.monotonic() - start < 0.1
    calls = list(a.calls)
    for call, *_ in calls:
        a.engine.answer(call, msgpack.packb([1]))
    a.pump(0.3)
    a.until(lambda: a.engine.stats()["closing"] == 0)
    assert a.calls == calls and a.engine.stats()["vms"] == 1
    a.recovers()
    a.engine.close()


@on_a_busy_machine
def test_s12_long_events_one_after_the_other_leave_the_neighbour_its_share() -> None:
    a = Arena(cpu_bucket_ms=10_000)
    number = a.script("local n = 0 while n < 4e7 do n += 1 end return n")
    seen = a.watch(number)
    a.engine.close()
    latencies = sorted(seen.latencies)
    assert len(latencies) > 20 and latencies[-1] < NEIGHBOUR_S and latencies[len(latencies) // 2] < 0.01


def test_s13_events_for_one_that_sleeps_are_bounded_in_number(arena: Make) -> None:
    a = arena(queue_events_max=1_000)
    a.load(("t", "return function() host('never') end"), tenant=ATTACKER)
    numbers = [a.event(tenant=ATTACKER, timeout_ms=3_000) for _ in range(10_000)]
    a.until(lambda: len(a.answers) >= 9_000)
    assert {(a.answers[n].outcome, a.answers[n].limit) for n in numbers if n in a.answers} == {(Outcome.SHED, "queue")}
    assert sum(n in a.answers for n in numbers) == 9_000 and a.engine.stats()["shed"] == 9_000
    assert a.sing() < 1


def test_s13_events_for_one_that_sleeps_are_bounded_in_bytes(arena: Make) -> None:
    a = arena()
    a.load(("t", "return {Sleep = function() host('never') end, E = function() return 1 end}"), tenant=ATTACKER)
    payload = b'"' + b"x" * (3 << 20) + b'"'
    numbers = [a.event(payload, name="Sleep", tenant=ATTACKER, timeout_ms=1_000) for _ in range(20)]
    a.until(lambda: len([n for n in numbers if n in a.answers]) >= 15)
    assert [ending(a.answers[n]) for n in numbers if n in a.answers] == ["queue"] * 15
    a.sing()
    a.until(lambda: all(n in a.answers for n in numbers))
    assert ending(a.wait(a.event(payload, tenant=ATTACKER))) == "ok"


OLD = """return {
    Loop = function() task.spawn(function() while true do task.wait(0.05) host('write', 'old') end end) return 'started' end,
    Slow = function() host('hold') host('write', 'slow') return 'old' end,
    Call = function() task.spawn(function() host('hold') host('write', 'after') end) return 'called' end,
}"""


def test_s14_what_a_replaced_version_left_behind_writes_nothing_more(arena: Make) -> None:
    """Handlers that still owe an answer end on the old code; threads that outlive their events do not outlive their version."""
    a = arena()
    a.load(("t", OLD))
    assert a.done(a.event(name="Loop")).value == "started"
    a.holding = True
    slow, _ = a.event(name="Slow"), a.done(a.event(name="Call"))
    a.until(lambda: [c[3] for c in a.calls].count("hold") == 2)
    a.load(("t", "return {New = function() host('write', 'new') return 'new' end}"))
    new = a.event(name="New")
    a.until(lambda: any(c[4] == ["new"] for c in a.calls))
    before = len(a.calls)
    for call, _, _, name, args in list(a.calls):
        a.reply(call, name, args)
    assert a.done(new).value == "new"
    a.until(lambda: any(c[4] == ["slow"] for c in a.calls))
    for call, _, _, name, args in a.calls[before:]:
        a.reply(call, name, args)
    assert a.done(slow).value == "old"
    a.pump(0.2)
    assert [c[4] for c in a.calls[before:]] == [["slow"]]
    a.sing()
