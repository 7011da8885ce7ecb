"""Handlers of KeyExpiry and KeyResume that never end hold up their own tenant, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pytw.types import CreateEvent, DispatchResult, Outcome
from pytw.worker.background import IN_FLIGHT_MAX, LIVE_MAX, Background
from pytw.worker.filter import WorkerFilter
from pytw.worker.keyexpiry import KeyExpiry, KeyExpiryChannel
from pytw.worker.keyresume import KeyResume

from .fakes import MemoryDb, record, until

HOGS = [number << 22 for number in range(1, 6)]
QUIET = 9 << 22
EVENT = CreateEvent("OnStartup", b"{}")
ONE = b"\x01"


class Listening:
    def listens(self, tenant: int, event: str) -> bool:
        return event in self.events(tenant)

    def events(self, tenant: int) -> frozenset[str]:
        return frozenset({"KeyExpiry", "KeyResume"})


class Stuck:
    """Runs events as `Background` does; those of `HOGS` end when the test says."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, bytes]] = []
        self.gate = asyncio.Event()

    async def run(self, tenant: int, event: CreateEvent) -> Outcome:
        self.ran.append((tenant, event.payload))
        if tenant in HOGS:
            await self.gate.wait()
        return Outcome.OK

    def told(self, tenant: int) -> int:
        return sum(tenant == other for other, _ in self.ran)


class Held:
    """A dispatch whose events never end by themselves."""

    def __init__(self) -> None:
        self.done: list = []
        self.cancelled: list[int] = []

    @property
    def in_flight(self) -> int:
        return len(self.done)

    def dispatch(self, tenant: int, event: CreateEvent, done, timeout_ms: int = 0) -> int:
        self.done.append(done)
        return len(self.done)

    def cancel(self, tenant: int, request: int) -> None:
        self.cancelled.append(request)


@pytest.fixture
async def started() -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_events_that_do_not_end_give_their_turn_up_and_are_no_live_ones():
    async def never(_: float) -> None:
        raise AssertionError("there are no live events to wait for")

    dispatch = Held()
    background = Background(dispatch, sleep=never, turn_s=0.0)
    many = max(LIVE_MAX, IN_FLIGHT_MAX) + IN_FLIGHT_MAX + 1
    tasks = [asyncio.create_task(background.run(1, EVENT)) for _ in range(many)]
    await until(lambda: len(dispatch.done) == many, "all events")
    dispatch.done[0](DispatchResult.nothing_ran(Outcome.OK).body)
    assert await tasks[0] is Outcome.OK
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert dispatch.cancelled == [*range(2, many + 1)]


async def test_keys_of_a_few_tenants_leave_room_for_others_to_expire(started):
    db, runs = MemoryDb(), Stuck()
    db.due = [(tenant, record(tenant, f"k{n}")) for n in range(100) for tenant in HOGS] + [(QUIET, record(QUIET, "k"))]
    channel = KeyExpiryChannel(db, WorkerFilter(0, 1))
    started.append(asyncio.create_task(KeyExpiry(channel, db, Listening(), runs).run()))
    await until(lambda: runs.told(QUIET) == 1, "the key of the quiet tenant")


async def test_a_tenant_that_does_not_end_is_told_the_rest_on_its_own(started):
    db, runs = MemoryDb(), Stuck()
    for n in range(60):
        for tenant in (*HOGS, QUIET):
            await db.kv_set(tenant, f"k{n}", ["s"], ONE, resume=True)
    resume = KeyResume(db, WorkerFilter(0, 1), Listening(), runs, slow_s=0.0)
    started.append(asyncio.create_task(resume.run()))
    await until(lambda: runs.told(QUIET) == 60, "the keys of the quiet tenant")
    assert max(map(runs.told, HOGS)) < 60
    runs.gate.set()
    await until(lambda: len(runs.ran) == 60 * (len(HOGS) + 1), "all keys")
    assert len(set(runs.ran)) == len(runs.ran)


async def test_tenants_that_do_not_end_leave_places_for_others_that_begin_anew(started):
    db, runs = MemoryDb(), Stuck()
    resume = KeyResume(db, WorkerFilter(0, 1), Listening(), runs)
    started.append(asyncio.create_task(resume.run()))
    await until(lambda: ("resume_keys", -1) in db.calls, "the start")
    for tenant in (*HOGS, QUIET):
        await db.kv_set(tenant, "k", ["s"], ONE, resume=True)
        resume.again(tenant)
    await until(lambda: runs.told(QUIET) == 1, "the key of the quiet tenant")
    assert {runs.told(tenant) for tenant in HOGS} == {1}
