"""`WorkerDB`: the worker's database, fair to all its tenants.

Whatever satisfies `workerdb.WorkerDb` (Mesophyll's client, the stores themselves) goes behind `Turns`: at most so many
operations of one tenant and of all are in flight, and who waits is served round-robin over tenants, so that a busy
tenant delays itself and nobody else. Every operation ends within its bound, and what only reads is asked again while the
storage is away; a write never, for nobody knows whether it has happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pytw.errors import DeadlineExceeded, Forbidden, InternalError, PytwError, StorageUnavailable
from pytw.limits import (
    DB_GATES_S,
    DB_OPERATION_S,
    DB_QUEUE_MAX,
    DB_READ_TRIES_MAX,
    DB_RETRY_FIRST_S,
    OBJECT_OPERATION_S,
    OBJECT_OPERATIONS_MAX,
    OBJECT_OPERATIONS_TOTAL_MAX,
)
from pytw.mesophyll import turns
from pytw.routing import owns_part, worker_of
from pytw.workerdb import Operation, WorkerDb, over

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 64
#: What the master answers for every worker, besides what is asked of the object storage: what has to do with secrets.
MASTER_OPERATIONS = frozenset({"secret_get", "template_save", "template_delete"})
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
        if not self._turns.take(tenant):
            await self._wait(tenant)
        try:
            yield
        finally:
            self._turns.done(tenant)

    async def _wait(self, tenant: int) -> None:
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


def direct(stores: Callable[[], WorkerDb], master: WorkerDb, worker_id: int, workers: int) -> WorkerDb:
    """The stores themselves, for this worker's own tenants: nobody stands between who would refuse the others.

    Args:
        master: answers what only the master can: it alone counts and locks a tenant's objects, and has the secrets' key.
    Raises of its operations: Forbidden: what belongs to another worker.
    """

    async def answer(operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        if operation.of_objects or operation.name in MASTER_OPERATIONS:
            return await operation.run(master, tenant, args)
        if operation.of_tenant:
            if worker_of(tenant, workers) != worker_id:
                raise Forbidden(f"tenant {tenant} does not belong to worker {worker_id}")
        elif not owns_part(worker_id, workers, *args[:2]):
            raise Forbidden(f"{operation.name} of worker {args[0]} of {args[1]} does not belong to worker {worker_id}")
        return await operation.run(stores(), tenant, args)

    return over(answer)


def bound_s(operation: Operation) -> float:
    """How long an operation may take, from being asked for to its answer."""
    if operation.of_objects:
        return OBJECT_OPERATION_S
    return DB_GATES_S if operation.name == "gates" else DB_OPERATION_S


class WorkerDB:
    """`operations` are those of another `WorkerDb`, with turns, deadlines and retries. Source: reference `WorkerDB` (spec 5.9).

    They raise what the other one raises, InternalError in place of what is no PytwError, and Overloaded: too many of the
    tenant's operations wait; DeadlineExceeded. Objects
    have turns of their own: a bucket that answers slowly must not hold up the database.
    """

    def __init__(
        self,
        db: WorkerDb,
        per_tenant: int,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        bound_s: Callable[[Operation], float] = bound_s,
    ) -> None:
        self._db = db
        self._sleep = sleep
        self._jitter = jitter
        self._bound_s = bound_s
        self.turns = Turns(per_tenant)
        self.object_turns = Turns(min(per_tenant, OBJECT_OPERATIONS_MAX), OBJECT_OPERATIONS_TOTAL_MAX)
        self.operations = over(self._answer)
        #: Since the start: reads that were asked again, operations that were given up.
        self.retries = 0
        self.late = 0

    async def _answer(self, operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        bound_s = self._bound_s(operation)
        try:
            async with asyncio.timeout(bound_s) as deadline:
                if operation.reads:
                    return await self._read(operation, tenant, args)
                return await self._ask(operation, tenant, args)
        except TimeoutError:
            if not deadline.expired():
                raise
            self.late += 1
            unknown = "" if operation.reads else "; it may still happen"
            raise DeadlineExceeded(f"{operation.name} was not answered within {bound_s:g} s{unknown}") from None
        except PytwError:
            raise
        except Exception as error:  # noqa: BLE001 - told with its place; its text may hold what a tenant keeps
            # As the master answers over its link: what goes on for all tenants (expiry, resume) outlives a bug that one row meets.
            place = "".join(traceback.format_tb(error.__traceback__))
            log.error(
                "%s failed: %s at\n%s", operation.name, type(error).__name__, place, extra={"tenant": tenant or None}
            )
            raise InternalError(f"{operation.name} failed: {type(error).__name__}") from None

    async def _read(self, operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        pause_s = DB_RETRY_FIRST_S
        for _ in range(DB_READ_TRIES_MAX - 1):
            try:
                return await self._ask(operation, tenant, args)
            except StorageUnavailable:
                # Without its turn: others may ask for what is there.
                self.retries += 1
                await self._sleep(pause_s * (1 + self._jitter() / 2))
                pause_s *= 2
        return await self._ask(operation, tenant, args)

    async def _ask(self, operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        turns = self.object_turns if operation.of_objects else self.turns
        async with turns.turn(tenant if operation.of_tenant else WORKER_ITSELF):
            return await operation.run(self._db, tenant, args)
