from __future__ import annotations

import asyncio
import time

import pytest

from pytw.errors import StorageUnavailable
from pytw.storage.cursors import CursorStore
from pytw.storage.pool import Database
from pytw.storage.stores import Stores
from pytw.types import Cursor, CursorSink


class Counting:
    """A database that counts writes and can be away."""

    def __init__(self, db: Database) -> None:
        self.fetch = db.fetch
        self._db = db
        self.rows = 0
        self.away = False
        self.tried = asyncio.Event()

    async def executemany(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        self.tried.set()
        if self.away:
            raise StorageUnavailable("away")
        self.rows += len(rows)
        await self._db.executemany(statement, rows)


def cursor(sequence: int) -> Cursor:
    return Cursor("session", "wss://resume", sequence, [sequence + 2, sequence + 4])


async def test_reported_cursors_survive_a_restart(stores: Stores) -> None:
    stores.cursors.report(4, 1, cursor(7))
    stores.cursors.report(4, 3, cursor(9))
    stores.cursors.report(8, 1, cursor(1))
    await stores.cursors.close()
    assert await CursorStore(stores.db).load(4) == {1: cursor(7), 3: cursor(9)}
    assert await CursorStore(stores.db).load(8) == {1: cursor(1)}
    assert await CursorStore(stores.db).load(2) == {}


async def test_sessions_of_mocks_are_forgotten_and_no_others(stores: Stores) -> None:
    stores.cursors.report(2, 0, Cursor("mock", "ws://127.0.0.1:41245/gateway", 5, []))
    stores.cursors.report(2, 1, cursor(7))
    await stores.cursors.close()
    later = CursorStore(stores.db)
    await later.forget_mocks()
    assert await later.load(2) == {1: cursor(7)}


async def test_newest_is_known_at_once(stores: Stores) -> None:
    """A worker that starts anew does not wait for the database."""
    stores.cursors.report(1, 0, cursor(1))
    await stores.cursors.flush()
    stores.cursors.report(1, 0, cursor(2))
    assert await stores.cursors.load(1) == {0: cursor(2)}
    stores.cursors.report(1, 0, None)
    assert await stores.cursors.load(1) == {}
    await stores.cursors.flush()
    assert await CursorStore(stores.db).load(1) == {}


async def test_many_reports_are_one_write(stores: Stores) -> None:
    db = Counting(stores.db)
    cursors = CursorStore(db, write_ms=20)  # type: ignore[arg-type]
    for sequence in range(1000):
        cursors.report(1, 0, cursor(sequence))
    await asyncio.wait_for(db.tried.wait(), 5)
    await cursors.close()
    assert db.rows == 1
    assert await CursorStore(stores.db).load(1) == {0: cursor(999)}


async def test_database_that_was_away_gets_the_newest(stores: Stores) -> None:
    db = Counting(stores.db)
    db.away = True
    cursors = CursorStore(db, write_ms=10)  # type: ignore[arg-type]
    cursors.report(1, 0, cursor(1))
    await asyncio.wait_for(db.tried.wait(), 5)
    cursors.report(1, 0, cursor(2))
    db.away = False
    await cursors.close()
    assert await CursorStore(stores.db).load(1) == {0: cursor(2)}


async def test_close_does_not_wait_for_the_next_write(stores: Stores) -> None:
    cursors = CursorStore(stores.db, write_ms=60_000)
    cursors.report(1, 0, cursor(1))
    began = time.monotonic()
    await cursors.close()
    assert time.monotonic() - began < 30
    assert await CursorStore(stores.db).load(1) == {0: cursor(1)}


async def test_close_with_the_database_away_only_says_so(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    db = Counting(stores.db)
    db.away = True
    cursors: CursorSink = CursorStore(db, write_ms=60_000)  # type: ignore[arg-type]
    cursors.report(1, 0, cursor(1))
    await cursors.close()  # type: ignore[attr-defined]
    assert "not saved" in caplog.text
