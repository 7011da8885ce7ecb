"""Expiry of keys, and keys that a tenant hears of when its VM begins anew.

A key with ``expires_at`` is due once. The worker that owns the tenant claims due rows for a while, runs the tenant's
handlers, then finishes the row, which deletes it only if nobody has written it since. After a handler that failed the row
is due again some seconds later, then after twice that; a claim whose worker is lost ends when that worker starts anew, or
by itself after a longer while. Each claim is an attempt, and after `KV_EXPIRY_ATTEMPTS_MAX` of them the row is given up: it
stays as it is until somebody writes it, or `retry_expired` gives the tenant's rows their attempts back.

``due_at`` of migration 0002 is the moment of the next claim; an index on it is all that a claimer reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pytw.limits import (
    KV_EXPIRY_ATTEMPTS_MAX,
    KV_EXPIRY_CLAIM_S,
    KV_EXPIRY_CLAIM_S_MAX,
    KV_EXPIRY_RETRY_S,
    KV_EXPIRY_RETRY_S_MAX,
    KV_RESUME_ROWS_MAX,
    KV_RETRY_ROWS_MAX,
)
from pytw.storage.kvrules import COLUMNS, OWNED, OWNS, ROOM, beside, owner_of, readable, tenant_of, value_bytes
from pytw.types import KvPlace, KvRecord, KvReleased

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

_MINE = "(owner_id::bigint >> 22) % $2 = $1"

CLAIM = f"""
WITH due AS (
    SELECT id FROM tenant_kv
    WHERE due_at <= now() AND {_MINE} AND owner_type || owner_id <> ALL ($4::text[])
    ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE tenant_kv SET
    expiry_attempts = expiry_attempts + 1,
    expiry_claimed_until = now() + make_interval(secs =>
        least({KV_EXPIRY_CLAIM_S} * 2 ^ expiry_attempts, {KV_EXPIRY_CLAIM_S_MAX}))
FROM due WHERE tenant_kv.id = due.id
RETURNING owner_type, owner_id, tenant_kv.{COLUMNS}"""

FINISH = f"""
WITH {ROOM}, doomed AS (
    SELECT id FROM tenant_kv JOIN unnest($3::text[], $4::bigint[]) AS handled (id, version) USING (id, version), room
    WHERE {OWNS} AND expires_at <= now() ORDER BY id FOR UPDATE OF tenant_kv
)
DELETE FROM tenant_kv USING doomed WHERE tenant_kv.id = doomed.id"""

FAIL = f"""
UPDATE tenant_kv SET expiry_claimed_until = NULL, expiry_retry_at = now() + make_interval(secs =>
    least({KV_EXPIRY_RETRY_S} * 2 ^ (expiry_attempts - 1), {KV_EXPIRY_RETRY_S_MAX}))
WHERE {OWNS} AND id = $3 AND version = $4 AND expiry_claimed_until IS NOT NULL
RETURNING expiry_attempts >= {KV_EXPIRY_ATTEMPTS_MAX}"""

RELEASE = f"""
WITH claimed AS (
    SELECT id FROM tenant_kv WHERE expiry_claimed_until IS NOT NULL AND {_MINE} FOR UPDATE SKIP LOCKED
)
UPDATE tenant_kv SET expiry_claimed_until = NULL FROM claimed WHERE tenant_kv.id = claimed.id
RETURNING expiry_attempts >= {KV_EXPIRY_ATTEMPTS_MAX} AS given_up"""

RETRY = f"""
WITH given_up AS (
    SELECT id FROM tenant_kv
    WHERE {OWNED} AND expires_at IS NOT NULL AND expiry_attempts >= {KV_EXPIRY_ATTEMPTS_MAX} AND expiry_claimed_until IS NULL
    ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE tenant_kv SET expiry_attempts = 0, expiry_retry_at = NULL FROM given_up WHERE tenant_kv.id = given_up.id"""

_PLACES = "SELECT owner_type, owner_id, id, key, scopes FROM tenant_kv WHERE resume AND id > $3"
RESUME = f"{_PLACES} AND {_MINE} ORDER BY id LIMIT $4"
RESUME_TENANT = f"{_PLACES} AND {OWNED} ORDER BY id LIMIT $4"


class KvExpiryStore:
    """What workers do with due keys. Methods raise what `Database` raises."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(
        self, worker_id: int, workers: int, *, limit: int, busy: Sequence[int] = ()
    ) -> list[tuple[int, KvRecord]]:
        """Due rows of this worker's tenants, oldest first, each claimed: nobody else gets it until the claim ends.

        Args:
            busy: tenants that get none this time.
        """
        passed_over = ["".join(reversed(owner_of(tenant))) for tenant in busy]
        rows = await self._db.fetch(CLAIM, worker_id, workers, limit, passed_over)
        found = [(tenant_of(row), record) for row, record in await beside(value_bytes(rows), readable, rows)]
        return sorted(found, key=lambda item: (item[1].expires_at, item[1].id))

    async def finish(self, tenant: int, handled: Sequence[tuple[str, int]]) -> int:
        """Delete claimed rows, by id and version, except what has been written since; returns how many went."""
        ids, versions = [record_id for record_id, _ in handled], [version for _, version in handled]
        return await self._db.execute(FINISH, *owner_of(tenant), ids, versions)

    async def fail(self, tenant: int, record_id: str, version: int) -> bool:
        """End a claim in vain: the row is due again later. Whether it is given up instead."""
        return bool(await self._db.fetchval(FAIL, *owner_of(tenant), record_id, version))

    async def release(self, worker_id: int, workers: int) -> KvReleased:
        """End all claims of this worker's tenants, which an earlier worker in its place has left."""
        rows = await self._db.fetch(RELEASE, worker_id, workers)
        given_up = sum(row["given_up"] for row in rows)
        return KvReleased(len(rows) - given_up, given_up)

    async def retry(self, tenant: int) -> int:
        """Give the tenant's rows that were given up their attempts back, `KV_RETRY_ROWS_MAX` at once; how many."""
        return await self._db.execute(RETRY, *owner_of(tenant), KV_RETRY_ROWS_MAX)

    async def resumed(self, worker_id: int, workers: int, after: str, limit: int) -> list[KvPlace]:
        """Rows with ``resume`` of this worker's tenants in order of their ids, behind the id *after*."""
        return _places(await self._db.fetch(RESUME, worker_id, workers, after, min(limit, KV_RESUME_ROWS_MAX)))

    async def resumed_of(self, tenant: int, after: str, limit: int) -> list[KvPlace]:
        """The same of one tenant."""
        arguments = (*owner_of(tenant), after, min(limit, KV_RESUME_ROWS_MAX))
        return _places(await self._db.fetch(RESUME_TENANT, *arguments))


def _places(rows: Iterable[asyncpg.Record]) -> list[KvPlace]:
    return [KvPlace(tenant_of(row), row["id"], row["key"], list(row["scopes"])) for row in rows]


__all__ = ["KvExpiryStore"]
