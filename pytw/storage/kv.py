"""The key-value store of tenants.

A row is one (key, set of scopes); `set` writes exactly that row. Reading is wider: a row matches when its scopes contain
those asked for, and of several the exact one comes first. Source: reference `geese/kv` (spec/http-schema-systems.md 3.4).

A key with ``expires_at`` is due once. The worker that owns the tenant claims due rows for a while, runs the tenant's
handlers, then finishes the row, which deletes it only if nobody has written it since. A claim that is not finished
becomes due again, later each time, `KV_EXPIRY_ATTEMPTS_MAX` times in all.

A tenant's room is bounded (`limits.kv_bytes_max`, `limits.kv_keys_max`). Triggers count what its keys take, and `set`
looks at the count before it writes; writes at the same moment do not see each other, so that the bounds may be passed
by as much as a tenant has operations in flight.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import orjson

from pytw import values
from pytw.errors import InternalError, LimitExceeded, RequestError
from pytw.limits import (
    KV_EXPIRY_ATTEMPTS_MAX,
    KV_EXPIRY_CLAIM_S,
    KV_EXPIRY_CLAIM_S_MAX,
    KV_FIND_BYTES_MAX,
    KV_FIND_ROWS_MAX,
    KV_KEY_BYTES_MAX,
    KV_LIST_SCOPES_MAX,
    KV_LOOP_BYTES_MAX,
    KV_SCOPE_BYTES_MAX,
    KV_SCOPES_MAX,
    KV_VALUE_BYTES_MAX,
    Limits,
)
from pytw.types import Id, KvRecord, OwnerType

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

LOG = logging.getLogger("pytw.storage.kv")

A = TypeVar("A")
R = TypeVar("R")

_COLUMNS = "id, key, scopes, value::text AS value, version, created_at, last_updated_at, expires_at"
_OWNED = "owner_id = $1 AND owner_type = $2"

GET = f"""
SELECT {_COLUMNS} FROM tenant_kv WHERE {_OWNED} AND key = $3 AND scopes @> $4
ORDER BY scopes = $4 DESC, cardinality(scopes), scopes LIMIT 1"""

# Writes nothing where the tenant has no room, and answers in any case how much it would then take. What does not grow is
# written even where the room is full.
SET = f"""
WITH asked AS (SELECT $6::text::jsonb AS value),
old AS (SELECT bytes FROM tenant_kv WHERE {_OWNED} AND identity = kv_identity($3, $4)),
used AS (SELECT keys, bytes FROM tenant_kv_usage WHERE {_OWNED}),
sized AS (
    SELECT value, kv_bytes($3, $4, value) - coalesce((SELECT bytes FROM old), 0) AS more_bytes,
        CASE WHEN EXISTS (SELECT FROM old) THEN 0 ELSE 1 END AS more_keys
    FROM asked
), wanted AS (
    SELECT value, coalesce((SELECT bytes FROM used), 0) + more_bytes AS bytes,
        coalesce((SELECT keys FROM used), 0) + more_keys AS keys, more_bytes, more_keys
    FROM sized
), judged AS (
    SELECT value, bytes, keys, bytes > $8 AND more_bytes > 0 AS too_long, keys > $9 AND more_keys > 0 AS too_many
    FROM wanted
), written AS (
    INSERT INTO tenant_kv AS old (id, owner_id, owner_type, key, scopes, value, expires_at)
    SELECT $5, $1, $2, $3, $4, value, $7 FROM judged WHERE NOT too_long AND NOT too_many
    ON CONFLICT (owner_id, owner_type, identity) DO UPDATE SET
        value = excluded.value, version = old.version + 1, expires_at = excluded.expires_at,
        expiry_attempts = 0, expiry_claimed_until = NULL, last_updated_at = now()
)
SELECT bytes, keys, too_long, too_many FROM judged"""

DELETE = f"DELETE FROM tenant_kv WHERE {_OWNED} AND key = $3 AND scopes @> $4"

# One row too many where the values are too long together, and no more: they never leave the database.
FIND = f"""
WITH page AS (
    SELECT {_COLUMNS} FROM tenant_kv
    WHERE {_OWNED} AND scopes @> $3 AND ($4::text IS NULL OR key LIKE $4) AND (key, id) > ($5, $6)
    ORDER BY key, id LIMIT $7
), weighed AS (SELECT *, sum(octet_length(value)) OVER (ORDER BY key, id) AS bytes FROM page)
SELECT * FROM weighed WHERE bytes - octet_length(value) <= {KV_FIND_BYTES_MAX} ORDER BY key, id"""

SCOPES = f"SELECT DISTINCT scope FROM tenant_kv, unnest(scopes) AS scope WHERE {_OWNED} ORDER BY 1 LIMIT $3"

CLAIM = f"""
WITH due AS (
    SELECT id FROM tenant_kv
    WHERE expires_at <= now() AND (expiry_claimed_until IS NULL OR expiry_claimed_until <= now())
      AND expiry_attempts < {KV_EXPIRY_ATTEMPTS_MAX} AND (owner_id::bigint >> 22) % $2 = $1
    ORDER BY expires_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE tenant_kv SET
    expiry_attempts = expiry_attempts + 1,
    expiry_claimed_until = now() + make_interval(secs =>
        least({KV_EXPIRY_CLAIM_S} * 2 ^ expiry_attempts, {KV_EXPIRY_CLAIM_S_MAX}))
FROM due WHERE tenant_kv.id = due.id
RETURNING owner_type, owner_id, tenant_kv.{_COLUMNS}"""

FINISH = f"DELETE FROM tenant_kv WHERE {_OWNED} AND id = $3 AND version = $4 AND expires_at <= now()"


def checked_scopes(scopes: Sequence[str], *, writes: bool = False) -> list[str]:
    """Sorted, each once.

    Raises:
        RequestError: none, too many, or not storable text.
        LimitExceeded: one is too long.
    """
    if not scopes:
        raise RequestError(
            "Setting keys without a scope is not allowed" if writes else "Unscoped operations are not allowed"
        )
    if len(scopes) > KV_SCOPES_MAX:
        raise RequestError(f"Scopes length may be at most {KV_SCOPES_MAX} long ({len(scopes)} given)")
    for scope in scopes:
        checked_text(scope, "Scope", KV_SCOPE_BYTES_MAX)
    return sorted(set(scopes))


def checked_text(text: str, what: str, bytes_max: int) -> str:
    """Raises: RequestError, LimitExceeded."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not text") from None
    if size > bytes_max:
        raise LimitExceeded(f"{what} length too long ({size:,} bytes, at most {bytes_max:,})")
    if "\0" in text:
        raise RequestError(f"{what} contains a NUL character, which cannot be stored")
    return text


def checked_key(key: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    if not key:
        raise RequestError("Key is empty")
    return checked_text(key, "Key", KV_KEY_BYTES_MAX)


def like_pattern(pattern: str) -> str | None:
    """*pattern* as PostgreSQL takes it: None for everything, and a lone backslash at the end stands for itself."""
    checked_text(pattern, "Query", KV_KEY_BYTES_MAX)
    if pattern in ("%%", "%"):
        return None
    backslashes = len(pattern) - len(pattern.rstrip("\\"))
    return pattern + "\\" if backslashes % 2 else pattern


def to_row(value: bytes) -> str:
    """The text of the jsonb column for a msgpack KhronosValue.

    Raises: RequestError, LimitExceeded.
    """
    try:
        text = orjson.dumps(values.to_tagged_json(values.unpack(value)))
    except (ValueError, TypeError) as error:
        raise RequestError(f"Value cannot be stored: {error}") from None
    if len(text) > KV_VALUE_BYTES_MAX:
        raise LimitExceeded(f"Value length too long ({len(text):,} bytes of JSON, at most {KV_VALUE_BYTES_MAX:,})")
    return text.decode()


def from_row(row: asyncpg.Record) -> KvRecord:
    """The record of a row of `_COLUMNS`. Raises: InternalError: somebody else wrote what is no value."""
    try:
        value = values.pack(values.from_tagged_json(orjson.loads(row["value"])))
    except ValueError as error:
        raise InternalError(f"the stored value of key {row['key']!r} cannot be read: {error}") from error
    return KvRecord(
        id=row["id"],
        key=row["key"],
        scopes=list(row["scopes"]),
        value=value,
        version=row["version"],
        created_at=row["created_at"],
        last_updated_at=row["last_updated_at"],
        expires_at=row["expires_at"],
    )


def _readable(rows: Iterable[asyncpg.Record]) -> list[tuple[asyncpg.Record, KvRecord]]:
    """Rows with their records; what cannot be read is logged and left out, so that it stops no other."""
    found = []
    for row in rows:
        try:
            found.append((row, from_row(row)))
        except InternalError as error:
            LOG.error("row %s: %s", row["id"], error)
    return found


async def _beside(value_bytes: int, convert: Callable[[A], R], what: A) -> R:
    """Convert at once what is small, the rest in a thread."""
    return convert(what) if value_bytes <= KV_LOOP_BYTES_MAX else await asyncio.to_thread(convert, what)


def _value_bytes(rows: Iterable[asyncpg.Record]) -> int:
    return sum(len(row["value"]) for row in rows)


def _owner(tenant: int) -> tuple[str, str]:
    owner = Id.of(tenant)
    return owner.owner_id, owner.owner_type.value


def _no_room(key: str, limit: str, size: str, most: int) -> LimitExceeded:
    what = f"the key-value store is full: with key {key[:80]!r} it would hold {size}, and {limit} is {most:,}"
    return LimitExceeded(what, hint="delete keys that are not needed any more")


class KvStore:
    """Every tenant's keys. Methods take the tenant's 64-bit key and raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None:
        """The row with exactly these scopes, else the one with the fewest more (then by their names).

        Raises: RequestError, LimitExceeded.
        """
        row = await self._db.fetchrow(GET, *_owner(tenant), checked_key(key), checked_scopes(scopes))
        return None if row is None else await _beside(_value_bytes([row]), from_row, row)

    async def set(
        self, tenant: int, key: str, scopes: Sequence[str], value: bytes, expires_at: datetime | None = None
    ) -> None:
        """Write the row with exactly these scopes; id and creation time stay, the version grows, expiry starts anew.

        Args:
            value: msgpack of one KhronosValue, at most `KV_VALUE_BYTES_MAX` bytes as tagged JSON.
            expires_at: None takes an earlier expiry away.
        Raises: RequestError, LimitExceeded: also where the tenant has no room left.
        """
        key, scopes = checked_key(key), checked_scopes(scopes, writes=True)
        text = await _beside(len(value), to_row, value)
        bounds = (self._limits.kv_bytes_max, self._limits.kv_keys_max)
        found = await self._db.fetchrow(SET, *_owner(tenant), key, scopes, new_id(), text, expires_at, *bounds)
        assert found is not None
        if found["too_long"]:
            raise _no_room(key, "limits.kv_bytes_max", f"{found['bytes']:,} bytes", bounds[0])
        if found["too_many"]:
            raise _no_room(key, "limits.kv_keys_max", f"{found['keys']:,} keys", bounds[1])

    async def delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int:
        """Delete every row of the key whose scopes contain these; returns how many.

        Raises: RequestError, LimitExceeded.
        """
        return await self._db.execute(DELETE, *_owner(tenant), checked_key(key), checked_scopes(scopes))

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
        record_id, _, key = (after or "").partition(":")
        checked_text(after or "", "Cursor", KV_KEY_BYTES_MAX + 128)
        arguments = (checked_scopes(scopes), like, key, record_id, min(limit, KV_FIND_ROWS_MAX))
        rows = await self._db.fetch(FIND, *_owner(tenant), *arguments)
        if rows and rows[-1]["bytes"] > KV_FIND_BYTES_MAX:
            raise LimitExceeded(
                f"The values found are longer than {KV_FIND_BYTES_MAX:,} bytes together: use a narrower query or scopes"
            )
        return [record for _, record in await _beside(_value_bytes(rows), _readable, rows)]

    async def list_scopes(self, tenant: int) -> list[str]:
        """All scopes that any row has, sorted.

        Raises: LimitExceeded: more than `KV_LIST_SCOPES_MAX`: a part would pass for the whole.
        """
        rows = await self._db.fetch(SCOPES, *_owner(tenant), KV_LIST_SCOPES_MAX + 1)
        if len(rows) > KV_LIST_SCOPES_MAX:
            raise LimitExceeded(f"there are more than {KV_LIST_SCOPES_MAX:,} scopes: they cannot be listed")
        return [row["scope"] for row in rows]

    async def claim_expired(self, worker_id: int, workers: int, *, limit: int) -> list[tuple[int, KvRecord]]:
        """Due rows of this worker's tenants, oldest first, each claimed: nobody else gets it until the claim ends."""
        rows = await self._db.fetch(CLAIM, worker_id, workers, limit)
        readable = await _beside(_value_bytes(rows), _readable, rows)
        found = [(Id(OwnerType(row["owner_type"]), int(row["owner_id"])).key, record) for row, record in readable]
        return sorted(found, key=lambda item: (item[1].expires_at, item[1].id))

    async def finish_expired(self, tenant: int, record_id: str, version: int) -> None:
        """Delete a claimed row, unless it has been written since it was claimed."""
        await self._db.execute(FINISH, *_owner(tenant), record_id, version)


def new_id() -> str:
    """An identifier that nobody guesses and that nothing else has."""
    return uuid.uuid4().hex


__all__ = ["KvStore", "checked_key", "checked_scopes", "checked_text", "like_pattern", "new_id", "to_row"]
