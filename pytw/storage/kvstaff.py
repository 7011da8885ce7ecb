"""What operators see of the key-value store: records of a tenant, whatever their scopes, and how their expiry stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX, KV_FIND_ROWS_MAX
from pytw.storage.kvrules import (
    COLUMNS,
    beside,
    checked_cursor,
    checked_scopes,
    key_range,
    like_pattern,
    owner_of,
    readable,
    value_bytes,
)
from pytw.types import KvRecord

if TYPE_CHECKING:
    from pytw.storage.pool import Database

BROWSE = f"""
SELECT {COLUMNS}, expiry_attempts, due_at FROM tenant_kv
WHERE owner_type || owner_id = $2 || $1 AND scopes @> $3 AND (key, id) > ($5, $6) AND key < $7 AND ($4::text IS NULL OR key LIKE $4)
ORDER BY key, id LIMIT $8"""


class KvShown(NamedTuple):
    """A record and its expiry: attempts so far, the moment of the next one, and whether there will be none."""

    record: KvRecord
    attempts: int
    due_at: datetime | None

    @property
    def given_up(self) -> bool:
        return self.record.expires_at is not None and self.attempts >= KV_EXPIRY_ATTEMPTS_MAX


class KvStaff:
    """Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def browse(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None
    ) -> tuple[list[KvShown], str | None]:
        """Records as `KvStore.find` finds them, of all scopes if none is given, and the cursor of the next page if there is
        one. Raises: RequestError, LimitExceeded."""
        like = like_pattern(pattern)
        first, end = key_range(like)
        begin = max(checked_cursor(after), (first, ""))
        limit = max(1, min(limit, KV_FIND_ROWS_MAX))
        wanted = checked_scopes(scopes) if scopes else []
        rows = await self._db.fetch(BROWSE, *owner_of(tenant), wanted, like, *begin, end, limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        found = await beside(value_bytes(rows), readable, rows)
        shown = [KvShown(record, row["expiry_attempts"], row["due_at"]) for row, record in found]
        return shown, f"{rows[-1]['id']}:{rows[-1]['key']}" if more else None


__all__ = ["KvShown", "KvStaff"]
