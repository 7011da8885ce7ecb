"""How much room each tenant's objects take, so that no template fills the disk.

Neither a file system nor a bucket counts by folder. So a tenant is measured once, by listing it, and its writes are counted
from then on; they wait for each other. All writes go through one `ObjectStore` of one master. A write that failed may have
happened: then the tenant is measured anew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from pytw.errors import LimitExceeded
from pytw.limits import OBJECT_TENANTS_MAX, Limits
from pytw.types import Id


class Usage:
    """What a tenant has. None before it is measured."""

    __slots__ = ("bytes", "files", "lock", "users")

    def __init__(self) -> None:
        self.files: int | None = None
        self.bytes = 0
        self.lock = asyncio.Lock()
        self.users = 0

    def change(self, old_bytes: int | None, new_bytes: int | None) -> None:
        """An object of *old_bytes* has become one of *new_bytes*; None: there is none."""
        if self.files is not None:
            self.files += (new_bytes is not None) - (old_bytes is not None)
            self.bytes += (new_bytes or 0) - (old_bytes or 0)

    @contextmanager
    def unknown_on_failure(self) -> Iterator[None]:
        """Around the write itself: if it fails, nobody knows what is there."""
        try:
            yield
        except BaseException:
            self.files = None
            raise


class ObjectRoom:
    """The usage of every tenant that has written of late.

    Args:
        measure: a tenant's number of objects, and their bytes.
    """

    def __init__(self, limits: Limits, measure: Callable[[Id], Awaitable[tuple[int, int]]]) -> None:
        self._limits = limits
        self._measure = measure
        self._usages: OrderedDict[Id, Usage] = OrderedDict()

    @asynccontextmanager
    async def writing(self, owner: Id) -> AsyncIterator[Usage]:
        """The tenant's usage, for one writer at a time."""
        usage = self._usage(owner)
        usage.users += 1
        try:
            async with usage.lock:
                if usage.files is None:
                    usage.files, usage.bytes = await self._measure(owner)
                yield usage
        finally:
            usage.users -= 1

    def _usage(self, owner: Id) -> Usage:
        usage = self._usages.get(owner)
        if usage is not None:
            self._usages.move_to_end(owner)
            return usage
        if len(self._usages) >= OBJECT_TENANTS_MAX:
            # Who writes keeps its lock.
            idle = next((known for known, held in self._usages.items() if not held.users), None)
            if idle is not None:
                del self._usages[idle]
        usage = self._usages[owner] = Usage()
        return usage

    def check(self, usage: Usage, key: str, old_bytes: int | None, new_bytes: int) -> None:
        """Whether an object may be written in place of one of *old_bytes*; None: it is new. What shrinks always may.

        Raises: LimitExceeded.
        """
        files_max, bytes_max = self._limits.objects_max, self._limits.objects_bytes_max
        with_it = usage.bytes - (old_bytes or 0) + new_bytes
        if old_bytes is None and (usage.files or 0) >= files_max:
            raise _full(key, f"more than {files_max:,} files", "limits.objects_max")
        if with_it > bytes_max and new_bytes > (old_bytes or 0):
            raise _full(key, f"{with_it:,} bytes, more than {bytes_max:,}", "limits.objects_bytes_max")


def _full(key: str, size: str, limit: str) -> LimitExceeded:
    return LimitExceeded(
        f"the object storage is full: with {key[:80]!r} it would hold {size} ({limit}); delete files first"
    )


__all__ = ["ObjectRoom", "Usage"]
