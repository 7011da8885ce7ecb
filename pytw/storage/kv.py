"""The key-value store of tenants.

A row is one (key, set of scopes); `set` writes exactly that row. Reading is wider: a row matches when its scopes contain
those asked for, and of several the exact one comes first. Source: reference `geese/kv` (spec/http-schema-systems.md 3.4).

Searches go through ``tenant_kv_scopes``, which has each row under each of its scopes in the order of pages. Expiry and
resume are `kvexpiry`.

A tenant's room is bounded exactly (`limits.kv_bytes_max`, `limits.kv_keys_max`): ``kv_set`` of migration 0002 locks what the
tenant holds, and so does whatever deletes, before it touches any key: in that order they never wait for each other in a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import (
    KV_APART_MAX,
    KV_APART_TENANT_MAX,
    KV_DELETE_ROWS_MAX,
    KV_FIND_BYTES_MAX,
    KV_FIND_ROWS_MAX,
    KV_LIST_KEYS_MAX,
    KV_LIST_SCOPES_MAX,
    Limits,
)
from pytw.storage.apart import Apart
from pytw.storage.kvrules import (
    COLUMNS,
    JSON_OF_A_BYTE,
    OWNED,
    OWNS,
    ROOM,
    beside,
    checked_cursor,
    checked_id,
    checked_key,
    checked_moment,
    checked_scopes,
    checked_text,
    from_row,
    key_range,
    like_pattern,
    new_id,
    owner_of,
    readable,
    to_row,
    value_bytes,
)
from pytw.storage.kvstaff import KvStaff
from pytw.storage.kvtogether import KvTogether, Place, Write
from pytw.types import KvRecord, KvWritten

if TYPE_CHECKING:
    from pytw.storage.pool import Database

EXACT = f"{OWNED} AND identity = kv_identity($3, $4)"
_UNDER = f"{OWNED} AND scope = kv_scope(($4::text[])[1]) AND key = $3"

# The exact row alone, if there is one: without it there may be many more under the key.
_BEST = """
WITH exact AS MATERIALIZED (SELECT {columns} FROM tenant_kv WHERE {exact})
SELECT * FROM exact
UNION ALL (
    SELECT {columns} FROM tenant_kv
    WHERE id = ANY (ARRAY(SELECT id FROM tenant_kv_scopes WHERE {under})) AND scopes @> $4 AND NOT EXISTS (SELECT FROM exact)
    ORDER BY cardinality(scopes), scopes LIMIT 1
)"""
GET = _BEST.format(columns=COLUMNS, exact=EXACT, under=_UNDER)
EXISTS = f"""
SELECT EXISTS (SELECT FROM tenant_kv WHERE {EXACT}) OR EXISTS (
    SELECT FROM tenant_kv WHERE id = ANY (ARRAY(SELECT id FROM tenant_kv_scopes WHERE {_UNDER})) AND scopes @> $4)"""
PLACE_OF_ID = f"SELECT key, scopes FROM tenant_kv WHERE {OWNS} AND id = $3"
GET_BY_ID = f"SELECT {COLUMNS} FROM tenant_kv WHERE {OWNS} AND id = $3"

DELETE = f"""
WITH {ROOM}, doomed AS (
    SELECT id FROM tenant_kv, room
    WHERE id = ANY (ARRAY(SELECT id FROM tenant_kv_scopes WHERE {_UNDER})) AND scopes @> $4
    ORDER BY id LIMIT {KV_DELETE_ROWS_MAX} FOR UPDATE OF tenant_kv
)
DELETE FROM tenant_kv USING doomed WHERE tenant_kv.id = doomed.id"""
DELETE_BY_ID = f"WITH {ROOM} DELETE FROM tenant_kv USING room WHERE {OWNS} AND id = $3"

_NEW_EXPIRY = """UPDATE tenant_kv SET expires_at = {at}, version = version + 1, expiry_attempts = 0,
    expiry_claimed_until = NULL, expiry_retry_at = NULL, last_updated_at = now()"""
SET_EXPIRY = f"{_NEW_EXPIRY.format(at='$5')} WHERE {EXACT}"
SET_EXPIRY_BY_ID = f"{_NEW_EXPIRY.format(at='$4')} WHERE {OWNS} AND id = $3"

# Which of several scopes has the fewest rows; a thousand are as good as any number.
RAREST = f"""
SELECT wanted.scope FROM unnest($3::text[]) AS wanted (scope), LATERAL (
    SELECT count(*) AS rows FROM (
        SELECT FROM tenant_kv_scopes AS s WHERE {OWNED} AND s.scope = kv_scope(wanted.scope) LIMIT 1000) AS seen) AS counted
ORDER BY counted.rows, wanted.scope LIMIT 1"""

# Read in the order of the index, row by row until the page is full, whatever the planner thinks of the number of rows: a
# subquery with OFFSET stays one. One row too many where the values are too long together: they never leave the database.
FIND = f"""
WITH page AS (
    SELECT r.* FROM tenant_kv_scopes AS s, LATERAL (
        SELECT {COLUMNS} FROM tenant_kv WHERE tenant_kv.id = s.id AND scopes @> $3 OFFSET 0) AS r
    WHERE {OWNED} AND s.scope = kv_scope($9) AND (s.key, s.id) > ($5, $6) AND s.key < $7
      AND ($4::text IS NULL OR s.key LIKE $4)
    ORDER BY s.key, s.id LIMIT $8
), weighed AS (SELECT *, sum(octet_length(value)) OVER (ORDER BY key, id) AS bytes FROM page)
SELECT * FROM weighed WHERE bytes - octet_length(value) <= {KV_FIND_BYTES_MAX} ORDER BY key, id"""

SCOPES = f"SELECT DISTINCT scope FROM tenant_kv, unnest(scopes) AS scope WHERE {OWNED} ORDER BY 1 LIMIT $3"
KEYS = f"""
SELECT DISTINCT s.key FROM tenant_kv_scopes AS s
WHERE {OWNED} AND s.scope = kv_scope($4) AND ($5 OR EXISTS (
    SELECT FROM tenant_kv WHERE tenant_kv.id = s.id AND scopes @> $3 OFFSET 0))
ORDER BY s.key LIMIT $6"""


class KvStore(KvStaff):
    """Every tenant's keys. Methods take the tenant's 64-bit key and raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        super().__init__(db)
        self._limits = limits or Limits()
        self._apart = Apart(db, tenant_max=KV_APART_TENANT_MAX, total_max=KV_APART_MAX)
        self._together = KvTogether(db, self._apart, self._limits)

    async def get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None:
        """The row with exactly these scopes, else the one with the fewest more (then by their names).

        Raises: RequestError, LimitExceeded.
        """
        owner, key, scopes = owner_of(tenant), checked_key(key), checked_scopes(scopes)
        row = await self._together.read(Place(*owner, key, scopes))
        return await self._record(tenant, GET, *owner, key, scopes) if row is None else from_row(row)

    async def get_by_id(self, tenant: int, record_id: str) -> KvRecord | None:
        """Raises: RequestError, LimitExceeded."""
        return await self._record(tenant, GET_BY_ID, *owner_of(tenant), checked_id(record_id))

    async def _record(self, tenant: int, statement: str, *arguments: Any) -> KvRecord | None:
        row = await self._apart.fetchrow(tenant, statement, *arguments)
        return None if row is None else await beside(value_bytes([row]), from_row, row)

    async def exists(self, tenant: int, key: str, scopes: Sequence[str]) -> bool:
        """Whether `get` would find a row. Raises: RequestError, LimitExceeded."""
        arguments = (checked_key(key), checked_scopes(scopes))
        return bool(await self._apart.fetchval(tenant, EXISTS, *owner_of(tenant), *arguments))

    async def set(
        self,
        tenant: int,
        key: str,
        scopes: Sequence[str],
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten:
        """Write the row with exactly these scopes; id and creation time stay, the version grows, expiry starts anew.

        Args:
            value: msgpack of one KhronosValue, at most `KV_VALUE_BYTES_MAX` bytes as tagged JSON.
            expires_at: None takes an earlier expiry away.
            resume: whether the tenant hears of the key when its VM begins anew.
            if_version: write only if this is the row's version; 0: only if there is no row.
        Raises: RequestError, LimitExceeded: also where the tenant has no room left.
        """
        place = (new_id(), checked_key(key), checked_scopes(scopes, writes=True))
        written = await self._write(tenant, place, value, expires_at, resume, if_version, by_id=False)
        assert written is not None
        return written

    async def _write(
        self,
        tenant: int,
        place: tuple[str, str, list[str]],
        value: bytes,
        expires_at: datetime | None,
        resume: bool,
        if_version: int | None,
        *,
        by_id: bool,
    ) -> KvWritten | None:
        """None: *by_id* says that the row must have this id, and it has not."""
        record_id, key, scopes = place
        text = await beside(JSON_OF_A_BYTE * len(value), to_row, value)
        moment = checked_moment(expires_at)
        write = Write(*owner_of(tenant), key, scopes, record_id, by_id, text, moment, resume, if_version)
        row = await self._together.write(tenant, write)
        if row["over"] is not None:
            raise _no_room(key, row["over"], row["would_be"], self._limits)
        return None if row["written"] is None else KvWritten(row["written"], row["version"])

    async def set_by_id(
        self,
        tenant: int,
        record_id: str,
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten:
        """Write the row of this id as `set` does; its key and scopes stay. Raises: as `set`, and NotFound."""
        row = await self._apart.fetchrow(tenant, PLACE_OF_ID, *owner_of(tenant), checked_id(record_id))
        place = None if row is None else (record_id, row["key"], list(row["scopes"]))
        written = place and await self._write(tenant, place, value, expires_at, resume, if_version, by_id=True)
        if written is None:
            raise NotFound("there is no record with this id")
        return written

    async def set_expiry(self, tenant: int, key: str, scopes: Sequence[str], expires_at: datetime | None) -> bool:
        """Give the row with exactly these scopes another expiry, or none; whether there is one. The version grows.

        Raises: RequestError, LimitExceeded.
        """
        arguments = (checked_key(key), checked_scopes(scopes, writes=True), checked_moment(expires_at))
        return bool(await self._apart.execute(tenant, SET_EXPIRY, *owner_of(tenant), *arguments))

    async def set_expiry_by_id(self, tenant: int, record_id: str, expires_at: datetime | None) -> bool:
        """As `set_expiry`."""
        arguments = (checked_id(record_id), checked_moment(expires_at))
        return bool(await self._apart.execute(tenant, SET_EXPIRY_BY_ID, *owner_of(tenant), *arguments))

    async def delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int:
        """Delete every row of the key whose scopes contain these, thousands in several statements; returns how many.

        Raises: RequestError, LimitExceeded.
        """
        arguments = (*owner_of(tenant), checked_key(key), checked_scopes(scopes))
        gone = last = await self._apart.execute(tenant, DELETE, *arguments)
        while last == KV_DELETE_ROWS_MAX:
            gone += (last := await self._apart.execute(tenant, DELETE, *arguments))
        return gone

    async def delete_by_id(self, tenant: int, record_id: str) -> bool:
        """Whether there was one. Raises: RequestError, LimitExceeded."""
        return bool(await self._apart.execute(tenant, DELETE_BY_ID, *owner_of(tenant), checked_id(record_id)))

    async def find(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None = None
    ) -> list[KvRecord]:
        """Rows whose key is LIKE *pattern* and whose scopes contain these, in order of key and id.

        Args:
            pattern: ``%``, ``_`` and ``\\`` as in SQL; ``%%`` is everything.
            limit: at most `KV_FIND_ROWS_MAX` rows; a full answer may have more behind it.
            after: `KvRecord.cursor` of the last record of the page before.
        Raises: RequestError, LimitExceeded: also where the values are longer than `KV_FIND_BYTES_MAX` together.
        """
        like = like_pattern(pattern)
        if limit < 1:
            raise RequestError("Limit must be at least 1")
        first, end = key_range(like)
        begin = max(checked_cursor(after), (first, ""))
        scopes, limit = checked_scopes(scopes), min(limit, KV_FIND_ROWS_MAX)
        lead = await self._lead(tenant, scopes)
        found: list[KvRecord] = []
        while True:
            arguments = (scopes, like, *begin, end, limit - len(found), lead)
            rows = await self._apart.fetch(tenant, FIND, *owner_of(tenant), *arguments)
            if rows and rows[-1]["bytes"] > KV_FIND_BYTES_MAX:
                raise LimitExceeded(
                    f"The values found are longer than {KV_FIND_BYTES_MAX:,} bytes together: "
                    "use a narrower query or scopes, or a smaller limit"
                )
            full = len(rows) == limit - len(found)
            found += [record for _, record in await beside(value_bytes(rows), readable, rows)]
            # Behind a row that cannot be read the page goes on: it would pass for the last one.
            if len(found) == limit or not full:
                return found
            begin = (rows[-1]["key"], rows[-1]["id"])

    async def _lead(self, tenant: int, scopes: list[str]) -> str:
        """The scope to search by: the one with the fewest rows."""
        if len(scopes) == 1:
            return scopes[0]
        return str(await self._apart.fetchval(tenant, RAREST, *owner_of(tenant), scopes))

    async def keys(self, tenant: int, scopes: Sequence[str]) -> list[str]:
        """The keys of all rows whose scopes contain these, sorted, each once.

        Raises: RequestError, LimitExceeded: also for more than `KV_LIST_KEYS_MAX`: a part would pass for the whole.
        """
        scopes = checked_scopes(scopes)
        arguments = (scopes, await self._lead(tenant, scopes), len(scopes) == 1, KV_LIST_KEYS_MAX + 1)
        rows = await self._apart.fetch(tenant, KEYS, *owner_of(tenant), *arguments)
        if len(rows) > KV_LIST_KEYS_MAX:
            raise LimitExceeded(f"there are more than {KV_LIST_KEYS_MAX:,} keys: use find, which has pages")
        return [row["key"] for row in rows]

    async def list_scopes(self, tenant: int) -> list[str]:
        """All scopes that any row has, sorted.

        Raises: LimitExceeded: more than `KV_LIST_SCOPES_MAX`: a part would pass for the whole.
        """
        rows = await self._apart.fetch(tenant, SCOPES, *owner_of(tenant), KV_LIST_SCOPES_MAX + 1)
        if len(rows) > KV_LIST_SCOPES_MAX:
            raise LimitExceeded(f"there are more than {KV_LIST_SCOPES_MAX:,} scopes: they cannot be listed")
        return [row["scope"] for row in rows]


def _no_room(key: str, over: str, would_be: int, limits: Limits) -> LimitExceeded:
    limit, most = ("kv_bytes_max", limits.kv_bytes_max) if over == "bytes" else ("kv_keys_max", limits.kv_keys_max)
    what = f"the key-value store is full: with key {key[:80]!r} it would hold {would_be:,} {over}"
    return LimitExceeded(f"{what}, and limits.{limit} is {most:,}", hint="delete keys that are not needed any more")


__all__ = ["KvStore", "checked_key", "checked_scopes", "checked_text", "like_pattern", "new_id", "to_row"]
