"""`WorkerDB`: the worker's database, fair to all its tenants.

Whatever satisfies `workerdb.WorkerDb` (Mesophyll's client, the master's stores) goes behind `Turns`: at most so many
operations of one tenant and of all are in flight, and who waits is served round-robin over tenants, so that a busy
tenant delays itself and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pytw.limits import DB_QUEUE_MAX, OBJECT_OPERATIONS_MAX, OBJECT_OPERATIONS_TOTAL_MAX
from pytw.mesophyll import turns
from pytw.workerdb import Operation, WorkerDb, over

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
    """`operations` are those of another `WorkerDb`, with `Turns`. Source: reference `WorkerDB` (spec 5.9).

    Objects have turns of their own: a bucket that answers slowly must not hold up the database.
    """

    def __init__(self, db: WorkerDb, per_tenant: int) -> None:
        self._db = db
        self.turns = Turns(per_tenant)
        self.object_turns = Turns(min(per_tenant, OBJECT_OPERATIONS_MAX), OBJECT_OPERATIONS_TOTAL_MAX)
        self.operations = over(self._answer)

    async def _answer(self, operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        turns = self.object_turns if operation.of_objects else self.turns
        async with turns.turn(tenant if operation.of_tenant else WORKER_ITSELF):
            return await operation.run(self._db, tenant, args)
