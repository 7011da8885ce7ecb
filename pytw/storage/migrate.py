"""Brings a database to the schema of this build.

``migrations/NNNN_name.sql`` run in order, forward only, each in one transaction with the row that records it and its
checksum. A file whose first line is ``-- tw: no-transaction`` holds one statement that cannot run in a transaction.

Many may start at once: one holds an advisory lock and the others poll for it. They do not wait inside
``pg_advisory_lock``: a waiting statement holds a snapshot, for which ``CREATE INDEX CONCURRENTLY`` would wait in turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import asyncpg

from pytw.errors import ConfigError, DatabaseUnreachable
from pytw.storage.pool import connect, translate

LOG = logging.getLogger("pytw.storage.migrate")

LOCK_KEY = 0x7079_7477  # "pytw"
LOCK_POLL_S = 0.1
LOCK_S_MAX = 600.0
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


async def migrate(dsn: str, *, source: Path | None = None) -> list[str]:
    """Apply what is missing and return its ids; nothing to do is an empty list. Safe with many starters.

    Raises:
        DatabaseUnreachable: no connection.
        ConfigError: the database is newer than this build, an applied file has changed, or a file fails.
    """
    migrations = files(source)
    connection = await connect(dsn)
    try:
        await _lock(connection)
        try:
            await connection.execute(TABLE)
            missing = _missing(migrations, await _applied(connection))
            for migration in missing:
                await _apply(connection, migration)
                LOG.info("applied migration %s", migration.id)
            return [migration.id for migration in missing]
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise DatabaseUnreachable(f"the database went away during migration: {translate(error).detail}") from error
    except asyncpg.PostgresError as error:
        raise ConfigError(f"migration fails: {translate(error).detail}") from error
    finally:
        await connection.close(timeout=5)


async def pending(dsn: str, *, source: Path | None = None) -> list[str]:
    """Ids that `migrate` would apply. Changes nothing. Raises like `migrate`."""
    migrations = files(source)
    connection = await connect(dsn)
    try:
        return [migration.id for migration in _missing(migrations, await _applied(connection))]
    finally:
        await connection.close(timeout=5)


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        async with asyncio.timeout(LOCK_S_MAX):
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):  # noqa: ASYNC110
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


__all__ = ["Migration", "files", "migrate", "pending"]
