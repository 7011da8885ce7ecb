"""Reads and writes of single keys, several in one statement: what many tenants ask at the same time costs one journey.

Only rows of exactly the scopes that are asked for are read here, and only what is short; and no tenant is written here while
something else holds its room, which may take seconds. What one tenant asks must not be what another waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from pytw.limits import (
    KV_READS_IN_FLIGHT_MAX,
    KV_TOGETHER_BYTES_MAX,
    KV_TOGETHER_MAX,
    KV_WRITES_IN_FLIGHT_MAX,
    Limits,
)
from pytw.storage.gather import Gather
from pytw.storage.kept import KeptConnection
from pytw.storage.kvrules import COLUMNS, OWNED

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.apart import Apart
    from pytw.storage.pool import Database

# Scopes come as JSON: lists of lists must all have one length.
_SCOPES = "ARRAY(SELECT jsonb_array_elements_text(asked.scopes::jsonb))"

# What is asked alone is spared the list.
READ_ONE = f"""
SELECT {COLUMNS} FROM tenant_kv WHERE {OWNED} AND identity = kv_identity($3, $4) AND bytes <= {KV_TOGETHER_BYTES_MAX}"""

READ = f"""
SELECT asked.number, found.* FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS asked (number, owner_id, owner_type, key, scopes),
LATERAL (
    SELECT {COLUMNS} FROM tenant_kv WHERE tenant_kv.owner_id = asked.owner_id AND tenant_kv.owner_type = asked.owner_type
        AND identity = kv_identity(asked.key, {_SCOPES}) AND bytes <= {KV_TOGETHER_BYTES_MAX}
) AS found"""

_ASKED = """unnest(
    $1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::text[], $9::timestamptz[],
    $10::boolean[], $11::bigint[]
) WITH ORDINALITY AS asked (number, owner_id, owner_type, key, scopes, id, by_id, value, expires_at, resume, version, place)"""
_DONE = f"""
LATERAL kv_set(asked.owner_id, asked.owner_type, asked.key, {_SCOPES}, asked.id, asked.by_id, asked.value::jsonb,
    asked.expires_at, asked.resume, asked.version, $12, $13) AS done"""

WRITE = f"SELECT asked.number, done.* FROM {_ASKED}, {_DONE}"

# Leaves out, without a row, the writes of tenants whose room somebody holds. Of the others it has the lock before it writes.
WRITE_FREE = f"""
WITH asked AS MATERIALIZED (SELECT * FROM {_ASKED}), owners AS (SELECT DISTINCT owner_id, owner_type FROM asked),
held AS MATERIALIZED (
    SELECT used.* FROM owners, LATERAL (
        SELECT owner_id, owner_type FROM tenant_kv_usage AS used
        WHERE used.owner_id = owners.owner_id AND used.owner_type = owners.owner_type FOR UPDATE SKIP LOCKED
    ) AS used
), free AS MATERIALIZED (
    SELECT * FROM asked WHERE (owner_id, owner_type) IN (SELECT owner_id, owner_type FROM held)
        OR (SELECT keys FROM tenant_kv_usage AS used
            WHERE used.owner_id = asked.owner_id AND used.owner_type = asked.owner_type) IS NULL
    ORDER BY place
)
SELECT asked.number, done.* FROM free AS asked, {_DONE}"""


class Place(NamedTuple):
    """One key of one tenant; ``scopes`` are sorted."""

    owner_id: str
    owner_type: str
    key: str
    scopes: list[str]


class Write(NamedTuple):
    """The arguments of ``kv_set``; ``value`` is JSON, and ``scopes`` are sorted."""

    owner_id: str
    owner_type: str
    key: str
    scopes: list[str]
    record_id: str
    by_id: bool
    value: str
    expires_at: datetime | None
    resume: bool
    version: int | None


_SCOPES_COLUMN = Place._fields.index("scopes")


class KvTogether:
    """Methods raise what `Database` raises."""

    def __init__(self, db: Database, apart: Apart, limits: Limits) -> None:
        self._db = db
        self._apart = apart
        self._reader = KeptConnection(db)
        self._writer = KeptConnection(db)
        self._bounds = (limits.kv_bytes_max, limits.kv_keys_max)
        self._reads = Gather(self._read, together_max=KV_TOGETHER_MAX, in_flight_max=KV_READS_IN_FLIGHT_MAX)
        self._writes = Gather(self._write, together_max=KV_TOGETHER_MAX, in_flight_max=KV_WRITES_IN_FLIGHT_MAX)

    async def read(self, place: Place) -> asyncpg.Record | None:
        """The row of exactly this place; None where there is none, or a long one."""
        return await self._reads.ask(place)

    async def write(self, tenant: int, write: Write) -> asyncpg.Record:
        """What ``kv_set`` says."""
        done = None
        if not self._db.in_transaction and len(write.value) <= KV_TOGETHER_BYTES_MAX:
            done = await self._writes.ask(write)
        if done is None:
            done = await self._apart.fetchrow(tenant, WRITE, [0], *_columns([write]), *self._bounds)
            assert done is not None
        return done

    async def _read(self, places: list[Place]) -> list[asyncpg.Record | None]:
        if len(places) == 1:
            rows = await self._reader.fetch(READ_ONE, *places[0])
            return [rows[0] if rows else None]
        rows = await self._reader.fetch(READ, range(len(places)), *_columns(places))
        found = {row["number"]: row for row in rows}
        return [found.get(number) for number in range(len(places))]

    async def _write(self, writes: list[Write]) -> list[asyncpg.Record | None]:
        # Tenants in one order, so that two statements never wait for each other.
        order = sorted(range(len(writes)), key=lambda number: writes[number][:2])
        rows = await self._writer.fetch(
            WRITE_FREE, order, *_columns([writes[number] for number in order]), *self._bounds
        )
        done = {row["number"]: row for row in rows}
        return [done.get(number) for number in range(len(writes))]


def _columns(rows: Sequence[Place] | Sequence[Write]) -> list[list[Any]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[_SCOPES_COLUMN] = [orjson.dumps(scopes).decode() for scopes in columns[_SCOPES_COLUMN]]
    return columns


__all__ = ["READ_ONE", "KvTogether", "Place", "Write"]
