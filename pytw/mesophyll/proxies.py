"""What a worker process has instead of the master's own parts: each asks over the link. `services` answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import msgspec

from pytw.errors import LimitExceeded, ProtocolError
from pytw.mesophyll.dbcodec import pack_ask, pack_cursors, unpack_cursors, unpack_result
from pytw.mesophyll.peer import Peer
from pytw.mesophyll.records import Kind, pack_event
from pytw.types import (
    CreateEvent,
    Cursor,
    CursorSink,
    Forwarder,
    GlobalEntry,
    GlobalRecord,
    IdentifySlots,
    KvRecord,
    ObjectInfo,
    Outcome,
    TemplateSource,
    TenantGate,
    TenantState,
    WorkerDb,
)

#: A database operation without an answer in this time has failed as far as the template is concerned.
DB_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 30.0
#: How finely the gates of a worker are asked for, at most.
GATES_PARTS_MAX = 1 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode_outcome = msgspec.msgpack.Decoder(tuple[int]).decode


class DbClient(WorkerDb):
    """The database through the master. Raises what the stores raise, and WorkerLost or DeadlineExceeded."""

    def __init__(self, link: Peer) -> None:
        self._link = link

    async def _ask(self, tenant: int, name: str, *args: Any) -> Any:
        body = await self._link.request(Kind.DB, tenant, pack_ask(name, *args), DB_TIMEOUT_S)
        return unpack_result(name, body)

    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
        try:
            return cast(list[TenantGate], await self._ask(0, "gates", worker_id, workers))
        except LimitExceeded:
            if workers >= GATES_PARTS_MAX:
                raise
            # More than a record holds: what is w of n is w or w + n of 2n, and each of the two has about half of it.
            first = await self.gates(worker_id, workers * 2)
            return first + await self.gates(worker_id + workers, workers * 2)

    async def gate(self, tenant: int) -> TenantGate:
        return cast(TenantGate, await self._ask(tenant, "gate"))

    async def program(self, tenant: int) -> list[TemplateSource]:
        return cast(list[TemplateSource], await self._ask(tenant, "program"))

    async def tenant_state(self, tenant: int) -> TenantState:
        return cast(TenantState, await self._ask(tenant, "tenant_state"))

    async def set_tenant_state(self, tenant: int, state: TenantState) -> None:
        await self._ask(tenant, "set_tenant_state", state)

    async def kv_get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None:
        return cast(KvRecord | None, await self._ask(tenant, "kv_get", key, list(scopes)))

    async def kv_set(
        self, tenant: int, key: str, scopes: Sequence[str], value: bytes, expires_at: datetime | None = None
    ) -> None:
        await self._ask(tenant, "kv_set", key, list(scopes), value, expires_at)

    async def kv_delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int:
        return cast(int, await self._ask(tenant, "kv_delete", key, list(scopes)))

    async def kv_find(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None = None
    ) -> list[KvRecord]:
        return cast(list[KvRecord], await self._ask(tenant, "kv_find", pattern, list(scopes), limit, after))

    async def kv_list_scopes(self, tenant: int) -> list[str]:
        return cast(list[str], await self._ask(tenant, "kv_list_scopes"))

    async def claim_expired(self, worker_id: int, workers: int, *, limit: int) -> list[tuple[int, KvRecord]]:
        return cast(list[tuple[int, KvRecord]], await self._ask(0, "claim_expired", worker_id, workers, limit))

    async def finish_expired(self, tenant: int, record_id: str, version: int) -> None:
        await self._ask(tenant, "finish_expired", record_id, version)

    async def global_find(
        self, tenant: int, scope: str, pattern: str, *, limit: int, skip: int = 0
    ) -> list[GlobalRecord]:
        return cast(list[GlobalRecord], await self._ask(tenant, "global_find", scope, pattern, limit, skip))

    async def global_get(self, tenant: int, scope: str, key: str, version: int) -> GlobalRecord | None:
        return cast(GlobalRecord | None, await self._ask(tenant, "global_get", scope, key, version))

    async def global_create(self, tenant: int, entry: GlobalEntry) -> None:
        await self._ask(tenant, "global_create", entry)

    async def global_delete(self, tenant: int, scope: str, key: str, version: int) -> None:
        await self._ask(tenant, "global_delete", scope, key, version)

    async def object_list(self, tenant: int, prefix: str, *, limit: int) -> list[ObjectInfo]:
        return cast(list[ObjectInfo], await self._ask(tenant, "object_list", prefix, limit))

    async def object_exists(self, tenant: int, key: str) -> bool:
        return cast(bool, await self._ask(tenant, "object_exists", key))

    async def object_get(self, tenant: int, key: str) -> bytes:
        return cast(bytes, await self._ask(tenant, "object_get", key))

    async def object_put(self, tenant: int, key: str, data: bytes) -> None:
        await self._ask(tenant, "object_put", key, data)

    async def object_delete(self, tenant: int, key: str) -> None:
        await self._ask(tenant, "object_delete", key)

    async def object_url(self, tenant: int, key: str, expires_s: int) -> str:
        return cast(str, await self._ask(tenant, "object_url", key, expires_s))


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
