"""Channels and chunks where the scheduler interferes: preemption, cancellation, ends of events."""

from __future__ import annotations

from collections.abc import Callable

from pytw.types import Outcome

from .conftest import Driver

Make = Callable[..., Driver]
PRELUDE = "local channel, datetime = require('@antiraid/channel'), require('@antiraid/datetime') "


def test_busy_threads_lose_no_item(make: Make) -> None:
    """Producers and a consumer are preempted anywhere; each item comes out once."""
    driver = make(slice_ms=1)
    source = (
        PRELUDE
        + """
        local c, ms, got, sum = channel.DelayChannel(), datetime.timedelta_millis(1), 0, 0
        for p = 1, 4 do
            task.spawn(function()
                for i = 1, 250 do
                    local n = 0
                    for k = 1, 2000 do n += k end
                    local h = c:add((p - 1) * 250 + i, ms)
                    if i % 50 == 0 then task.wait() end
                end
            end)
        end
        while got < 1000 do
            sum += c:next()
            got += 1
        end
        return { sum = sum, len = #c }"""
    )
    assert driver.ok(source) == {"sum": 500500, "len": 0}


def test_many_oneshots_between_busy_threads(make: Make) -> None:
    driver = make(slice_ms=1)
    source = (
        PRELUDE
        + """
        local list, second = {}, datetime.timedelta_seconds(7)
        for i = 1, 300 do
            list[i] = channel.OneshotChannel()
            task.defer(function()
                local n = 0
                for k = 1, 5000 do n += k end
                if i % 3 == 0 then task.wait() end
                list[i]:send(i)
            end)
        end
        local values, timed_out = channel.selectoneshots(list, second)
        local sum = 0
        for _, v in values do sum += v end
        return { sum = sum, n = #values, timed_out = timed_out }"""
    )
    assert driver.ok(source) == {"sum": 45150, "n": 300, "timed_out": False}


def test_an_event_that_ends_leaves_no_receiver_behind(driver: Driver) -> None:
    """A deadline that ends a waiting main thread gives back its place, so the VM counts as idle again."""
    number = driver.script(PRELUDE + "channel.DelayChannel():next()", timeout_ms=100)
    assert driver.done(number).parts[0].outcome is Outcome.TIMEOUT
    driver.ok("return 1")
    ended = driver.script(
        PRELUDE + "local me = coroutine.running() task.delay(0.05, task.cancel, me) channel.OneshotChannel():recv()"
    )
    assert driver.done(ended).parts[0].outcome is Outcome.CANCELLED
    assert driver.ok("return 1") == 1


def test_receivers_survive_collection(driver: Driver) -> None:
    """Nothing but the wait itself holds the waiting threads."""
    source = (
        PRELUDE
        + """
        local results = {}
        for i = 1, 50 do
            local c = channel.OneshotChannel()
            task.spawn(function() results[i] = c:recv().value end)
            task.delay(0.05, function() c:send({ value = i }) end)
        end
        for i = 1, 200 do local t = table.create(1000, {}) end
        task.wait(0.2)
        local sum = 0
        for i = 1, 50 do sum += results[i] end
        return sum"""
    )
    assert driver.ok(source) == 1275


def test_many_timeouts_hold_nothing(driver: Driver) -> None:
    """Timers of receivers that got their value early count no more once the limit is near."""
    source = (
        PRELUDE
        + """
        local seven = datetime.timedelta_seconds(7)
        for i = 1, 30000 do
            local c = channel.OneshotChannel()
            task.defer(c.send, c, i)
            assert(c:recvtimeout(seven) == i)
        end
        return gcinfo() < 10000"""
    )
    assert driver.ok(source) is True


def test_debug_writes_one_line(make: Make) -> None:
    driver = make(debug=True)
    driver.ok("_debug('text', 1, {a = 'x'}) _debug()")
    assert [line[2:] for line in driver.logs] == [("info", 'text\t1\t{\n  a = "x",\n}'), ("info", "nil")]
    assert make().ok("return _debug == nil") is True
