"""What a ban leaves of a tenant: no host call that goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pytw.eventnames import DEFAULT_EVENTS
from pytw.types import Outcome, TenantState
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, event, spec

SAVES = 'return { E = function(ctx) ctx.KV:set("k", 1, {"s"}) end }'


async def test_calls_in_flight_of_a_banned_tenant_end_undone_and_no_others() -> None:
    db = MemoryDb()
    for tenant in (A, B):
        db.put(tenant, template("t", SAVES, "E", caps=("*",)))
    thread = WorkerThread(Worker(spec(), db, MemoryDiscord()))
    await thread.start()
    try:
        gates = {tenant: asyncio.Event() for tenant in (A, B)}

        async def held(tenant: int, *arguments: object, **options: object) -> object:
            await gates[tenant].wait()
            return await written(tenant, *arguments, **options)

        written, db.kv_set = db.kv_set, held
        ends = [asyncio.create_task(thread.dispatch_event(tenant, event("E"))) for tenant in (A, B)]
        await until(lambda: thread.worker.context.in_flight == 2, "both calls")
        db.states[A] = replace(TenantState(DEFAULT_EVENTS, {}), banned=True)
        await thread.refresh_tenant(A)
        assert (await ends[0]).outcome is Outcome.CANCELLED
        await until(lambda: thread.worker.context.in_flight == 1, "the banned tenant's call to end")
        for gate in gates.values():
            gate.set()
        assert (await ends[1]).outcome is Outcome.OK
        assert [tenant for tenant, *_ in db.records] == [B]
    finally:
        await thread.kill()
