"""The global key-value store: immutable versions of what owners publish for everybody, after review.

Only approved versions are seen, also by their owners. A version keeps its content for good: what was seen once and is
deleted leaves its number behind, and what was bought cannot be deleted, so that buyers never lose it without being told;
staff that denies it hides it from buyers too. What staff does stands in `storage.globalstaff`.

Source: reference `dbstate` (spec/http-schema-systems.md 3.4), with bounds on every field, 64-bit prices and purchases.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.limits import (
    GLOBAL_KV_DATA_BYTES_MAX,
    GLOBAL_KV_FIND_BYTES_MAX,
    GLOBAL_KV_FIND_ROWS_MAX,
    GLOBAL_KV_LONG_BYTES_MAX,
    GLOBAL_KV_OWNED_BYTES_MAX,
    GLOBAL_KV_OWNED_MAX,
    GLOBAL_KV_PRICE_MAX,
    GLOBAL_KV_SCOPE_BYTES_MAX,
    GLOBAL_KV_SHORT_BYTES_MAX,
    GLOBAL_KV_VERSION_MAX,
)
from pytw.storage.kvrules import NUL, checked_text, like_pattern
from pytw.types import GlobalEntry, GlobalPage, GlobalRecord, Id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytw.storage.pool import Database

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{1,62}[A-Za-z0-9_-]")
#: Of `GLOBAL_KV_VERSION_MAX`.
VERSION_DIGITS_MAX = 10
STAFF = "staff"
REVIEW_STATES = frozenset({"pending", "approved", "denied"})

COLUMNS = """key, version, scope, owner_type, owner_id, short, public_metadata::text AS public_metadata, public_data, price,
    review_state, created_at, last_updated_at"""
PLACE = "scope = $1 AND key = $2 AND version = $3"

# One row more than a page has says that there are others. The first row always fits.
FIND = f"""
WITH page AS (
    SELECT {COLUMNS}, NULL AS long FROM global_kv
    WHERE scope = $1 AND review_state = 'approved' AND ($2::text IS NULL OR key LIKE $2) AND (key, version) > ($3, $4)
    ORDER BY key, version LIMIT $5 + 1
), weighed AS (
    SELECT *, count(*) OVER () AS candidates,
        sum(octet_length(short) + octet_length(public_metadata)) OVER (ORDER BY key, version) AS bytes
    FROM page
)
SELECT * FROM weighed WHERE bytes <= {GLOBAL_KV_FIND_BYTES_MAX} ORDER BY key, version LIMIT $5"""

GET = f"""
SELECT {COLUMNS}, long, CASE WHEN price IS NULL OR EXISTS (
    SELECT FROM global_kv_purchases
    WHERE {PLACE} AND owner_id = $4 AND owner_type = $5
) THEN data::text END AS data
FROM global_kv WHERE {PLACE} AND review_state = 'approved'"""

# Writes nothing where the owner has no room left, and answers in any case what it has. Publications at the same moment do
# not see each other: the bounds may be passed by as much as a tenant has operations in flight.
CREATE = f"""
WITH used AS (
    SELECT count(*) AS versions, coalesce(sum(bytes), 0) AS bytes FROM global_kv
    WHERE owner_id = $5 AND owner_type = $4 AND $4 <> '{STAFF}'
), retired AS (SELECT FROM global_kv_retired WHERE {PLACE}),
written AS (
    INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, long, public_metadata, data, public_data,
        price, review_state)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb, $10, $11, $12 FROM used
    WHERE versions < {GLOBAL_KV_OWNED_MAX} AND bytes < {GLOBAL_KV_OWNED_BYTES_MAX} AND NOT EXISTS (SELECT FROM retired)
    ON CONFLICT (scope, key, version) DO NOTHING RETURNING 1
)
SELECT versions, bytes, EXISTS (SELECT FROM written) AS written FROM used"""

RETIRED = f"SELECT EXISTS (SELECT FROM global_kv_retired WHERE {PLACE})"

# What was bought stays: the statement deletes nothing, and says so. A purchase at the same moment meets the foreign key.
DELETE = f"""
WITH mine AS (
    SELECT EXISTS (SELECT FROM global_kv_purchases WHERE {PLACE}) AS bought
    FROM global_kv WHERE {PLACE} AND owner_type = $4 AND owner_id = $5
), gone AS (
    DELETE FROM global_kv WHERE {PLACE} AND EXISTS (SELECT FROM mine WHERE NOT bought)
    RETURNING scope, key, version, approved_at
), kept AS (
    INSERT INTO global_kv_retired (scope, key, version) SELECT scope, key, version FROM gone WHERE approved_at IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT bought FROM mine"""


class GlobalKvStore:
    """What everybody may do. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(
        self, scope: str, pattern: str = "%%", *, limit: int = GLOBAL_KV_FIND_ROWS_MAX, after: str | None = None
    ) -> GlobalPage:
        """Approved versions of a scope whose key is LIKE *pattern*, by key and version, without their data.

        A page has at most *limit* versions, and at most `GLOBAL_KV_FIND_BYTES_MAX` bytes of what they tell of themselves.

        Raises: RequestError, LimitExceeded.
        """
        limit = max(1, min(limit, GLOBAL_KV_FIND_ROWS_MAX))
        version, key = global_place(after)
        rows = await self._db.fetch(FIND, _checked_scope(scope), like_pattern(pattern), key, version, limit)
        return page(rows)

    async def get(self, scope: str, key: str, version: int, *, buyer: Id | None = None) -> GlobalRecord:
        """One approved version, with its data unless it has a price and *buyer* has not bought it. Raises: NotFound."""
        row = None
        if may_exist(key, version):
            owner = (None, None) if buyer is None else (buyer.owner_id, buyer.owner_type.value)
            row = await self._db.fetchrow(GET, _checked_scope(scope), key, version, *owner)
        if row is None:
            raise NotFound(f"there is no approved version {version} of {key[:80]}")
        return record(row)

    async def create(
        self,
        scope: str,
        key: str,
        version: int,
        *,
        owner_type: str,
        owner_id: str,
        data: Any,
        short: str,
        long: str | None = None,
        public_metadata: Any = None,
        public_data: bool = False,
        price: int | None = None,
        review_state: str = "pending",
    ) -> None:
        """Publish a version, which nobody changes later; it waits for review, unless staff says otherwise.

        Args:
            data, public_metadata: what orjson writes; an ``orjson.Fragment`` where it is JSON already.
        Raises:
            Conflict: the version exists, or existed.
            RequestError: a bad key or review state, or a price by somebody who is not staff.
            LimitExceeded: a text or the data is too long, or the owner has published too much.
        """
        if price is not None and owner_type != STAFF:
            raise RequestError("only staff may set a price")
        checked_price(price)
        checked_review_state(review_state)
        entry = GlobalEntry(
            scope=scope,
            key=key,
            version=version,
            short=short,
            public_metadata=orjson.dumps({} if public_metadata is None else public_metadata),
            data=orjson.dumps(data),
            public_data=public_data,
            long=long,
        )
        checked_entry(entry)
        metadata, content = entry.public_metadata.decode(), entry.data.decode()
        told_of_it = (short, long, metadata, content, public_data, price, review_state)
        async with self._db.transaction() as connection:
            told = await connection.fetchrow(CREATE, scope, key, version, owner_type, owner_id, *told_of_it)
            assert told is not None
            if told["written"]:
                # A deletion that was under way when the statement began has retired the number since.
                if await connection.fetchval(RETIRED, scope, key, version):
                    raise _exists(key, version)
                return
        if told["versions"] >= GLOBAL_KV_OWNED_MAX:
            raise LimitExceeded(f"too many versions published ({told['versions']:,}, at most {GLOBAL_KV_OWNED_MAX:,})")
        if told["bytes"] >= GLOBAL_KV_OWNED_BYTES_MAX:
            raise LimitExceeded(
                f"too much published ({told['bytes']:,} bytes together, at most {GLOBAL_KV_OWNED_BYTES_MAX:,})"
            )
        raise _exists(key, version)

    async def delete(self, scope: str, key: str, version: int, *, owner_type: str, owner_id: str) -> None:
        """Take an own version away. If it was ever approved, its number is never given again.

        Raises:
            NotFound: also where it belongs to somebody else.
            Conflict: it was bought, and stays for its buyers.
        """
        bought = None
        if may_exist(key, version):
            arguments = (_checked_scope(scope), key, version, owner_type, owner_id)
            try:
                bought = await self._db.fetchval(DELETE, *arguments)
            except RequestError as error:
                if not is_bound(error):
                    raise
                # Bought since the statement began.
                bought = True
        if bought is None:
            raise NotFound(f"you have no version {version} of {key[:80]}")
        if bought:
            raise Conflict(f"version {version} of {key} was bought, and stays for its buyers")


def is_bound(error: RequestError) -> bool:
    """Whether PostgreSQL refused to part a purchase from its version, which a change at the same moment had it try."""
    return isinstance(error.__cause__, (asyncpg.ForeignKeyViolationError, asyncpg.RestrictViolationError))


def _exists(key: str, version: int) -> Conflict:
    return Conflict(f"version {version} of {key} exists already", hint="versions are immutable: publish the next one")


def may_exist(key: str, version: int) -> bool:
    """Whether there can be such a version at all."""
    return KEY.fullmatch(key) is not None and 0 < version <= GLOBAL_KV_VERSION_MAX


def global_place(after: str | None) -> tuple[int, str]:
    """Version and key of a cursor. Raises: RequestError."""
    if after is None:
        return 0, ""
    version, separator, key = after.partition(":")
    readable = version.isascii() and version.isdigit() and len(version) <= VERSION_DIGITS_MAX
    if not separator or not readable or not may_exist(key, int(version)):
        raise RequestError(f"not a cursor: {after[:80]!r}", hint="`after` is what the page before told")
    return int(version), key


def checked_review_state(state: str) -> str:
    """Raises: RequestError."""
    if state not in REVIEW_STATES:
        raise RequestError(f"not a review state: {state[:40]!r}", hint=", ".join(sorted(REVIEW_STATES)))
    return state


def checked_price(price: int | None) -> None:
    """Raises: RequestError."""
    if price is not None and not 0 <= price <= GLOBAL_KV_PRICE_MAX:
        raise RequestError(f"price must be a whole number from 0 to {GLOBAL_KV_PRICE_MAX:,}")


def checked_entry(entry: GlobalEntry) -> None:
    """Raises: RequestError: a bad key, version or text. LimitExceeded: a text or the data is too long."""
    if not KEY.fullmatch(entry.key):
        raise RequestError(f"not a key: {entry.key[:80]!r}: 3 to 64 of letters, digits, . _ -, without a dot at an end")
    if not 0 < entry.version <= GLOBAL_KV_VERSION_MAX:
        raise RequestError(f"version must be a whole number from 1 to {GLOBAL_KV_VERSION_MAX:,}")
    _checked_scope(entry.scope)
    checked_text(entry.short, "short", GLOBAL_KV_SHORT_BYTES_MAX)
    checked_text(entry.long or "", "long", GLOBAL_KV_LONG_BYTES_MAX)
    for name, text in (("public_metadata", entry.public_metadata), ("data", entry.data)):
        if len(text) > GLOBAL_KV_DATA_BYTES_MAX:
            raise LimitExceeded(f"{name} length too long ({len(text):,} bytes, at most {GLOBAL_KV_DATA_BYTES_MAX:,})")
        if NUL.search(text):
            raise RequestError(f"{name} contains a NUL character, which cannot be stored")


def _checked_scope(scope: str) -> str:
    if not scope:
        raise RequestError("Scope is empty")
    return checked_text(scope, "Scope", GLOBAL_KV_SCOPE_BYTES_MAX)


_FIELDS = tuple(
    field.name for field in dataclasses.fields(GlobalRecord) if field.name not in ("data", "public_metadata")
)


def record(row: asyncpg.Record) -> GlobalRecord:
    """The record of a row of `COLUMNS` and ``long``, perhaps with ``data``."""
    data: str | None = row.get("data")
    return GlobalRecord(
        public_metadata=row["public_metadata"].encode(),
        data=None if data is None else data.encode(),
        **{name: row[name] for name in _FIELDS},
    )


def page(rows: Sequence[asyncpg.Record]) -> GlobalPage:
    """The page of rows that say how many ``candidates`` there were."""
    items = [record(row) for row in rows]
    return GlobalPage(items, items[-1].cursor if items and rows[0]["candidates"] > len(rows) else None)


__all__ = ["NUL", "GlobalKvStore", "checked_entry", "global_place"]
