"""Every bound of a tenant, and what reaching it looks like."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import msgpack
import pytest

from pytw.types import Outcome

from .conftest import Driver, on_a_busy_machine

Make = Callable[..., Driver]

# ---- CPU -----------------------------------------------------------------------------------------

UNCATCHABLE = [
    "while true do end",
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(error, function() while true do end end) end",
    "while true do pcall(table.sort, {3, 1, 2}, function() while true do pcall(function() while true do end end) end end) end",
    "while true do pcall(function() return string.rep('a', 3000):find(string.rep('a-', 12) .. 'b') end) end",
    "while true do coroutine.wrap(function() while true do end end)() end",
    "while true do task.spawn(function() while true do end end) end",
]


@pytest.mark.parametrize("source", UNCATCHABLE)
def test_the_cpu_limit_cannot_be_caught(driver: Driver, source: str) -> None:
    done = driver.bad(source)
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "cpu") and "CPU limit" in done.error
    assert 200_000 < done.cpu_us < 450_000 + done.wall_us // 10
    assert driver.ok("return 'alive'", tenant=2) == "alive"


def test_an_empty_bucket_refuses_before_the_start_until_it_refills(make: Make) -> None:
    d = make(cpu_bucket_ms=100, cpu_refill_percent=0)
    d.bad("while true do end")
    done = d.bad("host('never', 1)")
    assert (done.outcome, done.limit, done.parts) == (Outcome.LIMIT_EXCEEDED, "cpu", []) and not d.calls
    d = make(cpu_bucket_ms=100, cpu_refill_percent=50)
    d.bad("while true do end")
    d.until(lambda: d.done(d.script("return 1")).outcome is Outcome.OK)


def test_the_next_event_is_refused_while_the_bucket_is_empty(make: Make) -> None:
    d = make(cpu_bucket_ms=200)
    d.load(("loop", "return function() while true do end end"))
    assert d.done(d.event()).limit == "cpu"
    assert d.done(d.event()).limit == "cpu"
    assert d.engine.stats()["replaced"] == 0


def test_other_templates_of_the_tenant_that_wait_go_on_later(make: Make) -> None:
    d = make(cpu_bucket_ms=200, cpu_refill_percent=50)
    d.load(
        ("waits", "return {A = function() return host('never') end}"),
        ("loops", "return {B = function() while true do end end}"),
    )
    waits = d.event(name="A")
    d.until(lambda: bool(d.calls))
    loops = d.event(name="B")
    d.engine.answer(d.calls[0][0], msgpack.packb(["kept"])) if d.done(loops).limit == "cpu" else None
    assert [p.value for p in d.done(waits).parts if p.template == "waits"] == ["kept"]


def test_an_entry_that_never_ends_costs_its_event(make: Make) -> None:
    d = make(cpu_bucket_ms=100)
    d.load(("t", "while true do end"))
    assert d.done(d.event()).limit == "cpu"


def vm_thread_cpu() -> float:
    """CPU seconds of all engine threads that are alive."""
    used = 0
    for task in pathlib.Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "tw-vm":
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


@on_a_busy_machine
def test_a_kill_does_not_refill_the_bucket() -> None:
    """What is used besides what flows in is what was in the bucket at first."""
    d = Driver(cpu_bucket_ms=200, cpu_refill_percent=20)
    before = vm_thread_cpu()
    assert d.bad("while true do end").limit == "cpu"
    # Nothing flows in while work waits for its next slice, which on a busy machine is most of the time until here.
    empty_at = time.monotonic()
    while time.monotonic() - empty_at < 2:
        assert d.bad("while true do end").limit == "cpu"
        d.pump(0.002)
    d.wait(d.drop())
    assert d.bad("while true do end").limit == "cpu"
    used = vm_thread_cpu() - before - 0.2 * (time.monotonic() - empty_at)
    d.engine.close()
    assert 0.1 < used < 0.35


@on_a_busy_machine
def test_other_peoples_cpu_use_is_not_charged() -> None:
    d = Driver(cpu_bucket_ms=400)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        assert d.ok("local n = 0 while n < 2e6 do n += 1 end return n", tenant=1) == 2e6
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        d.engine.close()


# ---- stretches that cannot be preempted -----------------------------------------------------------


def test_a_callback_that_cannot_stop_is_capped(make: Make) -> None:
    d = make(cpu_bucket_ms=60_000)
    done = d.bad("table.sort({3, 1, 2}, function() while true do end end)")
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "unbreakable") and "ran too long" in done.error
    assert done.cpu_us < 1_000_000


@on_a_busy_machine
def test_a_stretch_is_capped_by_its_own_cpu_time() -> None:
    """What others take of the core meanwhile does not count against a comparator."""
    d = Driver(cpu_bucket_ms=60_000, unbreakable_ms=50)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        source = """local t = {}
        for i = 1, 8000 do t[i] = i * 7919 % 8000 end
        table.sort(t, function(a, b) return a < b end)
        return t[1] .. ' ' .. t[8000]"""
        for tenant in range(1, 6):
            assert d.ok(source, tenant=tenant) == "0 7999"
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        d.engine.close()


def test_a_cap_that_was_caught_is_no_limit_of_the_event(make: Make) -> None:
    d = make(cpu_bucket_ms=60_000)
    done = d.bad("pcall(table.sort, {3, 1, 2}, function() while true do end end) error('later')")
    assert (done.outcome, done.limit) == (Outcome.SCRIPT_ERROR, None)


FOREVER = "while true do end"
SORTING = """
    local t = {} for i = 1, 1000 do t[i] = i * 7919 % 1000 end
    table.sort(t, function(a, b) return a < b end) return t[1]"""


@pytest.mark.parametrize(
    "stretch",
    [
        f"table.sort({{3, 1, 2}}, function() {FOREVER} end)",
        "string.find(string.rep('a', 40), string.rep('a?', 40) .. string.rep('a', 40) .. 'b')",
    ],
)
def test_a_stretch_costs_its_own_template_only(make: Make, stretch: str) -> None:
    """Those that start after it, in the same event, begin with a slice of their own."""
    d = make(cpu_bucket_ms=60_000)
    bodies = [("before", "task.wait(0.1) return 1"), ("bad", stretch), ("after", "return 2"), ("sorts", SORTING)]
    d.load(*((name, f"return function() {body} end") for name, body in bodies))
    for _ in range(2):
        before, bad, after, sorts = d.done(d.event()).parts
        assert (bad.outcome, bad.limit) == (Outcome.LIMIT_EXCEEDED, "unbreakable")
        assert bad.error and "a metamethod, callback or pattern ran too long" in bad.error
        assert [before.value, after.value, sorts.value] == [1, 2, 0]


def test_others_are_told_whose_template_used_the_cpu_time(make: Make) -> None:
    d = make(cpu_bucket_ms=30, cpu_refill_percent=1)
    d.load(("a", f"return function() {FOREVER} end"), ("b", f"return function() {FOREVER} end"))
    parts = d.done(d.event()).parts
    assert {part.limit for part in parts} == {"cpu"}
    own = "CPU limit exceeded"
    told = [part.error.removeprefix(own) for part in parts if part.error]
    assert told in (
        ["", ": the tenant's CPU time ended while template 'a' ran"],
        [": the tenant's CPU time ended while template 'b' ran", ""],
    )


# ---- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filling", ["local t = {} for i = 1, 1e9 do t[i] = {i} end", "string.rep('x', 1e8)", "pcall(string.rep, 'x', 1e8)"]
)
def test_others_are_told_whose_template_filled_the_vm(make: Make, filling: str) -> None:
    d = make()
    d.load(("waits", "return function() task.wait(10) end"), ("bad", f"return function() {filling} task.wait(10) end"))
    waits, bad = d.done(d.event()).parts
    assert waits.error == "ended with the VM: template 'bad' exceeded the memory limit"
    assert bad.error == "memory limit exceeded; the VM was replaced"
    assert (waits.outcome, waits.limit) == (bad.outcome, bad.limit) == (Outcome.LIMIT_EXCEEDED, "memory")


def test_out_of_memory_replaces_the_vm(make: Make) -> None:
    d = make()
    done = d.bad("local t = {} for i = 1, 1e9 do t[i] = {i} end")
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "memory")
    assert d.ok("return 'fresh'") == "fresh"
    assert d.engine.stats()["replaced"] == 1


@pytest.mark.parametrize(
    "source",
    [
        "local t = {} pcall(function() for i = 1, 1e9 do t[i] = {i} end end) return #t > 0",
        "local ok = pcall(string.rep, 'x', 1e8) return ok",
        "coroutine.resume(coroutine.create(function() local t = {} for i = 1, 1e9 do t[i] = {i} end end)) task.wait() return 1",
    ],
)
def test_an_out_of_memory_that_is_caught_costs_the_vm_as_well(make: Make, source: str) -> None:
    d = make()
    d.done(d.script(source))
    assert d.ok("return 'fresh'") == "fresh"
    assert d.engine.stats()["replaced"] == 1


def test_waiting_events_of_a_full_vm_end_with_the_limit(make: Make) -> None:
    d = make()
    waiting = d.script("host('never')")
    d.until(lambda: bool(d.calls))
    d.bad("local t = {} for i = 1, 1e9 do t[i] = {i} end")
    assert d.done(waiting).limit == "memory"
    d.engine.answer(d.calls[0][0], msgpack.packb([]))
    assert d.ok("return 1") == 1


def test_live_data_below_half_the_limit_survives_garbage(make: Make) -> None:
    d = make(cpu_bucket_ms=20_000)
    source = (
        "local live = {} for i = 1, 90000 do live[i] = {i} end for i = 1, 1000000 do local g = {i, i} end return #live"
    )
    assert d.ok(source) == 90000 and d.engine.stats()["replaced"] == 0


def test_idle_vms_are_evicted_and_busy_ones_stay(make: Make) -> None:
    d = make(idle_evict_ms=150)
    d.ok("return 1", tenant=1)
    d.script("task.wait(30)", tenant=2)
    d.script("host('never')", tenant=3)
    d.until(lambda: d.engine.stats()["evicted"] == 1)
    assert d.engine.stats()["replaced"] == 0
    d.until(lambda: d.engine.stats()["vms"] == 2)
    assert d.ok("return 2", tenant=1) == 2


def test_memory_pressure_evicts_idle_vms_first(make: Make) -> None:
    d = make(memory_budget_bytes=6 << 20)
    busy = d.script("host('never')", tenant=1000)
    for tenant in range(1, 60):
        while d.done(d.script("return 1", tenant=tenant)).outcome is not Outcome.OK:
            d.pump(0.005)
    d.until(lambda: d.engine.stats()["bytes"] <= 6 << 20)
    stats = d.engine.stats()
    assert stats["evicted"] > 20 and stats["replaced"] == 0
    assert busy not in d.answers


def test_memory_pressure_then_takes_who_has_too_much_and_sheds_in_the_end(make: Make) -> None:
    d = make(memory_budget_bytes=8 << 20)
    small = d.script("host('never')", tenant=1)
    big = d.script("hold = {} for i = 1, 150000 do hold[i] = {} end host('never')", tenant=2)
    assert d.done(big).limit == "memory_budget"
    assert small not in d.answers
    full = [d.script("hold = table.create(20000, 1) host('never')", tenant=t) for t in range(10, 40)]
    d.until(lambda: any(number in d.answers for number in full))
    outcomes = {d.answers[n].outcome for n in full if n in d.answers}
    assert outcomes == {Outcome.SHED} and {d.answers[n].limit for n in full if n in d.answers} == {"memory_budget"}


# ---- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["while true do end", "task.wait(60)", "host('never')", "coroutine.yield()", "while true do task.wait() end"],
)
def test_the_deadline_ends_an_event(make: Make, source: str) -> None:
    d = make(cpu_bucket_ms=60_000)
    done = d.bad(source, timeout_ms=200)
    assert done.outcome is Outcome.TIMEOUT and done.parts[0].outcome is Outcome.TIMEOUT
    assert done.wall_us >= 200_000
    assert d.ok("return 1") == 1


def test_the_deadline_leaves_spawned_threads_and_finished_templates_alone(driver: Driver) -> None:
    driver.load(
        ("a", "return function() task.delay(0.4, function() host('later') end) host('never') end"),
        ("b", "return function() return 'done' end"),
    )
    done = driver.done(driver.event(timeout_ms=150))
    assert [(p.outcome, p.value) for p in done.parts] == [(Outcome.TIMEOUT, None), (Outcome.OK, "done")]
    driver.until(lambda: [c[3] for c in driver.calls] == ["never", "later"])
    driver.engine.answer(driver.calls[0][0], msgpack.packb([1]))
    assert driver.ok("return 'alive'") == "alive"


def test_an_event_that_waits_for_its_turn_too_long_is_not_started(make: Make) -> None:
    d = make(cpu_bucket_ms=60_000, unbreakable_ms=400)
    d.script("table.sort({3, 1, 2}, function() while true do end end)")
    late = d.script("host('ran')", timeout_ms=50)
    assert d.done(late).outcome is Outcome.TIMEOUT and not d.calls


def test_cancel_ends_an_event(make: Make) -> None:
    d = make(cpu_bucket_ms=60_000)
    for source in ("while true do end", "host('never')"):
        number = d.script(source)
        d.pump(0.1)
        d.engine.cancel(number)
        assert d.done(number).outcome is Outcome.CANCELLED
    d.engine.cancel(12345)
    assert d.ok("return 1") == 1


# ---- counts ----------------------------------------------------------------------------------------


def test_more_events_than_the_queue_holds_are_shed(make: Make) -> None:
    d = make(queue_events_max=10)
    waiting = [d.script("host('never')") for _ in range(10)]
    done = d.done(d.script("return 1"))
    assert (done.outcome, done.limit) == (Outcome.SHED, "queue")
    assert d.ok("return 1", tenant=2) == 1
    d.until(lambda: len(d.calls) == 8)
    d.engine.cancel(waiting[0])
    d.done(waiting[0])
    assert d.ok("return 1") == 1
    assert d.engine.stats()["shed"] == 1


def test_queue_places_come_back_however_requests_end(make: Make) -> None:
    d = make(queue_events_max=4, cpu_bucket_ms=200, cpu_refill_percent=100)
    d.load(("t", "return function() return 1 end"))
    sources = [
        "return 1",
        "error('x')",
        "while true do end",
        "local t = {} while true do t[#t + 1] = {} end",
        "panic()",
        "task.wait(9)",
    ]
    for _ in range(3):
        for source in sources:
            d.wait(d.script(source, timeout_ms=500))
            d.wait(d.check(source, timeout_ms=500))
        d.wait(d.event())
    d.until(lambda: d.done(d.script("return 1")).outcome is Outcome.OK)
    numbers = [d.script("host('never')") for _ in range(4)]
    d.until(lambda: len([c for c in d.calls if c[1] in numbers]) == 4)
    assert d.done(d.script("return 1")).outcome is Outcome.SHED


def test_host_calls_past_the_limit_wait_their_turn(make: Make) -> None:
    d = make(host_calls_max=3)
    d.holding = True
    number = d.script(
        "local n = 0 for i = 1, 10 do task.spawn(function() host('x', i) n += 1 end) end while n < 10 do task.wait() end return n"
    )
    d.until(lambda: len(d.calls) == 3)
    d.pump(0.05)
    assert len(d.calls) == 3
    seen = 0
    while seen < 10:
        d.until(lambda: len(d.calls) > seen)  # noqa: B023
        call, _, _, name, args = d.calls[seen]
        assert args == [seen + 1]
        d.reply(call, name, args)
        seen += 1
        assert len(d.calls) <= seen + 3
    assert d.done(number).value == 10


def test_threads_and_timers_are_counted(make: Make) -> None:
    d = make(threads_max=50, timers_max=20)
    assert d.ok("local n = 0 while pcall(task.delay, 60, function() end) do n += 1 end return n") == 20
    got = d.ok(
        "local n = 0 local ok, e repeat ok, e = pcall(task.defer, function() end) n += ok and 1 or 0 until not ok return {n, e}"
    )
    assert got[0] == 30 and "too many" in got[1]
    assert d.ok("return 1", tenant=2) == 1


def test_timers_of_a_thread_that_was_ended_are_given_back(make: Make) -> None:
    d = make(timers_max=5)
    for _ in range(20):
        assert d.bad("task.wait(600)", timeout_ms=20).outcome is Outcome.TIMEOUT


def test_log_bytes_are_bounded_and_what_is_dropped_is_counted(make: Make) -> None:
    d = make(log_bytes_per_s=1_000)
    d.ok("for i = 1, 100 do task.spawn(function() error(string.rep('x', 100)) end) end")
    d.pump(0.05)
    assert 1 <= len(d.logs) <= 12
    assert d.engine.stats()["logs_dropped"] >= 85


def test_error_texts_are_cut_between_characters(make: Make) -> None:
    d = make(error_bytes_max=300)
    error = d.error("error(string.rep('é', 1000), 0)")
    assert len(error.encode()) <= 300 and error.endswith("(cut)") and error.startswith("ééé")


def test_cancelled_timers_give_their_places_back(make: Make) -> None:
    d = make(timers_max=20)
    assert d.ok("for i = 1, 200 do task.cancel(task.delay(3600, function() end)) end return 'room'") == "room"


def test_ten_that_never_end_meet_the_limit_although_each_gets_what_flows_back(make: Make) -> None:
    d = make(cpu_bucket_ms=100, cpu_refill_percent=10)
    numbers = [d.script("while true do end", tenant=t) for t in range(1, 11)]
    ended = [d.done(number) for number in numbers]
    assert {(e.outcome, e.limit) for e in ended} == {(Outcome.LIMIT_EXCEEDED, "cpu")}
