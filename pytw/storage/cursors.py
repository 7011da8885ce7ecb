"""Where each gateway shard goes on: the newest in memory, in the database every `CURSOR_WRITE_MS`.

The master answers a restarted worker from memory; the database is for a restarted master.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from pytw.errors import PytwError
from pytw.limits import CURSOR_WRITE_MS
from pytw.types import Cursor

if TYPE_CHECKING:
    from pytw.storage.pool import Database

LOG = logging.getLogger("pytw.storage.cursors")

RETRY_S_MAX = 5.0

LOAD = "SELECT shard, session_id, resume_url, sequence, done_above FROM gateway_cursors WHERE shards = $1"
KEEP = """
INSERT INTO gateway_cursors (shards, shard, session_id, resume_url, sequence, done_above) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (shards, shard) DO UPDATE SET session_id = excluded.session_id, resume_url = excluded.resume_url,
    sequence = excluded.sequence, done_above = excluded.done_above, updated_at = now()"""
FORGET = "DELETE FROM gateway_cursors WHERE shards = $1 AND shard = $2"
FORGET_MOCKS = "DELETE FROM gateway_cursors WHERE resume_url LIKE 'ws://127.0.0.1:%'"


class CursorStore:
    """Satisfies `types.CursorSink`. At most one entry per shard is held, and one write is under way."""

    def __init__(self, db: Database, *, write_ms: int = CURSOR_WRITE_MS) -> None:
        self._db = db
        self._write_s = write_ms / 1000
        self._newest: dict[tuple[int, int], Cursor | None] = {}
        self._unwritten: set[tuple[int, int]] = set()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def load(self, shards: int) -> dict[int, Cursor]:
        """The newest cursor of each shard that has one.

        Raises: StorageUnavailable.
        """
        rows = await self._db.fetch(LOAD, shards)
        found: dict[int, Cursor] = {
            row["shard"]: Cursor(row["session_id"], row["resume_url"], row["sequence"], row["done_above"])
            for row in rows
        }
        for (of, shard), cursor in self._newest.items():
            if of == shards and cursor is None:
                found.pop(shard, None)
            elif of == shards and cursor is not None:
                found[shard] = cursor
        return found

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        """Replaces what is known of *shard*; None forgets it. Never blocks. Within the loop."""
        self._newest[shards, shard] = cursor
        self._unwritten.add((shards, shard))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    async def forget_mocks(self) -> None:
        """Forget the sessions of mocks in earlier masters, with which they ended. Raises: StorageUnavailable."""
        await self._db.execute(FORGET_MOCKS)

    async def flush(self) -> None:
        """Write what is not written yet. Raises: StorageUnavailable."""
        writing, self._unwritten = self._unwritten, set()
        kept, forgotten = [], []
        for key in sorted(writing):
            cursor = self._newest[key]
            if cursor is None:
                forgotten.append(key)
            else:
                kept.append((*key, cursor.session_id, cursor.resume_url, cursor.sequence, list(cursor.done_above)))
        try:
            if kept:
                await self._db.executemany(KEEP, kept)
            if forgotten:
                await self._db.executemany(FORGET, forgotten)
        except BaseException:
            self._unwritten |= writing
            raise

    async def close(self) -> None:
        """Write the last ones; logs if that fails."""
        self._closing.set()
        if self._writer is not None:
            await self._writer
        try:
            await self.flush()
        except PytwError as error:
            LOG.error("gateway cursors are not saved: %s", error)

    async def _write_soon(self) -> None:
        """Runs while there is something to write; waits longer after a failure."""
        wait_s = self._write_s
        while self._unwritten and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._closing.wait()
            try:
                await self.flush()
                wait_s = self._write_s
            except PytwError as error:
                wait_s = min(wait_s * 2, RETRY_S_MAX)
                LOG.warning("gateway cursors are not saved, next try in %.1f s: %s", wait_s, error)


__all__ = ["CursorStore"]
