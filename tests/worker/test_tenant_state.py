"""A tenant's state from scripts to the gate and back, through a real worker and its engines."""

import asyncio

import pytest

from pytw.types import Outcome, TenantState
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template
from .workerlike_contract import A, event, spec

#: Reads, waits for its event's number of steps, and adds an event and a key of its own.
WRITER = """
return { E = function(ctx)
	local mine = ctx:event().data.mine
	local state = ctx.Runtime:gettenantstate()
	for _ = 1, 3 do task.wait() end
	table.insert(state.events, mine)
	state.data.refs = state.data.refs or {}
	state.data.refs[mine] = true
	ctx.Runtime:settenantstate(state)
end }
"""


@pytest.fixture
async def start():
    threads = []

    async def started(db: MemoryDb) -> WorkerThread:
        threads.append(WorkerThread(Worker(spec(), db, MemoryDiscord())))
        await threads[-1].start()
        return threads[-1]

    yield started
    for thread in threads:
        await thread.kill()


async def test_events_that_write_at_once_lose_nothing_and_are_heard_at_once(start):
    db = MemoryDb()
    db.put(A, template("t", WRITER, "E"), template("hears", "return { Mine1 = function() return 'heard' end }", "E"))
    worker = await start(db)
    names = [f"Mine{number}" for number in range(4)]
    ended = await asyncio.gather(
        *(worker.dispatch_event(A, event(payload=b'{"mine":"%s"}' % n.encode())) for n in names)
    )
    assert {result.outcome for result in ended} == {Outcome.OK}
    assert db.states[A].events >= set(names)
    assert db.states[A].data == {"refs": dict.fromkeys(names, True)}
    assert worker.worker.state.listens(A, "Mine1")


async def test_what_a_script_took_away_stays_away_after_a_restart(start):
    db = MemoryDb()
    db.states[A] = TenantState(frozenset({"E", "Gone"}), {"list": [], "null": None}, revision=4)
    source = """return { E = function(ctx)
        local state = ctx.Runtime:gettenantstate()
        table.remove(state.events, table.find(state.events, 'Gone'))
        ctx.Runtime:settenantstate(state)
        return state.revision
    end }"""
    db.put(A, template("t", source, "E"))
    worker = await start(db)
    (ran,) = (await worker.dispatch_event(A, event())).templates
    assert (ran.error, ran.value) == (None, 4)
    assert (db.states[A].events, db.states[A].data) == ({"E"}, {"list": [], "null": None})
    assert not worker.worker.state.listens(A, "Gone")
    again = await start(db)
    assert not again.worker.state.listens(A, "Gone")
    assert again.worker.state.listens(A, "E")


async def test_tenant_without_a_state_has_the_default_set(start):
    db = MemoryDb()
    db.put(A, template("t", "return { E = function(ctx) return ctx.Runtime:gettenantstate() end }", "E"))
    worker = await start(db)
    (ran,) = (await worker.dispatch_event(A, event())).templates
    assert ran.value == {
        "events": ["INTERACTION_CREATE", "WebExecuteSetting", "WebGetSettings"],
        "banned": False,
        "data": {},
        "revision": 0,
    }
