"""`Background`: behind live events, bounded, and never for ever."""

import asyncio

from pytw.types import CreateEvent, DispatchResult, Outcome
from pytw.worker.background import IN_FLIGHT_MAX, LIVE_MAX, LOOK_AGAIN_S, PATIENCE_S, Background

from .fakes import until

EVENT = CreateEvent("OnStartup", b"{}")


class Dispatch:
    """Holds events until the test ends them."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.running: list = []
        self.cancelled: list[int] = []

    def dispatch(self, tenant: int, event: CreateEvent, done, timeout_ms: int = 0) -> int:
        self.running.append(done)
        return len(self.running)

    def cancel(self, tenant: int, request: int) -> None:
        self.cancelled.append(request)


async def test_only_so_many_run_at_once():
    dispatch = Dispatch()
    background = Background(dispatch)
    tasks = [asyncio.create_task(background.run(1, EVENT)) for _ in range(IN_FLIGHT_MAX + 3)]
    await until(lambda: len(dispatch.running) == IN_FLIGHT_MAX, "the first ones")
    dispatch.running[0](DispatchResult.nothing_ran(Outcome.OK).body)
    await until(lambda: len(dispatch.running) == IN_FLIGHT_MAX + 1, "the next one")
    for done in list(dispatch.running[1:]):
        done(DispatchResult.nothing_ran(Outcome.BANNED).body)
    await until(lambda: len(dispatch.running) == IN_FLIGHT_MAX + 3, "the last ones")
    for done in dispatch.running[-2:]:
        done(DispatchResult.nothing_ran(Outcome.OK).body)
    assert (await asyncio.gather(*tasks)).count(Outcome.OK) == 3


async def test_live_events_go_first_for_a_while():
    dispatch = Dispatch()
    dispatch.in_flight = LIVE_MAX + 1
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    task = asyncio.create_task(Background(dispatch, sleep=sleep).run(1, EVENT))
    await until(lambda: dispatch.running, "the event")
    assert PATIENCE_S <= sum(slept) < PATIENCE_S + 2 * LOOK_AGAIN_S
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert dispatch.cancelled == [1]


async def test_events_that_have_ended_are_not_taken_for_those_that_run_here():
    dispatch, slept = Dispatch(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    background = Background(dispatch, sleep=sleep)
    for number in range(3):
        task = asyncio.create_task(background.run(1, EVENT))
        await until(lambda number=number: len(dispatch.running) == number + 1, "the event")
        dispatch.running[-1](DispatchResult.nothing_ran(Outcome.OK).body)
        await task
    assert slept == []
    dispatch.in_flight = LIVE_MAX + 1
    task = asyncio.create_task(background.run(1, EVENT))
    await until(lambda: len(dispatch.running) == 4, "the event behind live ones")
    assert slept
    dispatch.running[-1](DispatchResult.nothing_ran(Outcome.OK).body)
    await task
