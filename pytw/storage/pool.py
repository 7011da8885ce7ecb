"""Connections to PostgreSQL, and what its failures mean to us.

A call is one statement or one transaction on a connection of the pool. While PostgreSQL is away calls fail at once, and so
they do when it hangs (`breaker`); the pool connects anew by itself when it is back. Nothing is tried twice: a statement whose
connection broke may have run.

A caller that gives up, or whose time is over, is not kept waiting for its connection: that is tidied up behind it, and what
it does then tells a slow statement from a server that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import asyncpg

from pytw.errors import Conflict, DatabaseUnreachable, InternalError, PytwError, RequestError, StorageUnavailable
from pytw.limits import DB_CANCEL_S, DB_CONNECT_S, DB_CONNECTIONS, DB_OPERATION_S, DB_STATEMENT_S
from pytw.storage.breaker import Breaker

IDLE_CONNECTION_S_MAX = 300.0

if TYPE_CHECKING:
    from typing import TypeAlias

    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

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
)


def translate(error: BaseException) -> PytwError:
    """Our error for what asyncpg raised."""
    text = str(error).partition("\n")[0] or type(error).__name__
    match error:
        case PytwError():
            return error
        case TimeoutError() | asyncpg.QueryCanceledError():
            return StorageUnavailable(f"the database did not answer within {DB_STATEMENT_S:.0f} s")
        case asyncpg.DiskFullError():
            return StorageUnavailable("the database has no space left", hint=text)
        case asyncpg.UntranslatableCharacterError() | asyncpg.CharacterNotInRepertoireError():
            return RequestError("text with NUL characters cannot be stored")
        case asyncpg.UniqueViolationError():
            return Conflict(f"exists already: {error.detail or text}")
        case asyncpg.InterfaceError() if not isinstance(error, ValueError):
            return StorageUnavailable(f"the database is not available: {text}")
        case asyncpg.InternalClientError():
            # What a connection raises that got the server's last words while it was idle.
            return StorageUnavailable("the database is not available: the connection has ended")
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


#: What says that the server, or the way to it, is gone; other errors of the server are answers.
_GONE = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InternalClientError)


class Lease:
    """A connection of the pool for one call, whose end the breaker hears of."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connection: Connection
        #: To be rolled back where the caller gives up.
        self.transaction: asyncpg.transaction.Transaction | None = None

    async def __aenter__(self) -> Connection:
        await self.begin()
        return self.connection

    async def begin(self) -> None:
        """Takes the connection."""
        pool, breaker = self._database.pool, self._database.breaker
        breaker.admit()
        try:
            # A bound costs a task, and is for waiting: one that is idle is had at once.
            self.connection = await pool.acquire(timeout=None if pool.get_idle_size() else DB_CONNECT_S)
        except TimeoutError:
            # Where all connections are in use the server is merely busy.
            if pool.get_size() < pool.get_max_size():
                breaker.failed(f"no connection within {DB_CONNECT_S:.0f} s")
            raise
        except asyncpg.InterfaceError:
            # The pool is closed.
            raise
        except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            breaker.failed(str(error).partition("\n")[0])
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.end(error)

    async def end(self, error: BaseException | None) -> None:
        """Gives it back, after a call that has ended with *error*."""
        breaker = self._database.breaker
        if error is None:
            breaker.answered()
        elif isinstance(error, (TimeoutError, asyncio.CancelledError)):
            self._database.behind(self._tidy())
            return
        elif isinstance(error, _GONE) and not isinstance(error, asyncpg.QueryCanceledError):
            breaker.failed(str(error).partition("\n")[0])
        elif isinstance(error, asyncpg.PostgresError):
            breaker.answered()
        await self.give_back()

    async def give_back(self) -> None:
        """Gives it back where there is nothing to tell."""
        await self._database.pool.release(self.connection)

    @property
    def lost(self) -> bool:
        """Whether the connection has ended since it was used."""
        try:
            return bool(self.connection.is_closed())
        except asyncpg.InterfaceError:
            # The pool has heard of it, and taken it back.
            return True

    async def _tidy(self) -> None:
        """Ends what the caller has left behind. A server that does not even say that it gives up a statement hangs."""
        database, connection = self._database, self.connection
        try:
            # asyncpg itself waits for as long as a statement may take, and then ends the connection without a word.
            async with asyncio.timeout(DB_CANCEL_S):
                if self.transaction is not None:
                    await self.transaction.rollback()
                await database.pool.release(connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            database.breaker.failed(str(error).partition("\n")[0] or "a statement that was given up did not end")
            # Free already where its release has failed.
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()
                await database.pool.release(connection)


class Database:
    """A bounded pool of connections. Open it with `open_pool`.

    All methods raise:
        StorageUnavailable: PostgreSQL is away, or did not answer in time; what was asked may have happened.
        RequestError: a value that the database refuses.
    """

    #: One connection, for one call at a time.
    in_transaction = False

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], breaker: Breaker | None = None) -> None:
        self.pool = pool
        self.breaker = breaker or Breaker()
        self._behind: set[asyncio.Task[None]] = set()
        self._before_close: list[Callable[[], Awaitable[None]]] = []

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        with translated():
            async with self._lease() as connection:
                rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
                return rows

    async def fetchrow(self, statement: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row."""
        with translated():
            async with self._lease() as connection:
                return await connection.fetchrow(statement, *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        with translated():
            async with self._lease() as connection:
                return await connection.fetchval(statement, *arguments)

    async def execute(self, statement: str, *arguments: Any) -> int:
        """The number of rows that the statement touched."""
        with translated():
            async with self._lease() as connection:
                status = await connection.execute(statement, *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """The statement for every row, in one transaction."""
        with translated():
            async with self._lease() as connection:
                await connection.executemany(statement, rows)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, for `DB_OPERATION_S` at most."""
        lease = Lease(self)
        with translated():
            async with lease as connection, asyncio.timeout(DB_OPERATION_S):
                transaction = connection.transaction()
                await transaction.start()
                try:
                    yield connection
                except (TimeoutError, asyncio.CancelledError):
                    lease.transaction = transaction
                    raise
                except BaseException:
                    await transaction.rollback()
                    raise
                else:
                    await transaction.commit()

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[Database]:
        """The same methods inside one transaction: stores over it do all that they do, or nothing."""
        async with self.transaction() as connection:
            yield _Inside(connection)

    async def ping(self) -> None:
        """Returns if the database answers."""
        await self.fetchval("SELECT 1")

    async def close(self) -> None:
        """Waits a moment for calls in flight, then ends all connections."""
        try:
            with translated():
                async with asyncio.timeout(DB_CONNECT_S):
                    for give_back in self._before_close:
                        await give_back()
                    await self.pool.close()
        except StorageUnavailable:
            self.pool.terminate()

    def _lease(self) -> AbstractAsyncContextManager[Connection]:
        return Lease(self)

    def on_close(self, give_back: Callable[[], Awaitable[None]]) -> None:
        """Has *give_back* called before the connections end: the pool waits for every one that is out."""
        self._before_close.append(give_back)

    def behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Does it behind the caller's back."""
        task = asyncio.get_running_loop().create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)


class _Inside(Database):
    """The same over one connection that is in a transaction, whose holder has its lease."""

    in_transaction = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _lease(self) -> AbstractAsyncContextManager[Connection]:
        return contextlib.nullcontext(self._connection)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        with translated():
            async with self._connection.transaction():
                yield self._connection


async def connect(dsn: str, settings: Mapping[str, str] | None = None) -> asyncpg.Connection[asyncpg.Record]:
    """One connection of one's own, without a bound for its statements.

    Args:
        settings: of the session, as PostgreSQL names them.
    Raises: DatabaseUnreachable.
    """
    try:
        with translated():
            return await asyncpg.connect(dsn, timeout=DB_CONNECT_S, server_settings=dict(settings or {}))
    except (PytwError, ValueError) as error:
        raise unreachable(dsn, error) from error


async def _leave(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """In place of asyncpg's reset, a round trip after every call: our statements leave nothing behind in a session.

    What it would be needed for, a transaction that was left open, asyncpg rolls back before it comes here.
    """


async def make_pool(dsn: str, max_connections: int = DB_CONNECTIONS) -> Database:
    """A pool of at most *max_connections*, which connects when it is first asked.

    Raises: ValueError: *dsn* is no address.
    """
    pool = await asyncpg.create_pool(
        dsn,
        # A floor would be kept by a task that logs a traceback whenever the server is away.
        min_size=0,
        max_size=max_connections,
        timeout=DB_CONNECT_S,
        command_timeout=DB_STATEMENT_S,
        max_inactive_connection_lifetime=IDLE_CONNECTION_S_MAX,
        reset=_leave,
    )
    return Database(pool)


async def open_pool(dsn: str, max_connections: int = DB_CONNECTIONS) -> Database:
    """`make_pool`, which has answered once.

    Raises: DatabaseUnreachable.
    """
    try:
        with translated():
            database = await make_pool(dsn, max_connections)
            try:
                await database.ping()
            except BaseException:
                database.pool.terminate()
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


__all__ = ["Database", "Lease", "connect", "make_pool", "open_pool", "translate", "translated"]
