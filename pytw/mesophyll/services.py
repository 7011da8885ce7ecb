"""What the master does for its workers: the database, gateway cursors, identify slots and forwarding.

A worker may touch only what is routed to it: tenants by `routing.worker_of`, shards by their number. Whatever else it asks
for is refused with ``forbidden`` and counted as `refused`, for a worker that asks is broken or taken over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import msgspec

from pytw.errors import DeadlineExceeded, Forbidden, InternalError, ProtocolError, PytwError
from pytw.limits import (
    DB_OPERATION_S,
    DB_OPERATIONS_TOTAL_MAX,
    DB_QUEUE_MAX,
    OBJECT_OPERATION_S,
    OBJECT_OPERATIONS_MAX,
    OBJECT_OPERATIONS_TOTAL_MAX,
    Limits,
)
from pytw.mesophyll.channel import Call
from pytw.mesophyll.dbcodec import Ask, pack_cursors, pack_result, unpack_ask, unpack_cursors
from pytw.mesophyll.records import Kind, unpack_event
from pytw.mesophyll.server import Link, LinkHandler
from pytw.mesophyll.turns import Turns
from pytw.routing import owns_part, worker_of
from pytw.types import CursorSink, Forwarder, IdentifySlots
from pytw.workerdb import WorkerDb

_encode = msgspec.msgpack.Encoder().encode
_decode_number = msgspec.msgpack.Decoder(tuple[int]).decode

log = logging.getLogger("mesophyll")


class Services:
    """Answers what `proxies` ask. `handlers` goes into a MesophyllServer."""

    def __init__(
        self,
        workers: int,
        *,
        shards: int,
        db: WorkerDb,
        cursors: CursorSink,
        slots: IdentifySlots,
        forwarder: Forwarder,
        limits: Limits | None = None,
    ) -> None:
        """
        Args:
            workers: size of the whole pool, in-process workers included.
            shards: how many gateway shards feed it.
        """
        self._workers = workers
        self._shards = shards
        self._db = db
        self._cursors = cursors
        self._slots = slots
        self._forwarder = forwarder
        per_tenant = (limits or Limits()).db_operations_max
        self._db_turns = Turns(per_tenant=per_tenant, total=DB_OPERATIONS_TOTAL_MAX, waiting_max=DB_QUEUE_MAX)
        # A bucket that answers slowly must not hold up the database.
        self._object_turns = Turns(
            per_tenant=min(per_tenant, OBJECT_OPERATIONS_MAX),
            total=OBJECT_OPERATIONS_TOTAL_MAX,
            waiting_max=DB_QUEUE_MAX,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        #: Requests for what belongs to another worker.
        self.refused = 0

    def handlers(self) -> dict[Kind, LinkHandler]:
        return {
            Kind.DB: self._on_db,
            Kind.CURSOR: self._on_cursor,
            Kind.IDENTIFY: self._on_identify,
            Kind.EVENT: self._on_event,
        }

    def _on_db(self, link: Link, call: Call) -> None:
        ask = unpack_ask(call.body)
        if ask.operation.of_tenant:
            self._require_tenant(link, call.tenant)
        elif not owns_part(link.worker_id, self._workers, *ask.args[:2]):
            self._refuse(link, f"{ask.operation.name} of worker {ask.args[0]} of {ask.args[1]}")
        turns = self._object_turns if ask.operation.of_objects else self._db_turns
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            given_up = True

        def start() -> None:
            if given_up:
                turns.done(call.tenant)
                return
            task = self._run(call, self._operate(call.tenant, ask), turns)
            # A statement or transaction is cut off whole: a write that nobody waits for must not come after the next one.
            # An upload runs to its end: one that is cut off half way helps nobody.
            call.on_cancel = None if ask.operation.of_objects and not ask.operation.reads else task.cancel

        call.on_cancel = give_up
        turns.submit(call.tenant, start)

    async def _operate(self, tenant: int, ask: Ask) -> bytes:
        bound_s = OBJECT_OPERATION_S if ask.operation.of_objects else DB_OPERATION_S
        try:
            async with asyncio.timeout(bound_s) as deadline:
                return pack_result(await ask.operation.run(self._db, tenant, ask.args))
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(f"{ask.operation.name} did not end within {bound_s:g} s") from None

    def _on_cursor(self, link: Link, call: Call) -> None:
        if call.request:
            self._run(call, self._load_cursors(link, _number(call)))
            return
        cursors = unpack_cursors(call.body)
        for shards, shard, _ in cursors:
            self._require_count(link, shards)
            self._require_shard(link, shard)
        for shards, shard, cursor in cursors:
            self._cursors.report(shards, shard, cursor)

    async def _load_cursors(self, link: Link, shards: int) -> bytes:
        self._require_count(link, shards)
        found = await self._cursors.load(shards)
        mine = [(shards, shard, cursor) for shard, cursor in found.items() if self._owns_shard(link, shard)]
        return pack_cursors(mine)

    def _on_identify(self, link: Link, call: Call) -> None:
        shard = _number(call)
        self._require_shard(link, shard)
        task = self._run(call, self._identify(shard))
        call.on_cancel = task.cancel

    async def _identify(self, shard: int) -> bytes:
        await self._slots.acquire(shard)
        return _encode(None)

    def _on_event(self, link: Link, call: Call) -> None:
        # Any tenant: that it is another worker's is why the event comes this way.
        event, _ = unpack_event(call.body)

        async def forward() -> bytes:
            return _encode((int(await self._forwarder.forward(call.tenant, event)),))

        self._run(call, forward())

    # Inside

    def _run(self, call: Call, work: Coroutine[Any, Any, bytes], turns: Turns | None = None) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._answer(call, work))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            # Not at the end of the work: what is cancelled before its first step has none.
            self._tasks.discard(task)
            work.close()
            if turns is not None:
                turns.done(call.tenant)

        task.add_done_callback(ended)
        return task

    async def _answer(self, call: Call, work: Coroutine[Any, Any, bytes]) -> None:
        try:
            call.answer(await work)
        except PytwError as error:
            call.fail(error)
        except Exception as error:
            log.exception("%s of a worker failed", Kind(call.kind).name, extra={"tenant": call.tenant or None})
            call.fail(InternalError(f"{Kind(call.kind).name} failed: {type(error).__name__}"))

    def _require_tenant(self, link: Link, tenant: int) -> None:
        if worker_of(tenant, self._workers) != link.worker_id:
            self._refuse(link, f"tenant {tenant}")

    def _owns_shard(self, link: Link, shard: int) -> bool:
        return 0 <= shard < self._shards and shard % self._workers == link.worker_id

    def _require_count(self, link: Link, shards: int) -> None:
        if shards != self._shards:
            self._refuse(link, f"cursors of {shards} shards where there are {self._shards}")

    def _require_shard(self, link: Link, shard: int) -> None:
        if not self._owns_shard(link, shard):
            self._refuse(link, f"shard {shard}")

    def _refuse(self, link: Link, what: str) -> None:
        self.refused += 1
        log.error("worker %d asked for %s, which is not its own", link.worker_id, what)
        raise Forbidden(f"{what} does not belong to worker {link.worker_id}")


def _number(call: Call) -> int:
    try:
        return _decode_number(call.body)[0]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"the body of {Kind(call.kind).name} is malformed: {error}") from None
