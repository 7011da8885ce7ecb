"""`WorkerDB`: the worker's database, fair to all its tenants.

Whatever satisfies `types.WorkerDb` (Mesophyll's client, the master's stores) goes behind `Turns`: at most so many
operations of one tenant and of all are in flight, and who waits is served round-robin over tenants, so that a busy
tenant delays itself and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from pytw.limits import DB_QUEUE_MAX, OBJECT_OPERATIONS_MAX, OBJECT_OPERATIONS_TOTAL_MAX
from pytw.mesophyll import turns
from pytw.types import (
    GlobalEntry,
    GlobalRecord,
    KvRecord,
    ObjectInfo,
    TemplateSource,
    TenantGate,
    TenantState,
    WorkerDb,
)

IN_FLIGHT_MAX = 64
#: The worker's own operations take turns like a tenant.
WORKER_ITSELF = -1


class Turns:
    """Turns to wait for: `mesophyll.turns` for coroutines."""

    def __init__(self, per_tenant: int, total: int = IN_FLIGHT_MAX, waiting_max: int = DB_QUEUE_MAX) -> None:
        self._turns = turns.Turns(per_tenant=per_tenant, total=total, waiting_max=waiting_max)
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, tenant: int) -> AsyncIterator[None]:
        """Raises: Overloaded: too many of the tenant's operations wait."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def start() -> None:
            if mine.done():
                # Its waiter was cancelled meanwhile.
                self._turns.done(tenant)
            else:
                mine.set_result(None)

        self._turns.submit(tenant, start)
        self.waiting += 1
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                self._turns.done(tenant)
            raise
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.done(tenant)


class WorkerDB:
    """Satisfies `types.WorkerDb` over another one, with `Turns`. Source: reference `WorkerDB` (spec 5.9).

    Objects have turns of their own: a bucket that answers slowly must not hold up the database.
    """

    def __init__(self, db: WorkerDb, per_tenant: int) -> None:
        self._db = db
        self.turns = Turns(per_tenant)
        self.object_turns = Turns(min(per_tenant, OBJECT_OPERATIONS_MAX), OBJECT_OPERATIONS_TOTAL_MAX)

    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
        async with self.turns.turn(WORKER_ITSELF):
            return await self._db.gates(worker_id, workers)

    async def gate(self, tenant: int) -> TenantGate:
        async with self.turns.turn(tenant):
            return await self._db.gate(tenant)

    async def program(self, tenant: int) -> list[TemplateSource]:
        async with self.turns.turn(tenant):
            return await self._db.program(tenant)

    async def tenant_state(self, tenant: int) -> TenantState:
        async with self.turns.turn(tenant):
            return await self._db.tenant_state(tenant)

    async def set_tenant_state(self, tenant: int, state: TenantState) -> None:
        async with self.turns.turn(tenant):
            await self._db.set_tenant_state(tenant, state)

    async def kv_get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None:
        async with self.turns.turn(tenant):
            return await self._db.kv_get(tenant, key, scopes)

    async def kv_set(
        self, tenant: int, key: str, scopes: Sequence[str], value: bytes, expires_at: datetime | None = None
    ) -> None:
        async with self.turns.turn(tenant):
            await self._db.kv_set(tenant, key, scopes, value, expires_at)

    async def kv_delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int:
        async with self.turns.turn(tenant):
            return await self._db.kv_delete(tenant, key, scopes)

    async def kv_find(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None = None
    ) -> list[KvRecord]:
        async with self.turns.turn(tenant):
            return await self._db.kv_find(tenant, pattern, scopes, limit=limit, after=after)

    async def kv_list_scopes(self, tenant: int) -> list[str]:
        async with self.turns.turn(tenant):
            return await self._db.kv_list_scopes(tenant)

    async def claim_expired(self, worker_id: int, workers: int, *, limit: int) -> list[tuple[int, KvRecord]]:
        async with self.turns.turn(WORKER_ITSELF):
            return await self._db.claim_expired(worker_id, workers, limit=limit)

    async def finish_expired(self, tenant: int, record_id: str, version: int) -> None:
        async with self.turns.turn(tenant):
            await self._db.finish_expired(tenant, record_id, version)

    async def global_find(
        self, tenant: int, scope: str, pattern: str, *, limit: int, skip: int = 0
    ) -> list[GlobalRecord]:
        async with self.turns.turn(tenant):
            return await self._db.global_find(tenant, scope, pattern, limit=limit, skip=skip)

    async def global_get(self, tenant: int, scope: str, key: str, version: int) -> GlobalRecord | None:
        async with self.turns.turn(tenant):
            return await self._db.global_get(tenant, scope, key, version)

    async def global_create(self, tenant: int, entry: GlobalEntry) -> None:
        async with self.turns.turn(tenant):
            await self._db.global_create(tenant, entry)

    async def global_delete(self, tenant: int, scope: str, key: str, version: int) -> None:
        async with self.turns.turn(tenant):
            await self._db.global_delete(tenant, scope, key, version)

    async def object_list(self, tenant: int, prefix: str, *, limit: int) -> list[ObjectInfo]:
        async with self.object_turns.turn(tenant):
            return await self._db.object_list(tenant, prefix, limit=limit)

    async def object_exists(self, tenant: int, key: str) -> bool:
        async with self.object_turns.turn(tenant):
            return await self._db.object_exists(tenant, key)

    async def object_get(self, tenant: int, key: str) -> bytes:
        async with self.object_turns.turn(tenant):
            return await self._db.object_get(tenant, key)

    async def object_put(self, tenant: int, key: str, data: bytes) -> None:
        async with self.object_turns.turn(tenant):
            await self._db.object_put(tenant, key, data)

    async def object_delete(self, tenant: int, key: str) -> None:
        async with self.object_turns.turn(tenant):
            await self._db.object_delete(tenant, key)

    async def object_url(self, tenant: int, key: str, expires_s: int) -> str:
        async with self.object_turns.turn(tenant):
            return await self._db.object_url(tenant, key, expires_s)
