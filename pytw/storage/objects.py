"""Objects of tenants: bytes under a key. What there is stands in PostgreSQL, the bytes lie in the bucket.

A write has three steps, each of which may be the last before a crash: the row notes what is coming and makes room for it,
the bucket gets the bytes, the row says that they are there. Whoever comes next upon a row that is changing settles it by
what the bucket holds. So a write that was acknowledged is there, one that was not has happened or has not, and no third thing.
All changes go through one `ObjectStore` of one master, those of one tenant one by one. See decision 0020.

An object lies under ``{owner type}s/{tenant id}/``; the slash belongs to the prefix. Source: reference `ObjectStore`
(spec/http-schema-systems.md 3.5).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from pytw.errors import ContentDamaged, LimitExceeded, NotFound, PytwError, RequestError, StorageUnavailable
from pytw.limits import OBJECT_CALL_S, OBJECT_LIST_MAX, OBJECT_SETTLE_MAX, OBJECT_TENANTS_MAX, Limits
from pytw.storage.objectkeys import (
    blob_path,
    checked_object_data,
    checked_object_key,
    checked_object_prefix,
    checked_url_life,
    folder_of,
    is_blob_name,
)
from pytw.storage.objectrows import ObjectRow, ObjectRows
from pytw.types import Id, ObjectInfo

if TYPE_CHECKING:
    from pytw.storage.objectblobs import Blobs
    from pytw.storage.pool import Database

log = logging.getLogger(__name__)

T = TypeVar("T")


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _missing(key: str) -> NotFound:
    return NotFound(f"there is no object {key[:80]!r}")


class _Lock(asyncio.Lock):
    """A tenant's, for as long as somebody holds it or waits."""

    users = 0


class ObjectStore:
    """All methods raise StorageUnavailable, besides their own: also where the bucket does not answer within *call_s*."""

    def __init__(
        self, db: Database, blobs: Blobs, limits: Limits | None = None, *, call_s: float = OBJECT_CALL_S
    ) -> None:
        self._rows = ObjectRows(db, limits or Limits())
        self._blobs = blobs
        self._call_s = call_s
        self._locks: dict[Id, _Lock] = {}
        self._changes: set[asyncio.Task[object]] = set()
        #: Tenants all of whose objects have a row.
        self._adopted: set[Id] = set()

    async def put(self, owner: Id, key: str, data: bytes) -> None:
        """Write an object, whole or not at all. A write that raises StorageUnavailable may have happened.

        Raises: RequestError. LimitExceeded: also where the tenant has no room left.
        """
        checked_object_key(key)
        checked_object_data(data)
        async with self._deadline():
            await self._alone(owner, lambda: self._put(owner, key, data))

    async def _put(self, owner: Id, key: str, data: bytes) -> None:
        sha256 = _sum(data)
        await self._reserve(owner, key, len(data), sha256)
        await self._blobs.put(blob_path(owner, key), data, key=key)
        if not await self._rows.commit(owner, key, sha256):
            raise StorageUnavailable(f"{key[:80]!r} was changed by another server meanwhile, try again")

    async def _reserve(self, owner: Id, key: str, size: int, sha256: bytes) -> None:
        try:
            reserved = await self._rows.reserve(owner, key, size, sha256)
        except LimitExceeded:
            # What has not been seen to end takes room, too.
            if not await self._settle_all(owner):
                raise
            reserved = await self._rows.reserve(owner, key, size, sha256)
        if not reserved:
            await self._settle_key(owner, key)
            if not await self._rows.reserve(owner, key, size, sha256):
                raise StorageUnavailable(f"{key[:80]!r} is being written by another server, try again")

    async def delete(self, owner: Id, key: str) -> None:
        """Take an object away. Raises: NotFound, RequestError."""
        checked_object_key(key)
        async with self._deadline():
            await self._alone(owner, lambda: self._delete(owner, key))

    async def _delete(self, owner: Id, key: str) -> None:
        if await self._settle_key(owner, key) is None:
            raise _missing(key)
        await self._rows.doom(owner, key)
        await self._blobs.delete(blob_path(owner, key))
        await self._rows.remove(owner, key)

    async def get(self, owner: Id, key: str) -> bytes:
        """What was written last, checked against its sum.

        Raises: NotFound, RequestError. ContentDamaged: the bucket holds something else; the log has the rest.
        """
        checked_object_key(key)
        async with self._reading(owner):
            row = await self._rows.find(owner, key)
            if row is None:
                raise _missing(key)
            if row.settled:
                data = await self._blobs.get(blob_path(owner, key))
                if data is not None and _sum(data) == row.sha256:
                    return data
            # It is changing, has changed meanwhile, or is damaged.
            return await self._alone(owner, lambda: self._get(owner, key))

    async def _get(self, owner: Id, key: str) -> bytes:
        row = await self._rows.find(owner, key)
        if row is not None and not row.settled:
            row = await self._settle(owner, row)
        if row is None or row.doomed or row.sha256 is None:
            raise _missing(key)
        path = blob_path(owner, key)
        data = await self._blobs.get(path)
        if data is not None and _sum(data) in (row.sha256, row.pending_sha256):
            return data
        found = "nothing" if data is None else f"{len(data):,} bytes of sha256 {_sum(data).hex()}"
        wanted = f"{row.size:,} bytes of sha256 {row.sha256.hex()}"
        log.error("object %s (%r) is damaged: its row says %s, the storage holds %s", path, key[:80], wanted, found)
        raise ContentDamaged(
            f"the file {key[:80]!r} is damaged: what is stored is not what was uploaded",
            hint="the operator of this server has been told; uploading it anew mends it",
        )

    async def exists(self, owner: Id, key: str) -> bool:
        """Raises: RequestError, LimitExceeded."""
        checked_object_key(key)
        async with self._reading(owner):
            row = await self._rows.find(owner, key)
            if row is None or row.settled:
                return row is not None
            settled = await self._alone(owner, lambda: self._look(owner, key))
        return settled is not None and not settled.doomed and settled.sha256 is not None

    async def _look(self, owner: Id, key: str) -> ObjectRow | None:
        row = await self._rows.find(owner, key)
        return row if row is None or row.settled else await self._settle(owner, row)

    async def list(
        self, owner: Id, prefix: str = "", *, limit: int = OBJECT_LIST_MAX, after: str | None = None
    ) -> list[ObjectInfo]:
        """Objects whose key starts with *prefix*, in the order of the keys' bytes.

        Args:
            limit: at most one more than `OBJECT_LIST_MAX`, which tells that there are more.
            after: the key behind which to go on.
        Raises: RequestError, LimitExceeded.
        """
        checked_object_prefix(prefix)
        if after:
            checked_object_key(after)
        if limit < 1:
            raise RequestError("the limit must be at least 1")
        async with self._reading(owner):
            if await self._rows.changing(owner, 1):
                await self._alone(owner, lambda: self._settle_all(owner))
            return await self._rows.page(owner, prefix, after=after or "", limit=min(limit, OBJECT_LIST_MAX + 1))

    async def url(self, owner: Id, key: str, expires_s: int) -> str:
        """An address at which everybody may read what the key holds for so long; whether it holds anything is not looked at.

        Raises: RequestError, LimitExceeded. Unavailable: this store has no addresses.
        """
        path = blob_path(owner, checked_object_key(key))
        return await self._blobs.url(owner, key, path, checked_url_life(expires_s))

    async def open_link(self, owner: Id, key: str, *, expires: str, signature: str) -> bytes:
        """The object of a URL that `url` gave. Raises: Forbidden, NotFound, RequestError, ContentDamaged."""
        self._blobs.check_link(owner, key, expires=expires, signature=signature)
        return await self.get(owner, key)

    async def close(self) -> None:
        """Waits for the changes that are under way; each has its own bound."""
        if self._changes:
            await asyncio.wait(self._changes, timeout=OBJECT_CALL_S)

    # ---- what was left half done ---------------------------------------------------------------------------

    async def _settle_key(self, owner: Id, key: str) -> ObjectRow | None:
        """The settled row of a key, None where there is none. Raises: StorageUnavailable: it cannot be settled yet."""
        row = await self._look(owner, key)
        if row is not None and not row.settled:
            left_s = max(1.0, self._blobs.doubt_s - (row.changing_s or 0.0))
            raise StorageUnavailable(
                f"an earlier change of {key[:80]!r} has not ended, try again in {left_s:.0f} s",
                hint="the storage did not answer it and may still carry it out",
            )
        return row

    async def _settle_all(self, owner: Id) -> int:
        """Looks at the rows that are changing; returns how many."""
        rows = await self._rows.changing(owner, OBJECT_SETTLE_MAX)
        for row in rows:
            await self._settle(owner, row)
        return len(rows)

    async def _settle(self, owner: Id, row: ObjectRow) -> ObjectRow | None:
        """The row after the bucket was looked at; None where there is none any more.

        Nobody else changes the tenant's objects meanwhile. Only a service that does not answer may still carry out what it
        was asked: such a row stays as it is for a while.
        """
        path, key = blob_path(owner, row.key), row.key
        in_doubt = (row.changing_s or 0.0) < self._blobs.doubt_s
        if row.doomed:
            if in_doubt:
                return row
            await self._blobs.delete(path)
            await self._rows.remove(owner, key)
            return None
        data = await self._blobs.get(path)
        if row.pending_sha256 is not None and data is not None and _sum(data) == row.pending_sha256:
            await self._rows.commit(owner, key, row.pending_sha256)
        elif in_doubt:
            return row
        elif row.sha256 is None:
            await self._rows.remove(owner, key)
        else:
            await self._rows.roll_back(owner, key)
        return await self._rows.find(owner, key)

    async def _adopt(self, owner: Id) -> None:
        """Gives rows to what was stored under its own key, before there were rows; can be repeated after any crash."""
        if (await self._rows.usage(owner)).adopted:
            return
        folder = folder_of(owner)
        for key in [name async for name in self._blobs.under(folder) if not is_blob_name(name)]:
            old = f"{folder}/{key}"
            try:
                path = blob_path(owner, checked_object_key(key))
            except PytwError as error:
                log.warning("object storage: %r stays as it is: %s", old[:200], error)
                continue
            data = await self._blobs.get(old)
            if data is not None:
                await self._blobs.put(path, data, key=key)
                await self._rows.adopt(owner, key, len(data), _sum(data))
                await self._blobs.delete(old)
        await self._rows.end_adoption(owner)

    # ---- one by one ----------------------------------------------------------------------------------------

    async def _nothing(self) -> None:
        """What to do after adoption, where only that is wanted."""

    @asynccontextmanager
    async def _reading(self, owner: Id) -> AsyncIterator[None]:
        """Around an operation that needs no turn: all of the tenant's objects have rows, and it ends in time."""
        async with self._deadline():
            if owner not in self._adopted:
                await self._alone(owner, self._nothing)
            yield

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._call_s):
                yield
        except TimeoutError:
            raise StorageUnavailable(f"object storage did not answer within {self._call_s:.0f} s") from None

    async def _alone(self, owner: Id, work: Callable[[], Awaitable[T]]) -> T:
        """Do it as the only one of the tenant. Once begun it goes on to its end, also where nobody waits for it any more."""
        lock = self._locks.setdefault(owner, _Lock())
        lock.users += 1
        begun = False

        def end(task: asyncio.Task[T]) -> None:
            lock.release()
            self._left(owner, lock)
            self._changes.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, PytwError):
                log.error("object storage: %s", error, exc_info=error)

        try:
            await lock.acquire()
            task = asyncio.ensure_future(self._adopted_first(owner, work))
            begun = True
            self._changes.add(task)
            task.add_done_callback(end)
            return await asyncio.shield(task)
        finally:
            if not begun:
                self._left(owner, lock)

    def _left(self, owner: Id, lock: _Lock) -> None:
        lock.users -= 1
        if not lock.users:
            del self._locks[owner]

    async def _adopted_first(self, owner: Id, work: Callable[[], Awaitable[T]]) -> T:
        if owner not in self._adopted:
            await self._adopt(owner)
            if len(self._adopted) >= OBJECT_TENANTS_MAX:
                self._adopted.clear()
            self._adopted.add(owner)
        return await work()


__all__ = ["ObjectStore"]
