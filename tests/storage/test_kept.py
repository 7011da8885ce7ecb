"""A connection that is kept for who asks again, and is back in the pool when nobody does or the pool ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pytw.errors import InternalError, PytwError
from pytw.limits import BREAKER_FAILURES
from pytw.storage import kept as kept_module
from pytw.storage.breaker import State
from pytw.storage.kept import KeptConnection
from pytw.storage.pool import Database, open_pool

PID = "SELECT pg_backend_pid()"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    found = await open_pool(database_url, 3)
    yield found
    await found.close()


def free(db: Database) -> bool:
    """Whether every connection is in the pool."""
    return db.pool.get_idle_size() == db.pool.get_size()


async def until_free(db: Database) -> None:
    async with asyncio.timeout(10):
        while not free(db):
            await asyncio.sleep(0.01)


async def test_who_asks_again_has_the_same_connection(db: Database) -> None:
    kept = KeptConnection(db)
    first = await kept.fetch(PID)
    assert not free(db)
    assert await kept.fetch(PID) == first


async def test_it_goes_back_when_nobody_asks(db: Database) -> None:
    kept = KeptConnection(db)
    await kept.fetch(PID)
    await until_free(db)
    assert len(await kept.fetch(PID)) == 1


async def test_who_asks_meanwhile_has_another_one(db: Database) -> None:
    kept = KeptConnection(db)
    pids = await asyncio.gather(*(kept.fetch(f"{PID} FROM pg_sleep(0.05)") for _ in range(3)))
    assert len({pid for ((pid,),) in pids}) == 3
    await until_free(db)


async def test_an_error_of_the_statement_is_told_and_keeps_nothing(db: Database) -> None:
    kept = KeptConnection(db)
    with pytest.raises(InternalError):
        await kept.fetch("SELECT 1 FROM nothing_of_this_name")
    await until_free(db)
    assert len(await kept.fetch(PID)) == 1


async def test_who_asks_does_not_hear_of_a_connection_that_has_ended(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "DB_KEPT_S", 60.0)
    kept = KeptConnection(db)
    ((pid,),) = await kept.fetch(PID)
    await db.execute("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(10):
        while db.pool.get_size() > 1:
            await asyncio.sleep(0.01)
    ((new,),) = await kept.fetch(PID)
    assert new != pid


async def test_going_back_is_no_answer_of_the_database(db: Database) -> None:
    kept = KeptConnection(db)
    await kept.fetch(PID)
    for _ in range(BREAKER_FAILURES):
        db.breaker.failed("away")
    await until_free(db)
    assert db.breaker.state is State.OPEN


async def test_the_last_connection_is_for_all(database_url: str) -> None:
    db = await open_pool(database_url, 1)
    kept, done = KeptConnection(db), asyncio.Event()

    async def busy() -> None:
        while not done.is_set():
            await kept.fetch(PID)

    task = asyncio.create_task(busy())
    for _ in range(5):
        await db.ping()
    done.set()
    await task
    await db.close()


async def test_who_gives_up_leaves_a_connection_that_can_be_used(db: Database) -> None:
    kept = KeptConnection(db)
    task = asyncio.create_task(kept.fetch(f"{PID} FROM pg_sleep(30)"))
    while free(db):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await kept.fetch(PID)) == 1
    await until_free(db)


async def test_the_pool_ends_at_once_with_a_connection_that_is_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "DB_KEPT_S", 60.0)
    db = await open_pool(database_url, 2)
    kept = KeptConnection(db)
    await kept.fetch(PID)
    async with asyncio.timeout(3):
        await db.close()
    with pytest.raises(PytwError):
        await kept.fetch(PID)
