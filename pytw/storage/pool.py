"""Connections to PostgreSQL, and what its failures mean to us.

A call is one statement or one transaction on a connection of the pool. While PostgreSQL is away calls fail at once; the
pool connects anew by itself when it is back. Nothing is tried twice: a statement whose connection broke may have run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg

from pytw.errors import Conflict, DatabaseUnreachable, InternalError, PytwError, RequestError, StorageUnavailable

CONNECT_S_MAX = 5.0
STATEMENT_S_MAX = 5.0
IDLE_CONNECTION_S_MAX = 300.0

#: The server is away, full, restarting or too busy; the statement itself is fine.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    # What a connection raises that got the server's last words while it was idle.
    asyncpg.InternalClientError,
)


def translate(error: BaseException) -> PytwError:
    """Our error for what asyncpg raised."""
    text = str(error).partition("\n")[0] or type(error).__name__
    match error:
        case PytwError():
            return error
        case TimeoutError() | asyncpg.QueryCanceledError():
            return StorageUnavailable(f"the database did not answer within {STATEMENT_S_MAX:.0f} s")
        case asyncpg.DiskFullError():
            return StorageUnavailable("the database has no space left", hint=text)
        case asyncpg.UntranslatableCharacterError() | asyncpg.CharacterNotInRepertoireError():
            return RequestError("text with NUL characters cannot be stored")
        case asyncpg.UniqueViolationError():
            return Conflict(f"exists already: {error.detail or text}")
        case asyncpg.InterfaceError() if not isinstance(error, ValueError):
            return StorageUnavailable(f"the database is not available: {text}")
        case _ if isinstance(error, _AWAY):
            return StorageUnavailable(f"the database is not available: {text}")
        case asyncpg.IntegrityConstraintViolationError() | asyncpg.DataError():
            return RequestError(f"the database refuses it: {text}")
        case _:
            return InternalError(f"database: {text}")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises what `translate` makes of asyncpg's errors, with the cause kept."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise translate(error) from error


class Database:
    """A bounded pool of connections. Open it with `open_pool`.

    All methods raise:
        StorageUnavailable: PostgreSQL is away, or did not answer in time; what was asked may have happened.
        RequestError: a value that the database refuses.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection:
                rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
                return rows

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection:
                return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection:
                return await connection.fetchval(statement, *arguments)

    async def execute(self, statement: str, *arguments: Any) -> int:
        """The number of rows that the statement touched."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection:
                status = await connection.execute(statement, *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """The statement for every row, in one transaction."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection:
                await connection.executemany(statement, rows)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """A connection inside a transaction."""
        with translated():
            async with self._pool.acquire(timeout=CONNECT_S_MAX) as connection, connection.transaction():
                yield connection

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[Database]:
        """The same methods inside one transaction: stores over it do all that they do, or nothing."""
        async with self.transaction() as connection:
            yield Database(_Held(connection))

    async def ping(self) -> None:
        """Returns if the database answers."""
        await self.fetchval("SELECT 1")

    async def close(self) -> None:
        """Waits a moment for calls in flight, then ends all connections."""
        try:
            with translated():
                async with asyncio.timeout(CONNECT_S_MAX):
                    await self._pool.close()
        except StorageUnavailable:
            self._pool.terminate()


class _Held:
    """The part of a pool that `Database` uses, over one connection that is in a transaction."""

    def __init__(self, connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
        self._connection = connection

    def acquire(
        self, *, timeout: float | None = None
    ) -> contextlib.nullcontext[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        return contextlib.nullcontext(self._connection)


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection of one's own, without a bound for its statements.

    Raises: DatabaseUnreachable.
    """
    try:
        with translated():
            return await asyncpg.connect(dsn, timeout=CONNECT_S_MAX)
    except (PytwError, ValueError) as error:
        raise unreachable(dsn, error) from error


async def _leave(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """In place of asyncpg's reset, a round trip after every call: our statements leave nothing behind in a session.

    What it would be needed for, a transaction that was left open, asyncpg rolls back before it comes here.
    """


async def open_pool(dsn: str, max_connections: int = 7) -> Database:
    """A pool of at most *max_connections*, which has answered once.

    Raises: DatabaseUnreachable.
    """
    try:
        with translated():
            pool = await asyncpg.create_pool(
                dsn,
                # A floor would be kept by a task that logs a traceback whenever the server is away.
                min_size=0,
                max_size=max_connections,
                timeout=CONNECT_S_MAX,
                command_timeout=STATEMENT_S_MAX,
                max_inactive_connection_lifetime=IDLE_CONNECTION_S_MAX,
                reset=_leave,
            )
            database = Database(pool)
            try:
                await database.ping()
            except BaseException:
                pool.terminate()
                raise
    except (PytwError, ValueError) as error:
        raise unreachable(dsn, error) from error
    return database


def unreachable(dsn: str, error: Exception) -> DatabaseUnreachable:
    """One line that says which database does not answer, without its password."""
    where = dsn.rpartition("@")[2] if "@" in dsn else dsn.partition("://")[2] or dsn
    cause = error.__cause__ or error
    text = str(cause).partition("\n")[0] or type(cause).__name__
    return DatabaseUnreachable(f"cannot reach the database {where.partition('?')[0] or 'on its socket'}: {text}")


__all__ = ["Database", "connect", "open_pool", "translate", "translated"]
