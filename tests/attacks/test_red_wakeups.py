"""A thread that is preempted between looking at a module and waiting for it is woken all the same: waiting looks again.

``await`` is what `require` calls then, a global of engines with ``test_hooks``.
"""

from __future__ import annotations

import msgpack

from pytw.types import Outcome
from tests.native.conftest import make

SLOW = "task.wait(0.3) return {}"


def run(driver, body):
    files = {"init.luau": f"return function() {body} end", "slow.luau": SLOW}
    driver.engine.set_program(1, msgpack.packb([["t", "init", files, ["*"], ["*"]]]))
    return driver.done(driver.event(timeout_ms=2_000))


def test_what_has_been_told_is_not_awaited(make):
    done = run(
        make(),
        """
        local dead = coroutine.create(function() end)
        coroutine.resume(dead)
        local living = coroutine.create(function() end)
        await(living, { done = true })
        await(dead, { done = false })
        await(task.spawn(error, "x"), {})
        return "awake"
        """,
    )
    assert done.value == "awake", done


def test_nothing_waits_where_no_thread_can(make):
    driver = make(threads_max=8)
    done = run(
        driver,
        """
        local living = coroutine.create(function() end)
        for i = 1, 50 do
            local ok, why = pcall(table.sort, { 1, 2 }, function() await(living, {}) end)
            assert(not ok and string.find(why, "yield across"), why)
        end
        task.wait(0.4)
        return "free"
        """,
    )
    assert done.outcome is Outcome.OK, done
    assert done.value == "free"


__all__ = ["make"]
