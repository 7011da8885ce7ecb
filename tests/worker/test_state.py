"""`WorkerState`: the gate."""

import math

from pytw.eventnames import DEFAULT_EVENTS
from pytw.types import Outcome, TenantGate, TenantState
from pytw.worker.state import WorkerState

from .fakes import MemoryDb, template

A, B = 2 << 22, 4 << 22
OTHER_WORKERS = 3 << 22


async def loaded(db: MemoryDb, **options) -> WorkerState:
    state = WorkerState(db, 0, 2, **options)
    await state.load({"MESSAGE"})
    return state


async def test_unknown_tenant_listens_for_the_defaults_and_the_builtin_events():
    state = await loaded(MemoryDb())
    assert all(state.listens(A, event) for event in DEFAULT_EVENTS | {"MESSAGE"})
    assert not state.listens(A, "GUILD_MEMBER_ADD")


async def test_tenant_listens_for_what_its_state_and_its_templates_name():
    db = MemoryDb()
    db.put(A, template("t", "", "GUILD_MEMBER_ADD"))
    db.states[A] = TenantState(frozenset({"MESSAGE_UPDATE"}), {})
    state = await loaded(db)
    assert state.events(A) == {"GUILD_MEMBER_ADD", "MESSAGE_UPDATE", "MESSAGE"}
    assert state.listeners("GUILD_MEMBER_ADD") == [A]


async def test_only_this_workers_tenants_are_held():
    db = MemoryDb()
    for tenant in (A, B, OTHER_WORKERS):
        db.put(tenant, template("t", "", "X"))
    assert len(await loaded(db)) == 2


async def test_refresh_takes_effect_at_the_next_question():
    db = MemoryDb()
    state = await loaded(db)
    db.put(A, template("t", "", "X"))
    assert not state.listens(A, "X")
    await state.refresh(A)
    assert state.listens(A, "X")


async def test_gate_that_changes_while_all_are_read_is_the_changed_one():
    """They may have been read before it changed."""
    db = MemoryDb()

    class Slow(MemoryDb):
        async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
            found = await db.gates(worker_id, workers)
            db.put(A, template("t", "", "X"))
            db.states[B] = TenantState(DEFAULT_EVENTS, {}, banned=True)
            for tenant in (A, B):
                await state.refresh(tenant)
            return found

        async def gate(self, tenant: int) -> TenantGate:
            return await db.gate(tenant)

    state = WorkerState(Slow(), 0, 2)
    await state.load({"MESSAGE"})
    assert state.listens(A, "X")
    assert state.refusal(B) is Outcome.BANNED


async def test_ban_is_held_and_lifted_with_the_gate():
    db = MemoryDb()
    db.states[A] = TenantState(DEFAULT_EVENTS, {}, banned=True)
    state = await loaded(db)
    assert state.refusal(A) is Outcome.BANNED
    state.apply(TenantGate(A, DEFAULT_EVENTS))
    assert state.refusal(A) is None
    assert A not in state.blocked


async def test_quarantine_ends_by_the_clock():
    now = [1000.0]
    state = await loaded(MemoryDb(), clock=lambda: now[0])
    state.quarantine(A, 1010.0)
    assert state.refusal(A) is Outcome.QUARANTINED
    now[0] = 1010.0
    assert state.refusal(A) is None
    assert not state.blocked


async def test_quarantine_neither_lifts_nor_outlives_a_ban():
    state = await loaded(MemoryDb(), clock=lambda: 0.0)
    state.apply(TenantGate(A, DEFAULT_EVENTS, banned=True))
    state.quarantine(A, 10.0)
    state.quarantine(A, 0)
    assert state.blocked[A] == math.inf


async def test_quarantine_survives_a_reload_and_a_refresh():
    db = MemoryDb()
    state = await loaded(db, clock=lambda: 0.0)
    state.quarantine(A, 10.0)
    await state.load()
    await state.refresh(A)
    assert state.refusal(A) is Outcome.QUARANTINED
