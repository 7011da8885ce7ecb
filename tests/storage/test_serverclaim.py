"""One server at a time serves a database, whatever ends the other and whatever becomes of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from pytw.errors import AlreadyRunning
from pytw.limits import SERVER_CLAIM_RETRY_S, SERVER_CLAIM_S
from pytw.storage.locks import SERVER
from pytw.storage.pool import connect
from pytw.storage.serverclaim import HOLDER, ServerClaim


class Clock:
    """Sleeps that take no time, and their sum."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        # The database answers in real time.
        await asyncio.sleep(0.01)


@pytest.fixture
async def first(database_url: str) -> AsyncIterator[ServerClaim]:
    claim = await ServerClaim.take(database_url)
    yield claim
    await claim.release()


async def test_the_second_server_is_told_who_the_first_is(first: ServerClaim, database_url: str) -> None:
    clock = Clock()
    with pytest.raises(AlreadyRunning, match=r"another server uses this database \(tw serve, .+, \d+\)"):
        await ServerClaim.take(database_url, sleep=clock.sleep)
    assert clock.slept_s == SERVER_CLAIM_S


async def test_a_server_that_is_ending_is_waited_for(first: ServerClaim, database_url: str) -> None:
    class Ending(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.slept_s == 2 * SERVER_CLAIM_RETRY_S:
                await first.release()

    clock = Ending()
    second = await ServerClaim.take(database_url, sleep=clock.sleep)
    assert clock.slept_s < SERVER_CLAIM_S
    await second.release()


async def test_other_databases_of_the_same_server_are_free(first: ServerClaim, empty_database_url: str) -> None:
    other = await ServerClaim.take(empty_database_url)
    await other.release()


async def test_the_claim_is_taken_again_when_its_connection_has_ended(first: ServerClaim, database_url: str) -> None:
    keeping = asyncio.create_task(first.keep())
    await end_holder(database_url)
    watcher = await connect(database_url)
    async with asyncio.timeout(10):
        while await watcher.fetchval(HOLDER, SERVER) is None:
            await asyncio.sleep(0.01)
    await watcher.close()
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    with pytest.raises(AlreadyRunning):
        await ServerClaim.take(database_url, sleep=Clock().sleep)


async def test_who_finds_another_server_in_its_place_ends(database_url: str) -> None:
    claim = await ServerClaim.take(database_url, sleep=Clock().sleep)
    faster = await connect(database_url)
    taken = asyncio.create_task(faster.fetchval("SELECT pg_advisory_lock($1)", SERVER))
    while not await waits(database_url):
        await asyncio.sleep(0.01)
    await end_holder(database_url)
    await taken
    with pytest.raises(AlreadyRunning):
        async with asyncio.timeout(20):
            await claim.keep()
    await faster.close()


async def end_holder(url: str) -> None:
    """Ends the connection that holds the claim, as PostgreSQL does when it starts anew."""
    connection = await connect(url)
    await connection.fetchval(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND granted", SERVER
    )
    await connection.close()


async def waits(url: str) -> bool:
    """Whether somebody waits for the claim."""
    connection = await connect(url)
    found = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted)", SERVER
    )
    await connection.close()
    return bool(found)
