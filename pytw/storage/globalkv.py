"""The global key-value store: immutable versions of what owners publish for everybody, after review.

Source: reference `dbstate` (spec/http-schema-systems.md 3.4), with bounds on every field and 64-bit prices.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.limits import (
    GLOBAL_KV_DATA_BYTES_MAX,
    GLOBAL_KV_FIND_BYTES_MAX,
    GLOBAL_KV_FIND_ROWS_MAX,
    GLOBAL_KV_LONG_BYTES_MAX,
    GLOBAL_KV_SCOPE_BYTES_MAX,
    GLOBAL_KV_SHORT_BYTES_MAX,
    GLOBAL_KV_VERSION_MAX,
)
from pytw.storage.kv import checked_text, like_pattern
from pytw.types import GlobalEntry, GlobalRecord

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{1,62}[A-Za-z0-9_-]")
#: A NUL in JSON text, after an even number of backslashes.
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
REVIEW_STATES = frozenset({"pending", "approved", "denied"})

_COLUMNS = """key, version, scope, owner_type, owner_id, short, public_metadata::text AS public_metadata, public_data, price,
    review_state, created_at, last_updated_at"""
# One row too many where the texts are too long together, and no more: they never leave the database.
FIND = f"""
WITH page AS (
    SELECT {_COLUMNS}, NULL AS long FROM global_kv
    WHERE scope = $1 AND review_state = 'approved' AND ($2::text IS NULL OR key LIKE $2)
    ORDER BY key, version LIMIT $3 OFFSET $4
), weighed AS (
    SELECT *, octet_length(short) + octet_length(public_metadata) AS own,
        sum(octet_length(short) + octet_length(public_metadata)) OVER (ORDER BY key, version) AS bytes
    FROM page
)
SELECT * FROM weighed WHERE bytes - own <= {GLOBAL_KV_FIND_BYTES_MAX} ORDER BY key, version"""
GET = f"""
SELECT {_COLUMNS}, long, data::text AS data FROM global_kv
WHERE scope = $1 AND key = $2 AND version = $3 AND review_state = 'approved'"""
CREATE = """
INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, long, public_metadata, data, public_data, price)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb, $10, $11)
ON CONFLICT (scope, key, version) DO NOTHING"""
DELETE = "DELETE FROM global_kv WHERE scope = $1 AND key = $2 AND version = $3 AND owner_type = $4 AND owner_id = $5"
REVIEW = (
    "UPDATE global_kv SET review_state = $4, last_updated_at = now() WHERE scope = $1 AND key = $2 AND version = $3"
)


class GlobalKvStore:
    """Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(
        self, scope: str, pattern: str = "%%", *, limit: int = GLOBAL_KV_FIND_ROWS_MAX, skip: int = 0
    ) -> list[GlobalRecord]:
        """Approved versions of a scope whose key is LIKE *pattern*, by key and version, without their data.

        Raises: RequestError, LimitExceeded: also where what they tell of themselves is longer than
            `GLOBAL_KV_FIND_BYTES_MAX` together.
        """
        limit = max(1, min(limit, GLOBAL_KV_FIND_ROWS_MAX))
        rows = await self._db.fetch(FIND, _checked_scope(scope), like_pattern(pattern), limit, max(0, skip))
        if rows and rows[-1]["bytes"] > GLOBAL_KV_FIND_BYTES_MAX:
            raise LimitExceeded(
                f"The records found are longer than {GLOBAL_KV_FIND_BYTES_MAX:,} bytes together: use a narrower pattern"
            )
        return [_record(row) for row in rows]

    async def get(self, scope: str, key: str, version: int) -> GlobalRecord:
        """One approved version with its data. Raises: NotFound."""
        row = None
        if KEY.fullmatch(key) and 0 < version <= GLOBAL_KV_VERSION_MAX:
            row = await self._db.fetchrow(GET, _checked_scope(scope), key, version)
        if row is None:
            raise NotFound(f"there is no approved version {version} of {key[:80]}")
        return _record(row)

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
    ) -> None:
        """Publish a version, which nobody changes later; it waits for review.

        Args:
            data, public_metadata: what orjson writes; an ``orjson.Fragment`` where it is JSON already.
        Raises:
            Conflict: the version exists.
            RequestError: a bad key, or a price by somebody who is not staff.
            LimitExceeded: a text or the data is too long.
        """
        if price is not None and owner_type != "staff":
            raise RequestError("only staff may set a price")
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
        arguments = (scope, key, version, owner_type, owner_id, short, long, metadata, content, public_data, price)
        if not await self._db.execute(CREATE, *arguments):
            raise Conflict(f"version {version} of {key} exists already")

    async def delete(self, scope: str, key: str, version: int, *, owner_type: str, owner_id: str) -> None:
        """Take an own version away. Raises: NotFound: also where it belongs to somebody else."""
        arguments = (_checked_scope(scope), key, version, owner_type, owner_id)
        known = KEY.fullmatch(key) and 0 < version <= GLOBAL_KV_VERSION_MAX
        if not (known and await self._db.execute(DELETE, *arguments)):
            raise NotFound(f"you have no version {version} of {key[:80]}")

    async def review(self, scope: str, key: str, version: int, state: str) -> None:
        """Set the review state. Raises: NotFound, RequestError."""
        if state not in REVIEW_STATES:
            raise RequestError(f"not a review state: {state[:40]!r}", hint=", ".join(sorted(REVIEW_STATES)))
        if not await self._db.execute(REVIEW, scope, key, version, state):
            raise NotFound(f"there is no version {version} of {key}")


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


def _record(row: asyncpg.Record) -> GlobalRecord:
    data: str | None = row.get("data")
    return GlobalRecord(
        public_metadata=row["public_metadata"].encode(),
        data=None if data is None else data.encode(),
        **{name: row[name] for name in _FIELDS},
    )


__all__ = ["NUL", "GlobalKvStore", "GlobalRecord", "checked_entry"]
