"""`WorkerDB`: the worker's database, fair to all its tenants.

Whatever satisfies `types.WorkerDb` (Mesophyll's client, the master's stores) goes behind `Turns`: at most so many
operations of one tenant and of all are in flight, and who waits is served round-robin over tenants, so that a busy
tenant delays itself and nobody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from pytw.errors import Overloaded
from pytw.types import KvRecord, TemplateSource, TenantGate, TenantState, WorkerDb

IN_FLIGHT_MAX = 64
WAITING_PER_TENANT_MAX = 256
#: The worker's own operations take turns like a tenant.
WORKER_ITSELF = -1


class Turns:
    """Hands out turns, at most *per_tenant* to one tenant and *total* to all, round-robin over who waits."""

    def __init__(self, per_tenant: int, total: int = IN_FLIGHT_MAX, waiting_max: int = WAITING_PER_TENANT_MAX) -> None:
        self._per_tenant = per_tenant
        self._total = total
        self._waiting_max = waiting_max
        self._used = 0
        self._used_by: dict[int, int] = {}
        #: Tenants that wait, in the order of their next turns.
        self._ring: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, tenant: int) -> AsyncIterator[None]:
        """Raises: Overloaded: too many of the tenant's operations wait."""
        await self._acquire(tenant)
        try:
            yield
        finally:
            self._release(tenant)

    async def _acquire(self, tenant: int) -> None:
        if tenant not in self._ring and self._may(tenant):
            self._take(tenant)
            return
        queue = self._ring.setdefault(tenant, deque())
        if len(queue) >= self._waiting_max:
            raise Overloaded("too many database operations of this tenant wait")
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._release(tenant)
            else:
                if mine in queue:
                    queue.remove(mine)
                if not queue and self._ring.get(tenant) is queue:
                    del self._ring[tenant]
            raise

    def _may(self, tenant: int) -> bool:
        return self._used < self._total and self._used_by.get(tenant, 0) < self._per_tenant

    def _take(self, tenant: int) -> None:
        self._used += 1
        self._used_by[tenant] = self._used_by.get(tenant, 0) + 1

    def _release(self, tenant: int) -> None:
        self._used -= 1
        left = self._used_by[tenant] - 1
        if left:
            self._used_by[tenant] = left
        else:
            del self._used_by[tenant]
        self._serve()

    def _serve(self) -> None:
        """Give free turns to who waits; each tenant served goes to the end of the ring."""
        looked_at = 0
        while self._used < self._total and looked_at < len(self._ring):
            tenant = next(iter(self._ring))
            self._ring.move_to_end(tenant)
            if not self._may(tenant):
                looked_at += 1
                continue
            looked_at = 0
            queue = self._ring[tenant]
            while queue:
                waiting = queue.popleft()
                if not waiting.done():
                    self._take(tenant)
                    waiting.set_result(None)
                    break
            if not queue:
                del self._ring[tenant]

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._ring.values())


class WorkerDB:
    """Satisfies `types.WorkerDb` over another one, with `Turns`. Source: reference `WorkerDB` (spec 5.9)."""

    def __init__(self, db: WorkerDb, per_tenant: int) -> None:
        self._db = db
        self.turns = Turns(per_tenant)

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

    async def claim_expired(self, worker_id: int, workers: int, *, limit: int) -> list[tuple[int, KvRecord]]:
        async with self.turns.turn(WORKER_ITSELF):
            return await self._db.claim_expired(worker_id, workers, limit=limit)

    async def finish_expired(self, tenant: int, record_id: str, version: int) -> None:
        async with self.turns.turn(tenant):
            await self._db.finish_expired(tenant, record_id, version)
