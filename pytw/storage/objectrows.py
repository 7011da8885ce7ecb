"""The rows of objects: what each tenant has, and which writes have not been seen to end.

A row is *settled* when the bucket is known to hold what the row says. It is changing while an object is written (`reserve`
to `commit`) or deleted (`doom` to `remove`), and stays so where that broke off.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from pytw.errors import LimitExceeded
from pytw.limits import Limits
from pytw.types import Id, ObjectInfo

if TYPE_CHECKING:
    from pytw.storage.pool import Database

#: No key has the last character there is, so that all keys with a prefix sort before the prefix with it.
_LAST = "\U0010ffff"

_OWNED = "owner_id = $1 AND owner_type = $2"
_COLUMNS = """key, size, sha256, pending_size, pending_sha256, doomed,
    extract(epoch FROM clock_timestamp() - changing_since)::float8 AS changing_s"""

FIND = f"SELECT {_COLUMNS} FROM tenant_objects WHERE {_OWNED} AND key = $3"
CHANGING = f"""
SELECT {_COLUMNS} FROM tenant_objects WHERE {_OWNED} AND changing_since IS NOT NULL ORDER BY changing_since LIMIT $3"""
PAGE = f"""
SELECT key, size, sha256, last_updated_at FROM tenant_objects
WHERE {_OWNED} AND key >= $3 AND key < $4 AND key > $5 AND sha256 IS NOT NULL AND NOT doomed
ORDER BY key LIMIT $6"""
# A row that is changing already is left alone: no row comes back.
RESERVE = """
INSERT INTO tenant_objects AS old (owner_id, owner_type, key, pending_size, pending_sha256, changing_since)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT (owner_id, owner_type, key) DO UPDATE SET
    pending_size = excluded.pending_size, pending_sha256 = excluded.pending_sha256,
    changing_since = excluded.changing_since
WHERE old.changing_since IS NULL
RETURNING size"""
USAGE = f"SELECT objects, bytes, adopted FROM tenant_objects_usage WHERE {_OWNED}"
COMMIT = f"""
UPDATE tenant_objects SET size = pending_size, sha256 = pending_sha256, pending_size = NULL, pending_sha256 = NULL,
    changing_since = NULL, last_updated_at = now()
WHERE {_OWNED} AND key = $3 AND pending_sha256 = $4 AND NOT doomed"""
ROLL_BACK = f"""
UPDATE tenant_objects SET pending_size = NULL, pending_sha256 = NULL, changing_since = NULL
WHERE {_OWNED} AND key = $3 AND NOT doomed AND sha256 IS NOT NULL"""
DOOM = f"""
UPDATE tenant_objects SET doomed = true, changing_since = clock_timestamp() WHERE {_OWNED} AND key = $3"""
REMOVE = f"DELETE FROM tenant_objects WHERE {_OWNED} AND key = $3"
ADOPT = """
INSERT INTO tenant_objects (owner_id, owner_type, key, size, sha256) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING"""
ADOPTED = """
INSERT INTO tenant_objects_usage (owner_id, owner_type, adopted) VALUES ($1, $2, true)
ON CONFLICT (owner_id, owner_type) DO UPDATE SET adopted = true"""


class ObjectRow(NamedTuple):
    """A row; ``changing_s``: for how long it has not been settled."""

    key: str
    size: int | None
    sha256: bytes | None
    pending_size: int | None
    pending_sha256: bytes | None
    doomed: bool
    changing_s: float | None

    @property
    def settled(self) -> bool:
        return self.changing_s is None


class ObjectUsage(NamedTuple):
    """What a tenant's objects take; ``adopted``: none of them is without a row."""

    objects: int
    bytes: int
    adopted: bool


def _of(owner: Id) -> tuple[str, str]:
    return owner.owner_id, owner.owner_type.value


def _info(key: str, size: int, sha256: bytes, last_modified: datetime) -> ObjectInfo:
    return ObjectInfo(key, size, last_modified, f'"{sha256.hex()[:32]}"')


class ObjectRows:
    """Every method raises what `Database` raises, besides its own."""

    def __init__(self, db: Database, limits: Limits) -> None:
        self._db = db
        self._limits = limits

    async def find(self, owner: Id, key: str) -> ObjectRow | None:
        row = await self._db.fetchrow(FIND, *_of(owner), key)
        return None if row is None else ObjectRow(*row)

    async def changing(self, owner: Id, limit: int) -> list[ObjectRow]:
        """Rows that are not settled, those of the longest time first."""
        return [ObjectRow(*row) for row in await self._db.fetch(CHANGING, *_of(owner), limit)]

    async def page(self, owner: Id, prefix: str, *, after: str, limit: int) -> list[ObjectInfo]:
        """Objects by the bytes of their keys, from behind *after* on; not before a first write's end, nor after a deletion's begin."""
        rows = await self._db.fetch(PAGE, *_of(owner), prefix, prefix + _LAST, after, limit)
        return [_info(*row) for row in rows]

    async def usage(self, owner: Id) -> ObjectUsage:
        row = await self._db.fetchrow(USAGE, *_of(owner))
        return ObjectUsage(0, 0, adopted=False) if row is None else ObjectUsage(*row)

    async def reserve(self, owner: Id, key: str, size: int, sha256: bytes) -> bool:
        """Make room for a write and note it; False where the row is changing already.

        What shrinks may always be written; both sizes count until it has ended.

        Raises: LimitExceeded: nothing is noted.
        """
        async with self._db.transaction() as connection:
            old = await connection.fetchrow(RESERVE, *_of(owner), key, size, sha256)
            if old is None:
                return False
            used = ObjectUsage(*await connection.fetchrow(USAGE, *_of(owner)))
            if old["size"] is None and used.objects > self._limits.objects_max:
                raise _full(key, f"more than {self._limits.objects_max:,} files", "limits.objects_max")
            if size > (old["size"] or 0) and used.bytes > (most := self._limits.objects_bytes_max):
                raise _full(key, f"{used.bytes:,} bytes, more than {most:,}", "limits.objects_bytes_max")
        return True

    async def commit(self, owner: Id, key: str, sha256: bytes) -> bool:
        """The write has ended: the bucket holds it."""
        return await self._db.execute(COMMIT, *_of(owner), key, sha256) > 0

    async def roll_back(self, owner: Id, key: str) -> None:
        """The write has not happened, and never will."""
        await self._db.execute(ROLL_BACK, *_of(owner), key)

    async def doom(self, owner: Id, key: str) -> bool:
        """Whether there is such a row; it is to be deleted from now on."""
        return await self._db.execute(DOOM, *_of(owner), key) > 0

    async def remove(self, owner: Id, key: str) -> None:
        await self._db.execute(REMOVE, *_of(owner), key)

    async def adopt(self, owner: Id, key: str, size: int, sha256: bytes) -> None:
        """A row for what has been in the bucket before."""
        await self._db.execute(ADOPT, *_of(owner), key, size, sha256)

    async def end_adoption(self, owner: Id) -> None:
        await self._db.execute(ADOPTED, *_of(owner))


def _full(key: str, size: str, limit: str) -> LimitExceeded:
    return LimitExceeded(
        f"the object storage is full: with {key[:80]!r} it would hold {size} ({limit}); delete files first"
    )


__all__ = ["ObjectRow", "ObjectRows", "ObjectUsage"]
