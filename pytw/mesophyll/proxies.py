"""What a worker process has instead of the master's own parts: each asks over the link. `services` answers."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pytw.errors import LimitExceeded, ProtocolError
from pytw.mesophyll.dbcodec import pack_ask, pack_cursors, unpack_cursors, unpack_result
from pytw.mesophyll.peer import Peer
from pytw.mesophyll.records import Kind, pack_event
from pytw.types import CreateEvent, Cursor, CursorSink, Forwarder, IdentifySlots, Outcome, TenantGate
from pytw.workerdb import OPERATIONS, Operation, WorkerDb, over

#: `worker.db` gives an operation up before; this ends one that nobody has set a bound for.
DB_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 30.0
#: How finely the gates of a worker are asked for, at most.
GATES_PARTS_MAX = 1 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(tuple[int]).decode


def db_client(link: Peer) -> WorkerDb:
    """The database through the master. Raises what the stores raise, and WorkerLost or DeadlineExceeded."""

    async def ask(operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        body = await link.request(Kind.DB, tenant, pack_ask(operation.name, *args), DB_TIMEOUT_S)
        return unpack_result(operation.name, body)

    async def gates(worker_id: int, workers: int) -> list[TenantGate]:
        try:
            return cast(list[TenantGate], await ask(OPERATIONS["gates"], 0, (worker_id, workers)))
        except LimitExceeded:
            if workers >= GATES_PARTS_MAX:
                raise
            # More than a record holds: what is w of n is w or w + n of 2n, and each of the two has about half of it.
            first = await gates(worker_id, workers * 2)
            return first + await gates(worker_id + workers, workers * 2)

    async def answer(operation: Operation, tenant: int, args: tuple[Any, ...]) -> Any:
        return await (gates(*args) if operation.name == "gates" else ask(operation, tenant, args))

    return over(answer)


class CursorClient(CursorSink):
    """Gateway cursors kept by the master. Reports of one loop tick travel in one frame."""

    def __init__(self, link: Peer) -> None:
        self._link = link

    async def load(self, shards: int) -> dict[int, Cursor]:
        """The cursors of this worker's shards."""
        body = await self._link.request(Kind.CURSOR, 0, _encode((shards,)), LOAD_TIMEOUT_S)
        return {shard: cursor for _, shard, cursor in unpack_cursors(body) if cursor is not None}

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        self._link.send(Kind.CURSOR, 0, pack_cursors([(shards, shard, cursor)]))


class IdentifyClient(IdentifySlots):
    """Asks the master for the right to IDENTIFY. However long that takes: it hands out a slot each 5 s."""

    def __init__(self, link: Peer) -> None:
        self._link = link

    async def acquire(self, shard: int) -> None:
        await self._link.request(Kind.IDENTIFY, 0, _encode((shard,)))


class ForwardClient(Forwarder):
    """Sends an event to its tenant's worker through the master."""

    def __init__(self, link: Peer, *, timeout_s: float) -> None:
        """
        Args:
            timeout_s: the deadline of an event, and some grace for two hops.
        """
        self._link = link
        self._timeout_s = timeout_s

    async def forward(self, tenant: int, event: CreateEvent) -> Outcome:
        body = pack_event(event, int(self._timeout_s * 1000))
        answer = await self._link.request(Kind.EVENT, tenant, body, self._timeout_s)
        try:
            return Outcome(_decode_outcome(answer)[0])
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProtocolError(f"the answer to EVENT is malformed: {error}") from None
