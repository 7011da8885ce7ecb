"""Tells when something waits for a lock of the database."""

from __future__ import annotations

import asyncio

from pytw.storage.pool import Database

WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"""


async def until_it_waits(db: Database, work: asyncio.Task[object]) -> None:
    """Returns when *work*, the only one that may, waits for somebody else's lock; it must not end without."""
    async with asyncio.timeout(10):
        while not await db.fetchval(WAITS):
            assert not work.done(), "it did not wait"
