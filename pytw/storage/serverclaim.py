"""`ServerClaim`: one server at a time serves a database that the configuration names.

Two would run every event twice and each take the other's place in the gateway. The claim is an advisory lock of a connection
that lives as long as the server; whatever ends the server ends it. (Our own PostgreSQL serves whoever has its data folder.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable

import asyncpg

from pytw.errors import AlreadyRunning, DatabaseUnreachable
from pytw.limits import SERVER_CLAIM_RETRY_S, SERVER_CLAIM_S
from pytw.storage.locks import SERVER
from pytw.storage.pool import connect

log = logging.getLogger(__name__)

TRY = "SELECT pg_try_advisory_lock($1)"
HOLDER = """
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid = 0 AND objid = $1 AND granted AND database = (
    SELECT oid FROM pg_database WHERE datname = current_database())"""
# A machine that is gone without a word is found out in half a minute.
SETTINGS = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

Sleep = Callable[[float], Awaitable[object]]


class ServerClaim:
    """Made by `take`."""

    def __init__(self, url: str, connection: asyncpg.Connection[asyncpg.Record], sleep: Sleep) -> None:
        self._url = url
        self._sleep = sleep
        self._lost = asyncio.Event()
        self._hold(connection)

    @classmethod
    async def take(cls, url: str, *, sleep: Sleep = asyncio.sleep) -> ServerClaim:
        """Waits `SERVER_CLAIM_S` for a server that is ending.

        Raises:
            AlreadyRunning: another one serves this database.
            DatabaseUnreachable.
        """
        return cls(url, await _claimed(url, sleep), sleep)

    def _hold(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        connection.add_termination_listener(lambda _: self._lost.set())

    async def keep(self) -> None:
        """Until cancelled: takes the claim again when its connection has ended, as when PostgreSQL starts anew.

        Raises: AlreadyRunning: another server was faster.
        """
        while True:
            await self._lost.wait()
            self._lost.clear()
            self._hold(await self._again())

    async def _again(self) -> asyncpg.Connection[asyncpg.Record]:
        while True:
            try:
                return await _claimed(self._url, self._sleep)
            except DatabaseUnreachable:
                await self._sleep(SERVER_CLAIM_RETRY_S)

    async def release(self) -> None:
        await self._connection.close(timeout=SERVER_CLAIM_RETRY_S)


async def _claimed(url: str, sleep: Sleep) -> asyncpg.Connection[asyncpg.Record]:
    connection = await connect(
        url, {**SETTINGS, "application_name": f"tw serve, {socket.gethostname()}, {os.getpid()}"}
    )
    try:
        waited_s = 0.0
        while not await connection.fetchval(TRY, SERVER):
            if waited_s >= SERVER_CLAIM_S:
                holder = await connection.fetchval(HOLDER, SERVER) or "one that is just ending"
                raise AlreadyRunning(
                    f"another server uses this database ({holder})",
                    hint="stop it, or give this one a database of its own",
                )
            if not waited_s:
                log.warning("another server uses this database; waiting for its end for %.0f s", SERVER_CLAIM_S)
            await sleep(SERVER_CLAIM_RETRY_S)
            waited_s += SERVER_CLAIM_RETRY_S
        return connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        connection.terminate()
        raise DatabaseUnreachable(f"the database went away: {error}") from error
    except BaseException:
        connection.terminate()
        raise


__all__ = ["ServerClaim"]
