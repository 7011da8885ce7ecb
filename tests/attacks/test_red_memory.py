"""What a tenant makes the process hold outside of its VM is bounded, too."""

from __future__ import annotations

import time
from pathlib import Path

import msgpack

from pytw.types import Outcome
from tests.native.conftest import Driver

from .conftest import make

#: What may come on top of a VM's own 20 MiB; what the allocator keeps of earlier tests is there before.
GROWTH_BYTES_MAX = 120 << 20
PAGE_BYTES = 4_096
ANSWER = msgpack.packb([b"x" * 4_000_000])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def growth(driver: Driver, until: object, seconds: float = 20.0) -> int:
    """How much larger the process was at most, until a request has its answer or the time is over."""
    start = most = resident()
    end = time.monotonic() + seconds
    while until not in driver.answers and time.monotonic() < end:
        driver.pump(0.05)
        most = max(most, resident())
    return most - start


def test_contexts_of_many_capabilities_count(make):
    driver = make(cpu_bucket_ms=10_000)
    number = driver.script(
        "local ctx, all = ..., {} local caps = table.create(256, '*')"
        " for i = 1, 200000 do all[i] = ctx:with{ capabilities = caps } end"
    )
    assert growth(driver, number) < GROWTH_BYTES_MAX
    assert driver.done(number).limit == "memory"


def test_small_objects_count_with_what_they_hold_outside(make):
    for source in (
        "local a = datamgmt.TarArchive() a:addfile('x', 'y') all[i] = a",
        "all[i] = require('@antiraid/channel').DelayChannel()",
    ):
        driver = make(cpu_bucket_ms=10_000)
        number = driver.script(
            f"local datamgmt, all = require('@antiraid/datamgmt'), {{}} for i = 1, 400000 do {source} end"
        )
        assert growth(driver, number) < GROWTH_BYTES_MAX
        assert driver.done(number).limit == "memory"


def test_results_that_wait_for_another_template_are_bounded(make):
    driver = make(cpu_bucket_ms=10_000)
    driver.load(
        ("quick", "local s = ('x'):rep(4000000) return function() return s end"),
        ("slow", "return function() task.wait(2) return 'slow' end"),
    )
    numbers = [driver.event(timeout_ms=20_000) for _ in range(100)]
    assert growth(driver, numbers[-1], 3.0) < GROWTH_BYTES_MAX
    done = [driver.done(number) for number in numbers]
    assert {part.value for answer in done for part in answer.parts if part.template == "slow"} == {"slow"}
    quick = [part for answer in done for part in answer.parts if part.template == "quick"]
    assert "(limit: size)" in quick[-1].error
    # What has gone is not counted any more.
    assert driver.done(driver.event()).outcome is Outcome.OK


def test_answers_do_not_pile_up_in_a_vm_without_cpu_time(make):
    driver = make(cpu_bucket_ms=100, cpu_refill_percent=0, host_calls_max=4)
    driver.reply = lambda number, name, args: driver.engine.answer(number, ANSWER)
    driver.load(
        (
            "t",
            "return function() for i = 1, 500 do task.spawn(function() host('get') end) end while true do end end",
        )
    )
    number = driver.event(timeout_ms=5_000)
    assert growth(driver, number, 3.0) < GROWTH_BYTES_MAX
    for _ in range(20):
        driver.pump(0.05)
    assert len(driver.calls) < 100, "no call goes out before the answers of earlier ones are taken"


def test_jobs_end_when_their_tenant_has_no_cpu_time(make):
    driver = make(cpu_bucket_ms=300, cpu_refill_percent=1)
    driver.load(
        (
            "t",
            """
            local datamgmt = require("@antiraid/datamgmt")
            return function()
                local good, bad = 0, 0
                for i = 1, 100 do
                    task.spawn(function()
                        local ok, why = pcall(datamgmt.aes256encrypt, "content", "key")
                        if ok then good += 1 else bad += 1 end
                    end)
                end
                task.wait(6)
                return { good, bad }
            end
            """,
        )
    )
    number = driver.event(timeout_ms=15_000)
    driver.until(lambda: number in driver.answers, 30.0)
    answer = driver.answers[number]
    # Each takes about 100 ms; the event itself may lack the time to say so.
    assert answer.cpu_us < 1_500_000, answer


__all__ = ["make"]
