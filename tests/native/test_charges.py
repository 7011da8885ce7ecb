"""What a tenant makes the engine hold outside of its VM is charged to it or bounded, and goes when its VM goes."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytw.types import Outcome
from tests.native.conftest import Driver, in_child, on_a_busy_machine

Make = Callable[..., Driver]
MIB = 1 << 20

#: Bounds of the engine's own: native/src/limits.rs, tenant.rs, wait.rs.
RESULTS_BYTES_MAX, QUEUE_BYTES_MAX, CALLS_BYTES_MAX = 32 * MIB, 16 * MIB, 8 * MIB


def test_objects_are_charged_to_their_vm(make: Make) -> None:
    """Host objects count against the VM's memory, though Luau's heap does not hold them."""
    driver = make(vm_memory_bytes=20 * MIB)
    source = """
        local kept = {}
        local piece = buffer.create(1048576)
        for i = 1, 100 do
            local ok, made = pcall(require("@antiraid/datamgmt").newblob, piece)
            if not ok then return {i, tostring(made)} end
            kept[i] = made
        end
    """
    count, text = driver.ok(source)
    assert 8 < count < 20
    assert "limit: memory" in text


def test_arguments_of_host_calls_that_wait_are_bounded(make: Make) -> None:
    """Calls wait for each other, and so do their arguments."""
    driver = make()
    source = """
        local text, refused = string.rep("x", 1048000), nil
        for i = 1, 100 do
            task.spawn(function()
                local ok, why = pcall(host, "never", text)
                refused = refused or not ok and {i, tostring(why)}
            end)
            if refused then return refused end
        end
    """
    count, text = driver.ok(source)
    assert count == CALLS_BYTES_MAX // MIB + 1
    assert "limit: calls" in text


def test_the_compiler_works_at_the_tenants_cost(make: Make) -> None:
    """Time of `loadstring` comes out of the CPU bucket, and what one call takes is bounded by the bound on sources."""
    driver = make(cpu_bucket_ms=300, cpu_refill_percent=0)
    source = """
        local text = string.rep("local function f(a) return {a, a + 1} end f(2) ", 4000)
        while true do pcall(loadstring, text) end
    """
    done = driver.bad(source)
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "cpu")
    assert done.cpu_us < 1_000_000
    too_long = make().ok('return (select(2, loadstring(string.rep(" ", 300000))))')
    assert "limit: size" in too_long


def settle(driver: Driver, events: int) -> None:
    """Waits until so many events have come in and all have ended, without taking any of the answers."""
    end = time.monotonic() + 30
    while (stats := driver.engine.stats())["events"] < events or stats["queued"]:
        assert time.monotonic() < end
        select.select([], [], [], 0.01)


def test_results_that_nobody_takes_are_bounded(make: Make) -> None:
    """A tenant whose results Python does not take gets errors that name the limit, and the results that it has."""
    driver = make(cpu_bucket_ms=60_000)
    driver.load(("t", "local text = string.rep('x', 2 * 1048576) return { E = function() return text end }"))
    numbers = [driver.event() for _ in range(40)]
    settle(driver, 40)
    ends = [driver.done(number) for number in numbers]
    fine = [end for end in ends if end.outcome is Outcome.OK]
    assert 10 <= len(fine) <= RESULTS_BYTES_MAX // (2 * MIB)
    refused = [end for end in ends if end.outcome is not Outcome.OK]
    assert {(end.outcome, end.limit) for end in refused} == {(Outcome.LIMIT_EXCEEDED, "size")}
    assert str(RESULTS_BYTES_MAX) in refused[0].error
    # What was taken makes room.
    assert driver.done(driver.event()).outcome is Outcome.OK


def test_results_that_wait_for_the_other_templates_are_bounded(make: Make) -> None:
    """A result is held until all templates of its event have ended; that counts as well."""
    driver = make(cpu_bucket_ms=60_000, host_calls_max=30)
    large = "local text = string.rep('x', 2 * 1048576) return { E = function() return text end }"
    driver.load(("large", large), ("waits", "return { E = function() host('never') end }"))
    numbers = [driver.event() for _ in range(30)]
    driver.until(lambda: len(driver.calls) == 30)
    driver.drop()
    ends = [driver.done(number).parts[0] for number in numbers]
    assert any((end.outcome, end.limit) == (Outcome.LIMIT_EXCEEDED, "size") for end in ends)


def test_payloads_that_wait_are_bounded(make: Make) -> None:
    """Events are shed when those without an answer hold too many bytes, however few they are."""
    driver = make(vm_memory_bytes=256 * MIB)
    driver.load(("t", "return { E = function() host('never') end }"))
    payload = b'{"text":"' + b"x" * (4 * MIB - 64) + b'"}'
    numbers = [driver.event(payload) for _ in range(8)]
    shed = [driver.done(number) for number in numbers[QUEUE_BYTES_MAX // len(payload) :]]
    assert {(end.outcome, end.limit) for end in shed} == {(Outcome.SHED, "queue")}
    other = driver.event(payload, tenant=2)
    assert driver.done(other).outcome is Outcome.NOT_SUBSCRIBED
    for number in numbers[:2]:
        driver.engine.cancel(number)
        assert driver.done(number).outcome is Outcome.CANCELLED
    again = driver.event(payload)
    driver.until(lambda: len(driver.calls) > QUEUE_BYTES_MAX // len(payload))
    assert again not in driver.answers


EVICTED = """
import sys, time
from tests.native.conftest import Driver

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

driver = Driver(idle_evict_ms=int(sys.argv[1]))
before = rss()
for tenant in range(1, 401):
    driver.load(("t", "local kept = table.create(2000, 1) return { E = function() return #kept end }"), tenant=tenant)
    assert driver.done(driver.event(tenant=tenant)).value == 2000
held = rss() - before
end = time.monotonic() + 30
while driver.engine.stats()["vms"] or driver.engine.stats()["closing"] or rss() - before > held / 3:
    assert time.monotonic() < end, (driver.engine.stats(), held, rss() - before)
    driver.pump(0.1)
assert held > 400 * 100_000, held
assert driver.done(driver.event(tenant=7)).value == 2000
driver.engine.close()
"""


def test_evicted_vms_give_their_memory_back_to_the_system(tmp_path: Path) -> None:
    """Memory of VMs that idled away is the system's again soon after."""
    root = Path(__file__).parents[2]
    ran = in_child(f"import sys; sys.path.insert(0, {str(root)!r})\n{EVICTED}", tmp_path, 1_000)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@on_a_busy_machine
def test_full_vms_are_closed_elsewhere(make: Make) -> None:
    """A neighbour's events go on while twenty VMs with some 14 MB of strings each are dropped."""
    driver = make(cpu_bucket_ms=60_000, vm_memory_bytes=20 * MIB)
    fill = "local kept = table.create(150000) for i = 1, 150000 do kept[i] = i .. ' and more of it' end"
    driver.load(("t", "return { E = function() end }"), tenant=99)
    driver.done(driver.event(tenant=99))
    for tenant in range(1, 21):
        driver.load(("t", fill + " return { E = function() return #kept end }"), tenant=tenant)
        assert driver.done(driver.event(tenant=tenant)).value == 150_000
    for tenant in range(1, 21):
        driver.drop(tenant)
    slowest, count = 0.0, 0
    while driver.engine.stats()["closing"] or count < 10:
        start = time.monotonic()
        driver.done(driver.event(tenant=99))
        slowest, count = max(slowest, time.monotonic() - start), count + 1
    assert slowest < 0.05


def test_a_small_vm_counts_as_what_it_holds(make: Make) -> None:
    """The worker's budget is in bytes that the system gave, not in what a VM's heap has room for."""
    driver = make()
    driver.load(("t", "return { E = function() end }"))
    driver.done(driver.event())
    driver.until(lambda: 100_000 < driver.engine.stats()["bytes"] < 300_000)
