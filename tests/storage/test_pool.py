from __future__ import annotations

import asyncio

import asyncpg
import pytest

from pytw.errors import Conflict, DatabaseUnreachable, InternalError, PytwError, RequestError, StorageUnavailable
from pytw.storage import pool
from pytw.storage.pool import open_pool, translate


async def _end_connections(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_calls_recover_by_themselves_after_the_server_ended_their_connections(database_url: str) -> None:
    """What fails meanwhile fails as unavailable storage and nothing else."""
    database = await open_pool(database_url, 4)
    await asyncio.gather(*(database.ping() for _ in range(4)))
    for _ in range(3):
        await _end_connections(database_url)
        failures = 0
        for _ in range(20):
            try:
                await database.ping()
                break
            except StorageUnavailable:
                failures += 1
        assert failures <= 4
    await database.close()


async def test_statement_that_takes_too_long_is_given_up(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "DB_STATEMENT_S", 0.1)
    database = await open_pool(database_url, 1)
    with pytest.raises(StorageUnavailable, match="did not answer"):
        await database.fetchval("SELECT pg_sleep(30)")
    await database.ping()
    await database.close()


async def test_waiting_for_a_connection_is_bounded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await open_pool(database_url, 1)
    monkeypatch.setattr(pool, "DB_CONNECT_S", 0.1)
    async with database.transaction():
        with pytest.raises(StorageUnavailable):
            await database.ping()
    assert database.breaker.failures == 0, "a pool in use is no database that is away"
    await database.ping()
    await database.close()


async def test_failed_transaction_leaves_nothing(database_url: str) -> None:
    database = await open_pool(database_url, 2)

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO users (user_id) VALUES ('1')")
            await connection.execute("SELECT 1/0")

    with pytest.raises(RequestError):
        await work()
    assert await database.fetchval("SELECT count(*) FROM users") == 0
    await database.close()


async def test_transaction_that_is_cancelled_leaves_its_connection_clean(database_url: str) -> None:
    database = await open_pool(database_url, 1)
    waiting = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO users (user_id) VALUES ('1')")
            waiting.set()
            await connection.execute("SELECT pg_sleep(30)")

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await database.fetchval("SELECT count(*) FROM users") == 0
    await database.execute("INSERT INTO users (user_id) VALUES ('2')")
    await database.close()


async def test_closed_pool_is_unavailable(database_url: str) -> None:
    database = await open_pool(database_url, 1)
    await database.close()
    with pytest.raises(StorageUnavailable):
        await database.ping()


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@127.0.0.1:1/x", "postgresql://u@/x?host=/nonexistent", "nonsense"]
)
async def test_no_database_is_one_clear_line(url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="cannot reach the database") as caught:
        await open_pool(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1/0", RequestError),
        ("""SELECT '"\\u0000"'::jsonb""", RequestError),
        ("INSERT INTO users (user_id) VALUES ('1'), ('1')", Conflict),
        ("INSERT INTO users (user_id) VALUES ('x')", RequestError),
        ("SELECT nothing FROM nowhere", InternalError),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)", StorageUnavailable),
    ],
)
async def test_errors_of_the_database_say_who_acts(database_url: str, statement: str, error: type[PytwError]) -> None:
    database = await open_pool(database_url, 1)
    with pytest.raises(PytwError) as caught:
        await database.execute(statement)
    assert type(caught.value) is error
    await database.close()


def test_full_database_is_unavailable() -> None:
    found = translate(asyncpg.DiskFullError("could not extend file"))
    assert isinstance(found, StorageUnavailable)
    assert "no space" in found.detail
