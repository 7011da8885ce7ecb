"""The database as one file, and back: PostgreSQL's custom format, made and read by its own programs.

A dump is whole or not there. A restore is one transaction: the tables that are there go, those of the file come, and
whatever goes wrong undoes both. Tables of somebody else in the same database are neither dumped nor touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import asyncpg

from pytw.errors import ConfigError, StorageRefused
from pytw.storage.migrate import Migration, created_names, files
from pytw.storage.pgclient import Client, words
from pytw.storage.takeover import Kind, look
from pytw.storage.takeover.found import SCHEMA

MAGIC = b"PGDMP"
HEADER_BYTES = 1 << 16
#: Settings that a newer program writes and an older server does not know, with the version that brought them.
SETTINGS_SINCE = {17: b"SET transaction_timeout = 0;\n"}
RECORD = "_migrations_applied"
END_S_MAX = 10.0


async def dump(connection: asyncpg.Connection[asyncpg.Record], programs: Client, target: Path, *, force: bool) -> int:
    """Write the database of *connection* to *target*, and return the number of bytes.

    Args:
        force: take the place of a file that is there.
    Raises:
        ConfigError: not our database, or a server that is newer than the programs.
        StorageRefused: the file is there, or cannot be written.
    """
    _require_free(target, force=force)
    kind, tables = await look(connection)
    if kind is not Kind.OURS:
        raise ConfigError("this is no database of pytw yet", hint="pg_dump saves any database")
    require_age(programs, connection)
    here = await connection.fetchval("SELECT current_schema()")
    strangers = [name for name in tables if name not in created_names(files())]
    schemas = await connection.fetch(
        "SELECT nspname FROM pg_namespace WHERE nspname <> ALL ($1) AND nspname !~ '^pg_' AND nspname <> 'information_schema'",
        [here, SCHEMA],
    )
    leave = [f'--exclude-table="{here}"."{name}"' for name in strangers]
    leave += [f'--exclude-schema="{row[0]}"' for row in schemas]
    return _write(programs, target, leave, force=force)


def _require_free(target: Path, *, force: bool) -> None:
    if target.exists() and not force:
        raise StorageRefused(f"{target} is there already", hint="--force takes its place")


def _write(programs: Client, target: Path, leave: list[str], *, force: bool) -> int:
    try:
        with _beside(target) as part:
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--file={part}", *leave]
            _run(programs, "pg_dump", *options, f"--dbname={programs.dsn}")
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            size = part.stat().st_size
            if force:
                part.replace(target)
            else:
                os.link(part, target)
    except FileExistsError:
        raise StorageRefused(f"{target} is there already", hint="--force takes its place") from None
    except OSError as error:
        raise StorageRefused(f"cannot write {target}: {error.strerror}") from error
    return size


async def restore(
    connection: asyncpg.Connection[asyncpg.Record], programs: Client, source: Path, *, replace: bool
) -> None:
    """Put what *source* holds into the database, in place of what is there. All or nothing; it is not migrated.

    Args:
        replace: even if there are rows.
    Raises:
        ConfigError: not a dump of pytw, or of a newer one; somebody uses the database, or it holds rows or others' tables.
    """
    migrations = files()
    require_age(programs, connection)
    require_ours(programs, source, migrations)
    kind, tables = await look(connection)
    if kind not in (Kind.EMPTY, Kind.OURS):
        raise ConfigError("the database holds tables that are not of pytw", hint="restore into a database of its own")
    known = created_names(migrations)
    if not replace and (full := await _first_with_rows(connection, [name for name in tables if name in known])):
        raise ConfigError(f"the database has rows, in {full} for one", hint="--replace restores in their place")
    users = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    if users:
        raise ConfigError(f"{users} other connections use the database", hint="end the server first")
    clear = await connection.fetchval(_CLEAR, list(known), kind is Kind.OURS and "takeover_stages" in tables)
    _pour(programs, source, clear, connection.get_server_version().major)


def require_age(programs: Client, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raises: ConfigError: the server is newer than the programs, which then refuse it or misread it."""
    server = connection.get_server_version().major
    if server > programs.major:
        raise ConfigError(
            f"the server is PostgreSQL {server}, and {programs.binaries}/pg_dump is of version {programs.major}",
            hint=f"set TW_PG_BIN to the folder of programs of version {server} or later",
        )


def require_ours(programs: Client, source: Path, migrations: list[Migration]) -> None:
    """Raises: ConfigError: *source* is no dump of ours, is damaged, or is newer than this build."""
    try:
        with open(source, "rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error
    if magic != MAGIC:
        raise ConfigError(f"{source} is no dump", hint="`tw db dump FILE` makes one")
    text = _run(programs, "pg_restore", "--data-only", f"--table={RECORD}", "--file=-", str(source)).decode()
    recorded = dict(re.findall(r"^([0-9]\w*)\t\\\\x([0-9a-f]{64})\t", text, re.MULTILINE))
    if not recorded:
        raise ConfigError(f"{source} is a dump, but not of pytw")
    known = {migration.id: migration.sha256.hex() for migration in migrations}
    for name in sorted(recorded, reverse=True):
        if name not in known:
            raise ConfigError(f"{source} is newer than this build: it has migration {name}", hint="upgrade pytw")
        if recorded[name] != known[name]:
            raise ConfigError(f"{source} was made by a build whose migration {name} is another one")


# Drops ours and nothing else; what hangs on it, such as triggers and indexes, goes with it.
_CLEAR = f"""
SELECT string_agg(statement, E';\\n' ORDER BY place) FROM (
    SELECT 1 AS place, format('DROP TABLE %I.%I CASCADE', current_schema(), relname) AS statement FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relname = ANY ($1)
    UNION ALL
    SELECT 2, format('DROP FUNCTION %s CASCADE', p.oid::regprocedure) FROM pg_proc p
    WHERE pronamespace = current_schema()::regnamespace AND proname = ANY ($1)
    UNION ALL
    SELECT 3, format('DROP DOMAIN %s CASCADE', t.oid::regtype) FROM pg_type t
    WHERE typnamespace = current_schema()::regnamespace AND typtype = 'd' AND typname = ANY ($1)
    UNION ALL
    SELECT 4, 'DROP SCHEMA IF EXISTS {SCHEMA} CASCADE' WHERE $2
) AS statements"""


async def _first_with_rows(connection: asyncpg.Connection[asyncpg.Record], tables: list[str]) -> str:
    for name in tables:
        if name != RECORD and await connection.fetchval(f'SELECT EXISTS (SELECT FROM "{name}")'):
            return name
    return ""


def _pour(programs: Client, source: Path, clear: str | None, server_major: int) -> None:
    """`pg_restore` writes what `psql` runs, inside one transaction that only a complete file ends."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        reader = subprocess.Popen(
            programs.command("pg_restore", "--no-owner", "--no-privileges", "--file=-", str(source)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
            env=programs.environment,
        )
        writer = subprocess.Popen(
            programs.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", f"--dbname={programs.dsn}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=programs.environment,
        )
        try:
            assert reader.stdout is not None
            assert writer.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # psql has ended: its words tell why
                writer.stdin.write(f"BEGIN;\n{clear or 'SELECT'};\n".encode())
                head = reader.stdout.read(HEADER_BYTES)
                for major, setting in SETTINGS_SINCE.items():
                    if server_major < major:
                        head = head.replace(setting, b"", 1)
                writer.stdin.write(head)
                shutil.copyfileobj(reader.stdout, writer.stdin)
                if reader.wait() == 0:
                    writer.stdin.write(b"COMMIT;\n")
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
            reader.stdout.close()
            failed = writer.wait() or reader.wait()
        finally:
            for process in (writer, reader):
                if process.poll() is None:
                    process.kill()
                    process.wait(END_S_MAX)
        if failed:
            raise _failed("nothing was restored", programs, _text(said) or _text(told))


def _failed(what: str, programs: Client, output: bytes) -> ConfigError:
    text = words(output)
    without_tls = "SSL" in text or "no encryption" in text
    hint = f"if {programs.binaries} has no TLS, set TW_PG_BIN to programs that have" if without_tls else None
    return ConfigError(f"{what}: {text}", hint=hint)


def _text(written: IO[bytes]) -> bytes:
    written.seek(0)
    return written.read(HEADER_BYTES)


def _run(programs: Client, program: str, *arguments: str) -> bytes:
    done = subprocess.run(
        programs.command(program, *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=programs.environment,
        check=False,
    )
    if done.returncode:
        raise _failed(f"{program} fails", programs, done.stderr)
    return done.stdout


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A file in the same folder that only we may read: a dump holds tokens. It is gone afterwards."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


__all__ = ["dump", "require_age", "require_ours", "restore"]
