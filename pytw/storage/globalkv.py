"""The global key-value store: immutable versions of what owners publish for everybody, after review.

Source: reference `dbstate` (spec/http-schema-systems.md 3.4), with bounds on every field and 64-bit prices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.limits import GLOBAL_KV_DATA_BYTES_MAX, GLOBAL_KV_LONG_BYTES_MAX, GLOBAL_KV_SHORT_BYTES_MAX
from pytw.storage.kv import like_pattern

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{1,62}[A-Za-z0-9_-]")
FIND_ROWS_MAX = 100
REVIEW_STATES = frozenset({"pending", "approved", "denied"})

_COLUMNS = """key, version, scope, owner_type, owner_id, short, public_metadata::text AS public_metadata, public_data, price,
    review_state, created_at, last_updated_at"""
FIND = f"""
SELECT {_COLUMNS}, NULL AS long FROM global_kv
WHERE scope = $1 AND review_state = 'approved' AND ($2::text IS NULL OR key LIKE $2)
ORDER BY key, version LIMIT $3 OFFSET $4"""
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


@dataclass(frozen=True, slots=True)
class GlobalRecord:
    """One version. ``data`` is None in listings; ``opaque`` data is not for everybody's eyes."""

    key: str
    version: int
    scope: str
    owner_type: str
    owner_id: str
    short: str
    long: str | None
    public_metadata: Any
    public_data: bool
    price: int | None
    review_state: str
    created_at: datetime
    last_updated_at: datetime
    data: Any = None

    @property
    def opaque(self) -> bool:
        return self.price is not None or not self.public_data


class GlobalKvStore:
    """Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(
        self, scope: str, pattern: str = "%%", *, limit: int = FIND_ROWS_MAX, skip: int = 0
    ) -> list[GlobalRecord]:
        """Approved versions of a scope whose key is LIKE *pattern*, by key and version, without their data."""
        rows = await self._db.fetch(FIND, scope, like_pattern(pattern), max(1, min(limit, FIND_ROWS_MAX)), max(0, skip))
        return [_record(row) for row in rows]

    async def get(self, scope: str, key: str, version: int) -> GlobalRecord:
        """One approved version with its data. Raises: NotFound."""
        row = await self._db.fetchrow(GET, scope, key, version)
        if row is None:
            raise NotFound(f"there is no approved version {version} of {key}")
        return _record(row, data=orjson.loads(row["data"]))

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

        Raises:
            Conflict: the version exists.
            RequestError: a bad key, or a price by somebody who is not staff.
            LimitExceeded: a text or the data is too long.
        """
        if not KEY.fullmatch(key):
            raise RequestError(f"not a key: {key[:80]!r}", hint="3 to 64 of letters, digits, . _ -, no dot at an end")
        if price is not None and owner_type != "staff":
            raise RequestError("only staff may set a price")
        metadata, content = orjson.dumps(public_metadata or {}).decode(), orjson.dumps(data).decode()
        for name, text, bytes_max in (
            ("short", short, GLOBAL_KV_SHORT_BYTES_MAX),
            ("long", long or "", GLOBAL_KV_LONG_BYTES_MAX),
            ("public_metadata", metadata, GLOBAL_KV_DATA_BYTES_MAX),
            ("data", content, GLOBAL_KV_DATA_BYTES_MAX),
        ):
            if len(text.encode()) > bytes_max:
                raise LimitExceeded(f"{name} is too long", hint=f"{bytes_max} bytes at most")
        arguments = (scope, key, version, owner_type, owner_id, short, long, metadata, content, public_data, price)
        if not await self._db.execute(CREATE, *arguments):
            raise Conflict(f"version {version} of {key} exists already")

    async def delete(self, scope: str, key: str, version: int, *, owner_type: str, owner_id: str) -> None:
        """Take an own version away. Raises: NotFound: also where it belongs to somebody else."""
        if not await self._db.execute(DELETE, scope, key, version, owner_type, owner_id):
            raise NotFound(f"you have no version {version} of {key}")

    async def review(self, scope: str, key: str, version: int, state: str) -> None:
        """Set the review state. Raises: NotFound, RequestError."""
        if state not in REVIEW_STATES:
            raise RequestError(f"not a review state: {state[:40]!r}", hint=", ".join(sorted(REVIEW_STATES)))
        if not await self._db.execute(REVIEW, scope, key, version, state):
            raise NotFound(f"there is no version {version} of {key}")


def _record(row: asyncpg.Record, data: Any = None) -> GlobalRecord:
    fields = dict(row) | {"public_metadata": orjson.loads(row["public_metadata"]), "data": data}
    return GlobalRecord(**fields)


__all__ = ["GlobalKvStore", "GlobalRecord"]
