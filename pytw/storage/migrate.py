"""Brings a database to the schema of this build.

``migrations/NNNN_name.sql`` run in order, forward only, each in one transaction with the row that records it and its
checksum. A file whose first line is ``-- tw: no-transaction`` holds one statement that cannot run in a transaction.

Many may start at once: one holds an advisory lock and the others poll for it. They do not wait inside
``pg_advisory_lock``: a waiting statement holds a snapshot, for which ``CREATE INDEX CONCURRENTLY`` would wait in turn.

A database of the reference is taken over on the way (`pytw.storage.takeover`); one that is neither its nor ours nor
empty is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import asyncpg

from pytw.errors import ConfigError, DatabaseUnreachable, SchemaOutdated
from pytw.limits import Limits
from pytw.storage import locks, takeover
from pytw.storage.pool import connect, translate
from pytw.storage.takeover import Kind

LOG = logging.getLogger("pytw.storage.migrate")

LOCK_POLL_S = 0.1
LOCK_S_MAX = 3_600.0  # a take-over of a large database is among what is waited for
TAKEOVER = "takeover"
CLIENT_CHECK_S = 1
CLIENT_CHECK_SINCE = 14  # PostgreSQL's major version
NO_TRANSACTION = "-- tw: no-transaction"
TABLE = """
CREATE TABLE IF NOT EXISTS _migrations_applied (
    id text PRIMARY KEY, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)"""


class Migration(NamedTuple):
    """One file."""

    id: str
    sql: str
    sha256: bytes


def directory() -> Path:
    """Where the files are: inside the installed package, else beside it in the source tree."""
    package = Path(__file__).resolve().parent.parent
    return next(
        (d for d in (package / "_migrations", package.parent / "migrations") if d.is_dir()), package / "_migrations"
    )


def files(source: Path | None = None) -> list[Migration]:
    """The migrations of this build, in order."""
    found = []
    for path in sorted((source or directory()).glob("[0-9]*.sql")):
        raw = path.read_bytes()
        found.append(Migration(path.stem, raw.decode(), hashlib.sha256(raw).digest()))
    if not found:
        raise ConfigError(f"no migrations in {source or directory()}", hint="the installation is incomplete")
    return found


@dataclass(frozen=True, slots=True)
class Status:
    """What a database has and lacks."""

    kind: Kind
    applied: dict[str, datetime]
    #: In the order of `migrate`; ends with `TAKEOVER` where one is due.
    pending: list[str]
    #: What `takeover.report` tells of a take-over that is complete.
    takeover: list[str]


async def migrate(dsn: str, *, source: Path | None = None, limits: Limits | None = None) -> list[str]:
    """Apply what is missing and return its ids; nothing to do is an empty list. Safe with many starters.

    Args:
        limits: of templates that are taken over from the reference.
    Raises:
        DatabaseUnreachable: no connection.
        ConfigError: the database is newer than this build or somebody else's, an applied file has changed, or a file
            fails.
    """
    migrations = files(source)
    async with _session(dsn) as connection:
        await _lock(connection)
        try:
            return await _migrate(connection, migrations, limits or Limits())
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", locks.MIGRATE)


async def _migrate(
    connection: asyncpg.Connection[asyncpg.Record], migrations: list[Migration], limits: Limits
) -> list[str]:
    if await _kind(connection) is Kind.REFERENCE:
        LOG.warning("this is a database of the reference: it is taken over, and its tables are kept")
        await takeover.move(connection, created_names(migrations))
    await connection.execute(TABLE)
    missing = _missing(migrations, await _applied(connection))
    for migration in missing:
        await _apply(connection, migration)
        LOG.info("applied migration %s", migration.id)
    done = [migration.id for migration in missing]
    if await takeover.stage(connection) == "moved":
        await takeover.copy(connection, limits)
        done.append(TAKEOVER)
    return done


async def pending(dsn: str, *, source: Path | None = None) -> list[str]:
    """Ids that `migrate` would apply. Changes nothing. Raises like `migrate`."""
    return (await status(dsn, source=source)).pending


async def status(dsn: str, *, source: Path | None = None) -> Status:
    """What the database has and lacks. Changes nothing. Raises like `migrate`."""
    migrations = files(source)
    async with _session(dsn) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        kind = await _kind(connection)
        if kind is Kind.REFERENCE:
            return Status(kind, {}, [*(m.id for m in migrations), TAKEOVER], [])
        missing = [migration.id for migration in _missing(migrations, await _applied(connection))]
        stage = await takeover.stage(connection)
        told = await takeover.report(connection) if stage == "copied" else []
        times = {}
        if await connection.fetchval("SELECT to_regclass('_migrations_applied')") is not None:
            rows = await connection.fetch("SELECT id, applied_at FROM _migrations_applied ORDER BY id")
            times = {row["id"]: row["applied_at"] for row in rows}
        return Status(kind, times, missing + ([TAKEOVER] if stage == "moved" else []), told)


async def require_current(dsn: str, *, source: Path | None = None) -> None:
    """Returns if `migrate` would find nothing to do.

    Raises:
        SchemaOutdated: it would.
        DatabaseUnreachable, ConfigError: like `migrate`.
    """
    found = await status(dsn, source=source)
    if not found.pending:
        return
    if found.kind is Kind.EMPTY:
        what = "the database is empty"
    elif TAKEOVER in found.pending:
        what = "the database is one of the reference, and is not taken over yet"
    else:
        what = f"the database lacks {', '.join(found.pending)}"
    raise SchemaOutdated(what, hint="run `tw migrate`")


def created_names(migrations: list[Migration]) -> set[str]:
    """What the files create, by name."""
    kinds = "TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE|FUNCTION|DOMAIN|TYPE"
    found = re.compile(rf"^CREATE (?:OR REPLACE )?(?:{kinds}) (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
    return {name for migration in migrations for name in found.findall(migration.sql)} | {
        "_migrations_applied",
        "takeover_stages",
        "takeover_left",
    }


@contextlib.asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of one's own, and what its failures mean."""
    connection = await connect(dsn)
    try:
        if connection.get_server_version().major >= CLIENT_CHECK_SINCE:
            # The lock of who was killed in a long statement is free soon, not at the statement's end.
            await connection.execute(f"SET client_connection_check_interval = '{CLIENT_CHECK_S}s'")
        yield connection
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise DatabaseUnreachable(f"the database went away during migration: {translate(error).detail}") from error
    except asyncpg.LockNotAvailableError as error:
        raise ConfigError(
            "a program still uses the tables of the reference", hint="end it, and run `tw migrate` again"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            translate(error).detail,
            hint="the role that the address names needs to own the tables, and CREATE for new ones",
        ) from error
    except asyncpg.PostgresError as error:
        raise ConfigError(f"migration fails: {translate(error).detail}") from error
    finally:
        await connection.close(timeout=5)


async def _kind(connection: asyncpg.Connection[asyncpg.Record]) -> Kind:
    kind, tables = await takeover.look(connection)
    if kind is Kind.FOREIGN:
        shown = ", ".join(tables[:5]) + (", ..." if len(tables) > 5 else "")
        raise ConfigError(
            f"the database holds tables of somebody else: {shown}", hint="pytw needs a database of its own"
        )
    return kind


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        async with asyncio.timeout(LOCK_S_MAX):
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", locks.MIGRATE):  # noqa: ASYNC110
                await asyncio.sleep(LOCK_POLL_S)
    except TimeoutError:
        raise ConfigError(f"another migration has been running for {LOCK_S_MAX:.0f} s") from None


async def _applied(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, bytes]:
    if await connection.fetchval("SELECT to_regclass('_migrations_applied')") is None:
        return {}
    return {row["id"]: row["sha256"] for row in await connection.fetch("SELECT id, sha256 FROM _migrations_applied")}


def _missing(migrations: list[Migration], applied: dict[str, bytes]) -> list[Migration]:
    known = {migration.id: migration for migration in migrations}
    if newer := sorted(applied.keys() - known.keys()):
        raise ConfigError(f"the database is newer than this build: it has migration {newer[-1]}", hint="upgrade pytw")
    for name, checksum in sorted(applied.items()):
        if known[name].sha256 != checksum:
            raise ConfigError(
                f"migration {name} has changed since it was applied to this database",
                hint="restore the file; changes go into a new migration",
            )
    missing = [migration for migration in migrations if migration.id not in applied]
    if missing and applied and missing[0].id < max(applied):
        raise ConfigError(f"migration {missing[0].id} is older than {max(applied)}, which the database has already")
    return missing


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    record = "INSERT INTO _migrations_applied (id, sha256) VALUES ($1, $2)"
    try:
        if migration.sql.startswith(NO_TRANSACTION):
            await connection.execute(migration.sql)
            await connection.execute(record, migration.id, migration.sha256)
            return
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(record, migration.id, migration.sha256)
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise ConfigError(f"migration {migration.id} fails: {error}") from error


__all__ = ["TAKEOVER", "Kind", "Migration", "Status", "files", "migrate", "pending", "require_current", "status"]
