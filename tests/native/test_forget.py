"""Of a tenant without templates, VM, requests and debts the engine keeps nothing."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from pytw.types import Outcome

from .conftest import Driver, program
from .test_offload import NOISE

Make = Callable[..., Driver]

MANY = 50_000
#: Those of them that have a VM, too.
SOME = 200
NO_TEMPLATES: bytes = msgpack.packb([])
ONE = program(("t", "return function() return 'here' end"))
BURN = "while true do end"


def forgotten(driver: Driver) -> None:
    driver.until(lambda: driver.engine.stats()["tenants"] == 0)


def test_tenants_that_are_unloaded_are_forgotten_and_work_again(make: Make) -> None:
    d = make(idle_evict_ms=50)
    for tenant in range(MANY):
        d.engine.set_program(tenant, ONE)
    d.until(lambda: d.engine.stats()["tenants"] == MANY)
    for number in [d.event(tenant=tenant) for tenant in range(SOME)]:
        assert d.done(number).value == "here"
    for tenant in range(MANY):
        d.engine.set_program(tenant, NO_TEMPLATES)
    forgotten(d)
    assert d.engine.stats()["vms"] == 0 and not d.engine.has_program(1)
    assert d.done(d.event()).outcome is Outcome.NOT_SUBSCRIBED
    d.engine.set_program(1, ONE)
    assert d.engine.has_program(1) and d.done(d.event()).value == "here"
    assert d.engine.stats()["tenants"] == 1


def test_a_tenant_with_templates_or_a_vm_is_kept(make: Make) -> None:
    d = make(idle_evict_ms=50)
    d.engine.set_program(1, ONE)
    waiting = d.script("host('never')", tenant=2)
    timer = d.script("task.delay(0.5, function() end) return 1", tenant=3)
    d.done(timer)
    d.ok("return 1", tenant=4)
    d.until(lambda: d.engine.stats()["tenants"] == 3)
    assert d.done(d.event()).value == "here"
    d.engine.answer(d.calls[0][0], msgpack.packb([]))
    assert d.done(waiting).outcome is Outcome.OK
    d.until(lambda: d.engine.stats()["tenants"] == 1)
    d.wait(d.drop(1))
    forgotten(d)


def test_an_empty_program_ends_nothing_that_runs(make: Make) -> None:
    d = make(idle_evict_ms=50)
    d.load(("t", "return function() host('never') return 'old' end"))
    number = d.event()
    d.until(lambda: bool(d.calls))
    d.engine.set_program(1, NO_TEMPLATES)
    assert d.done(d.event()).outcome is Outcome.NOT_SUBSCRIBED
    d.engine.answer(d.calls[0][0], msgpack.packb([]))
    assert d.done(number).value == "old"
    forgotten(d)


@pytest.mark.parametrize("unload", ["drop", "empty"])
def test_a_debt_is_paid_before_its_tenant_is_forgotten(make: Make, unload: str) -> None:
    """What flows back in a second is a tenth: after 150 ms that were used nothing is forgotten for 1.5 s."""
    d = make(cpu_bucket_ms=150, idle_evict_ms=50)
    d.load(("t", f"return function() {BURN} end"))
    assert d.done(d.event()).limit == "cpu"
    start = time.monotonic()
    if unload == "drop":
        d.wait(d.drop())
    else:
        d.engine.set_program(1, NO_TEMPLATES)
    assert d.bad("return 1").limit == "cpu", "the bucket is as empty as before"
    forgotten(d)
    assert time.monotonic() - start > 1.4
    assert d.ok("return 1") == 1


def test_a_debt_that_nothing_pays_is_kept(make: Make) -> None:
    d = make(cpu_bucket_ms=50, cpu_refill_percent=0)
    assert d.bad(BURN).limit == "cpu"
    d.ok("return 1", tenant=2)
    for tenant in (1, 2):
        d.wait(d.drop(tenant))
    end = time.monotonic() + 1
    while time.monotonic() < end:
        d.pump(0.2)
        assert d.engine.stats()["tenants"] == 2
    assert d.bad("return 1").limit == "cpu"
    assert d.ok("return 1", tenant=2) == 1, "what it used is little"


def jobs_cpu_s() -> float:
    """What this process's background threads have used."""
    used = 0
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("tw-offload"):
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


@pytest.mark.slow
def test_what_a_job_used_is_paid_by_a_tenant_that_was_dropped(make: Make) -> None:
    """Half a second flows back in a second; the job goes on for about one after its tenant was dropped."""
    d = make(cpu_bucket_ms=5_000, cpu_refill_percent=50)
    work = f'{NOISE} datamgmt.compress("brotli", noise)'
    d.load(("t", f'local datamgmt = require("@antiraid/datamgmt") return function() {work} end'))
    before, number = jobs_cpu_s(), d.event()
    d.until(lambda: jobs_cpu_s() - before > 0.05)
    start = time.monotonic()
    d.wait(d.drop())
    assert d.done(number).outcome is Outcome.CANCELLED
    forgotten(d)
    assert time.monotonic() - start > 1.9 * (jobs_cpu_s() - before)


@pytest.mark.parametrize("how", ["check", "cancel", "shed", "expire"])
def test_who_only_asked_is_forgotten(make: Make, how: str) -> None:
    d = make(queue_events_max=0 if how == "shed" else 10)
    if how == "check":
        assert d.wait(d.check("return {A = function() end}")) == ["A"]
    elif how == "expire":
        number = d.check("coroutine.yield()", timeout_ms=10)
        assert d.wait(number).code == "limit_exceeded"
    else:
        number = d.check("return {A = function() end}")
        if how == "cancel":
            d.engine.cancel(number)
        d.wait(number)
    forgotten(d)


def test_the_built_in_template_keeps_nobody(make: Make) -> None:
    entry = {"init.luau": "return function() return 'built-in' end"}
    d = make(builtins=msgpack.packb(entry), idle_evict_ms=50)
    for _ in range(2):
        assert d.done(d.event()).value == "built-in"
        assert d.engine.stats()["tenants"] == 1
        forgotten(d)
    d.engine.set_program(1, NO_TEMPLATES)
    assert d.done(d.event()).value == "built-in"
    assert d.engine.stats()["tenants"] == 1


def test_results_that_nobody_has_taken_keep_their_tenant(make: Make) -> None:
    """They count against their tenant, which an engine that forgets it would begin to count anew."""
    d = make(idle_evict_ms=50)
    number = d.script("return string.rep('x', 1e6)")
    assert select.select([d.engine.fileno()], [], [], 20)[0]
    for _ in range(20):
        time.sleep(0.05)
        assert d.engine.stats()["tenants"] == 1
    assert d.engine.stats()["evicted"] == 1
    assert len(d.done(number).value) == 1_000_000
    forgotten(d)
