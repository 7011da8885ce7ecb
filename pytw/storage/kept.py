"""`KeptConnection`: one connection of the pool, kept for as long as there is something to ask.

Taking a connection and giving it back costs as much as a small statement. Whoever asks again within a moment gets the one it
had; it goes back to the pool when nobody has asked for `DB_KEPT_S`, and at once where it is the last one that others could have.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pytw.limits import DB_KEPT_S
from pytw.storage.pool import Database, Lease, translated

if TYPE_CHECKING:
    import asyncpg


class KeptConnection:
    """Raises what `Database` does. One call at a time has the kept connection; others take one of their own."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lease: Lease | None = None
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        if self._db.in_transaction:
            # There is one connection anyway.
            return await self._db.fetch(statement, *arguments)
        with translated():
            lease, self._lease = self._lease, None
            if lease is not None and lease.lost:
                await lease.give_back()
                lease = None
            if lease is None:
                lease = Lease(self._db)
                await lease.begin()
            try:
                rows: list[asyncpg.Record] = await lease.connection.fetch(statement, *arguments)
            except BaseException as error:
                await lease.end(error)
                raise
            await self._keep(lease)
            return rows

    async def _keep(self, lease: Lease) -> None:
        pool = self._db.pool
        self._db.breaker.answered()
        all_taken = pool.get_size() >= pool.get_max_size() and not pool.get_idle_size()
        if self._lease is not None or all_taken or pool.is_closing():
            await lease.give_back()
            return
        if not self._told:
            self._told = True
            self._db.on_close(self.give_back)
        self._lease = lease
        self._asked = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DB_KEPT_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._asked:
            self._asked = False
            self._timer = asyncio.get_running_loop().call_later(DB_KEPT_S, self._look)
        elif self._lease is not None:
            self._db.behind(self.give_back())

    async def give_back(self) -> None:
        """Gives the connection back to the pool now."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.give_back()


__all__ = ["KeptConnection"]
