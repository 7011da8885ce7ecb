"""`KeyResume`: each marked key once at the start and when a VM begins anew, behind live events, never in a circle."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pytw.types import CreateEvent, Outcome
from pytw.worker.filter import WorkerFilter
from pytw.worker.keyresume import AGAIN_S, KeyResume
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, event, spec

ONE = b"\x01"


class Gates:
    def __init__(self, *events: str) -> None:
        self.names = frozenset(events)

    def listens(self, tenant: int, event: str) -> bool:
        return event in self.names

    def events(self, tenant: int) -> frozenset[str]:
        return self.names


class Runs:
    def __init__(self) -> None:
        self.ran: list[tuple[int, str, bytes]] = []

    async def run(self, tenant: int, event: CreateEvent) -> Outcome:
        await asyncio.sleep(0)
        self.ran.append((tenant, event.name, event.payload))
        return Outcome.OK


class Clock:
    """Stands still, except while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.gate.wait()
        self.now += seconds
        await asyncio.sleep(0)

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, *events: str, workers: int = 1) -> None:
        self.db, self.runs, self.clock = MemoryDb(), Runs(), Clock()
        self.resume = KeyResume(
            self.db,
            WorkerFilter(0, workers),
            Gates(*events),
            self.runs,
            sleep=self.clock.sleep,
            clock=self.clock,
        )

    async def keys(self, tenant: int, count: int) -> None:
        for number in range(count):
            await self.db.kv_set(tenant, f"k{number:03}", ["s", "t"], ONE, resume=True)
        await self.db.kv_set(tenant, "not this one", ["s"], ONE)


@pytest.fixture
async def started() -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_every_marked_key_is_told_once_at_the_start(started):
    world = World("KeyResume", "KeyResume[t]")
    await world.keys(A, 250)
    started.append(asyncio.create_task(world.resume.run()))
    await until(lambda: len(world.runs.ran) == 500, "all keys under both names")
    record = await world.db.kv_get(A, "k000", ["s"])
    payload = b'{"id":"%s","key":"k000","scopes":["s","t"]}' % record.id.encode()
    assert {name for _, name, body in world.runs.ran if body == payload} == {"KeyResume", "KeyResume[t]"}
    assert len(set(world.runs.ran)) == 500


async def test_only_who_listens_is_told(started):
    world = World("KeyResume[other]")
    await world.keys(A, 3)
    world.resume.again(A)
    started.append(asyncio.create_task(world.resume.run()))
    await until(lambda: ("tenant_resume_keys", A) in world.db.calls, "the look for keys")
    assert world.runs.ran == []


async def test_tenant_that_begins_anew_is_told_no_more_often_than_allowed(started):
    world = World("KeyResume")
    started.append(asyncio.create_task(world.resume.run()))
    await until(lambda: ("resume_keys", -1) in world.db.calls, "the start")
    await world.keys(A, 2)
    for _ in range(3):
        world.resume.again(A)
    await until(lambda: len(world.runs.ran) == 2, "the keys")
    assert world.clock.slept == []
    world.resume.again(A)
    await until(lambda: len(world.runs.ran) == 4, "the keys again")
    assert world.clock.slept == [AGAIN_S]


async def test_tenants_that_must_wait_hold_up_no_other(started):
    world = World("KeyResume")
    started.append(asyncio.create_task(world.resume.run()))
    await until(lambda: ("resume_keys", -1) in world.db.calls, "the start")
    *often, once = [number << 22 for number in range(1, 10)]
    for tenant in (*often, once):
        await world.keys(tenant, 1)
    for tenant in often:
        world.resume.again(tenant)
    await until(lambda: len(world.runs.ran) == 8, "the keys of those who begin anew often")
    world.clock.gate.clear()
    for tenant in often:
        world.resume.again(tenant)
    await until(lambda: world.clock.slept == [AGAIN_S] * 8, "them to wait")
    world.resume.again(once)
    await until(lambda: [tenant for tenant, *_ in world.runs.ran][8:] == [once], "the key of the other")
    world.clock.gate.set()
    await until(lambda: len(world.runs.ran) == 17, "all keys")


async def test_failing_storage_is_asked_again(started):
    world = World("KeyResume")
    await world.keys(A, 1)
    world.db.failing = True
    started.append(asyncio.create_task(world.resume.run()))
    await until(lambda: len(world.clock.slept) > 3, "the pauses")
    world.db.failing = False
    await until(lambda: len(world.runs.ran) == 1, "the key")


async def test_tenant_of_another_worker_is_left_alone():
    world = World("KeyResume", workers=2)
    await world.keys(A, 1)
    world.resume.again(A)
    world.resume.again(B)
    assert world.resume._wanted.qsize() == 1


SOURCE = """
local n = 0
return {
    KeyResume = function(ctx)
        local key = ctx:event().data.key
        ctx.KV:set("told", (ctx.KV:get("told", {"s"}) or 0) + 1, {"s"})
        if key == "x" then n += 1 end
    end,
    E = function()
        local t = {}
        while true do table.insert(t, string.rep("x", 100000) .. #t) end
    end,
}
"""


async def test_worker_tells_at_its_start_and_after_a_vm_that_ran_out_of_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pytw.worker.keyresume.AGAIN_S", 0.0)
    db = MemoryDb()
    db.put(A, template("t", SOURCE, "KeyResume", "E"))
    await db.kv_set(A, "x", ["r"], ONE, resume=True)
    worker = WorkerThread(Worker(spec(), db, MemoryDiscord()))
    await worker.start()

    async def told(times: int) -> bool:
        record = await db.kv_get(A, "told", ["s"])
        return record is not None and record.value == bytes([times])

    try:
        await until(lambda: told(1), "the start")
        assert (await worker.dispatch_event(A, event())).outcome is Outcome.LIMIT_EXCEEDED
        await until(lambda: told(2), "the VM after that")
        await worker.refresh_tenant(A)
        await until(lambda: told(3), "the change of templates")
        await worker.drop_tenant(A)
        await until(lambda: told(4), "the VM that was dropped")
    finally:
        await worker.kill()
