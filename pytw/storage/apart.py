"""`Apart`: statements that take as long as a tenant's own rows make them, or that wait for what it locks.

They have connections of their own, few for one tenant, so that whatever a tenant makes slow the rest are free for what is
known to be quick.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database


class Apart:
    """The methods of a `Database`, in turns. Inside a transaction, which has its connection, there are none to wait for."""

    def __init__(self, db: Database, *, tenant_max: int, total_max: int) -> None:
        """
        Args:
            tenant_max, total_max: statements at the same time, of one tenant and of all.
        """
        self._db = db
        self._tenant_max = tenant_max
        self._all = asyncio.Semaphore(total_max)
        #: Of those who run or wait: their turns, and how many they are.
        self._tenants: dict[int, tuple[asyncio.Semaphore, int]] = {}

    async def fetch(self, tenant: int, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._turn(tenant):
            return await self._db.fetch(statement, *arguments)

    async def fetchrow(self, tenant: int, statement: str, *arguments: Any) -> asyncpg.Record | None:
        async with self._turn(tenant):
            return await self._db.fetchrow(statement, *arguments)

    async def fetchval(self, tenant: int, statement: str, *arguments: Any) -> Any:
        async with self._turn(tenant):
            return await self._db.fetchval(statement, *arguments)

    async def execute(self, tenant: int, statement: str, *arguments: Any) -> int:
        async with self._turn(tenant):
            return await self._db.execute(statement, *arguments)

    @asynccontextmanager
    async def _turn(self, tenant: int) -> AsyncIterator[None]:
        if self._db.in_transaction:
            yield
            return
        own, users = self._tenants.get(tenant) or (asyncio.Semaphore(self._tenant_max), 0)
        self._tenants[tenant] = own, users + 1
        try:
            # The tenant's own first: so a few of each wait for all, and come in the order in which they began to.
            async with own, self._all:
                yield
        finally:
            own, users = self._tenants.pop(tenant)
            if users > 1:
                self._tenants[tenant] = own, users - 1


__all__ = ["Apart"]
