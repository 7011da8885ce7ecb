"""Bans: what the owning worker does at once, and what it does not do any more. Real engines."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgpack
import msgspec
import pytest

from pytw.eventnames import DEFAULT_EVENTS
from pytw.types import Outcome, TenantState
from pytw.worker.cache import FlushSelf
from pytw.worker.changes import CHANGE_PATIENCE_S
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, record, template, until
from .workerlike_contract import A, B, event, spec

#: Writes each step of a timer, and each start, to the store; one event ends by itself, one does not.
BUSY = """
local n = 0
return {
	OnStartup = function(ctx) ctx.KV:set('started', ctx:event().data.reason, {'s'}) end,
	KeyExpiry = function(ctx) ctx.KV:set('expired', true, {'s'}) end,
	KeyResume = function(ctx) ctx.KV:set('resumed', true, {'s'}) end,
	Tick = function(ctx)
		task.spawn(function()
			while true do
				n += 1
				ctx.KV:set('n', n, {'s'})
				task.wait(0.01)
			end
		end)
	end,
	Wait = function() task.wait(30) end,
	Read = function(ctx) return ctx.KV:get('read', {'s'}) end,
	E = function() return 'ran' end,
}
"""
EVENTS = ("OnStartup", "KeyExpiry", "KeyResume", "Tick", "Wait", "Read", "E")
LOOP = f"local t = (function() {BUSY} end)() return function(ctx) return t[ctx:event().name](ctx) end"


class Rig:
    def __init__(self) -> None:
        self.db = MemoryDb()
        self.threads: list[WorkerThread] = []

    async def start(self, builtins: str = "") -> WorkerThread:
        made = Worker(msgspec.structs.replace(spec(), builtins_dir=builtins), self.db, MemoryDiscord())
        self.threads.append(WorkerThread(made))
        await self.threads[-1].start()
        return self.threads[-1]

    async def run(self, name: str) -> Outcome:
        return (await self.threads[-1].dispatch_event(A, event(name))).outcome

    async def ban(self, banned: bool) -> None:
        state = self.db.states.get(A, TenantState(DEFAULT_EVENTS, {}))
        self.db.states[A] = replace(state, banned=banned)
        await self.threads[-1].refresh_tenant(A)

    def kept(self, key: str) -> object:
        found = self.db.records.get((A, key, ("s",)))
        return None if found is None else msgpack.unpackb(found.value)


@pytest.fixture
async def rig():
    made = Rig()
    yield made
    for thread in made.threads:
        await thread.kill()


@pytest.fixture(params=["templates", "loop"])
async def world(request, rig: Rig, tmp_path: Path) -> Rig:
    """A worker that runs BUSY for tenant A: as its template, or as what a loop does."""
    if request.param == "templates":
        rig.db.put(A, template("t", BUSY, *EVENTS))
        await rig.start()
    else:
        rig.db.states[A] = TenantState(DEFAULT_EVENTS | set(EVENTS), {})
        (tmp_path / "init.luau").write_text(LOOP)
        await rig.start(str(tmp_path))
    await until(lambda: rig.kept("started") == "worker_startup", "the start")
    return rig


@pytest.mark.weakness(14)
async def test_ban_refuses_events_at_once_and_is_lifted_at_once(world: Rig):
    assert await world.run("E") is Outcome.OK
    await world.ban(True)
    assert await world.run("E") is Outcome.BANNED
    assert [note.outcome for note in await world.threads[-1].why(A)][-1] is Outcome.BANNED
    await world.ban(False)
    assert await world.run("E") is Outcome.OK


@pytest.mark.weakness(14)
async def test_ban_ends_what_runs_with_its_threads_and_timers(world: Rig):
    assert await world.run("Tick") is Outcome.OK
    await until(lambda: world.kept("n"), "the thread to run")
    waits = asyncio.create_task(world.run("Wait"))
    await until(lambda: world.threads[-1].worker.dispatch.in_flight, "the event")
    await world.ban(True)
    async with asyncio.timeout(5):
        assert await waits is Outcome.CANCELLED
    stats = world.threads[-1].worker.vms.stats()
    assert stats["vms"] == 0
    await until(lambda: not world.threads[-1].worker.context.in_flight, "the last calls of the VM")
    last = world.kept("n")
    await world.threads[-1].dispatch_event(B, event("E"))
    assert world.kept("n") == last


@pytest.mark.weakness(14)
async def test_ban_survives_a_restart_and_nothing_starts_for_it(world: Rig):
    await world.ban(True)
    await world.threads[-1].kill()
    world.db.records.clear()
    world.db.due = [(A, record(A, "k"))]
    await world.db.kv_set(A, "r", ["s"], msgpack.packb(1), resume=True)
    again = await world.start(world.threads[-1].worker.spec.builtins_dir)
    assert await world.run("E") is Outcome.BANNED
    refused = again.worker.dispatch.why
    background = {"KeyExpiry", "KeyResume", "OnStartup"}
    await until(lambda: background <= {note.event for note in refused.of(A)}, "what starts by itself to be refused")
    assert {note.outcome for note in refused.of(A)} == {Outcome.BANNED}
    assert [world.kept(key) for key in ("started", "expired", "resumed")] == [None, None, None]
    assert world.db.finished == []
    await world.ban(False)
    assert await world.run("E") is Outcome.OK
    await until(lambda: world.kept("started") is not None, "the start after the ban")
    await until(lambda: world.kept("resumed"), "the key that is resumed")


async def test_what_a_script_changes_ends_no_event_that_runs(world: Rig):
    """In loop mode the VM is made anew for it: when the others have ended, or had the time that events have."""
    worker = world.threads[-1].worker
    reads, go, get, let_end = [], asyncio.Event(), world.db.kv_get, worker.vms.let_end
    patience = []

    async def held(*asked: object):
        reads.append(asked)
        await go.wait()
        return await get(*asked)

    async def noted(tenant: int, patience_s: float) -> None:
        patience.append(patience_s)
        await let_end(tenant, patience_s)

    world.db.kv_get, worker.vms.let_end = held, noted
    other = asyncio.create_task(world.run("Read"))
    await until(lambda: reads, "the other event")
    gates = world.db.calls.count(("gate", A))
    del world.db.records[A, "started", ("s",)]
    worker.changes.defer(A, 12345, FlushSelf())
    if worker.loop_mode:
        await until(lambda: patience, "the change to wait for the event")
        assert patience[0] > CHANGE_PATIENCE_S
        assert world.db.calls.count(("gate", A)) == gates
    else:
        await until(lambda: world.db.calls.count(("gate", A)) > gates, "the change beside the event")
    go.set()
    assert await other is Outcome.OK
    if worker.loop_mode:
        await until(lambda: world.kept("started") == "updateTemplateCache", "the new VM")
    else:
        assert patience == []


async def test_ban_leaves_its_neighbours_alone(world: Rig):
    world.db.put(B, template("t", BUSY, *EVENTS))
    if world.threads[-1].worker.loop_mode:
        world.db.states[B] = TenantState(frozenset(EVENTS), {})
    await world.threads[-1].refresh_tenant(B)
    waits = asyncio.create_task(world.threads[-1].dispatch_event(B, event("Wait")))
    await until(lambda: world.threads[-1].worker.dispatch.in_flight, "the event")
    await world.ban(True)
    assert not waits.done()
    assert (await world.threads[-1].dispatch_event(B, event("E"))).outcome is Outcome.OK
    waits.cancel()


async def test_ban_takes_an_event_that_waits_for_its_program(rig: Rig):
    rig.db.put(A, template("t", BUSY, "E", "Wait"))
    await rig.start()
    rig.db.blocked[A] = asyncio.Event()
    waits = asyncio.create_task(rig.run("E"))
    await until(lambda: rig.db.in_flight[A], "the load")
    banned = asyncio.create_task(rig.ban(True))
    await asyncio.sleep(0)
    rig.db.blocked.pop(A).set()
    await banned
    assert await waits is Outcome.BANNED
