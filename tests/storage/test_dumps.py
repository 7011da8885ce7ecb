"""Dumps are whole or not there, restores happen wholly or not at all, and what comes back is what was saved."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pytw.errors import ConfigError, PytwError, StorageRefused
from pytw.storage import dumps, pgclient
from pytw.storage.migrate import files, migrate, pending
from pytw.storage.pgclient import client, split_password
from tests.storage import reference
from tests.storage.test_takeover import build, consistent, fetch, kv

ROWS = """
INSERT INTO tenant_kv (id, owner_type, owner_id, key, scopes, value, expires_at, resume) VALUES
    ('a', 'guild', '1', 'k', '{s}', '{"Text": "é\\t\\\\ line"}', '2030-01-01', true), ('b', 'user', '1', 'k', '{s,t}', '"Null"', NULL, false);
INSERT INTO tenant_state (owner_type, owner_id, events, banned) VALUES ('guild', '1', '{A}', true);
INSERT INTO users (user_id) VALUES ('5');
INSERT INTO web_api_tokens (user_id, type, token_hash, expiry) VALUES ('5', 'api', sha256('x'), now() + '1 day')"""


async def everything(url: str) -> dict[str, Any]:
    """The rows of all tables."""
    tables = await fetch(
        url, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return {name: sorted(map(repr, await fetch(url, f'SELECT t::text FROM "{name}" t'))) for (name,) in tables}


def content(path: Path) -> bytes:
    return path.read_bytes()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def cut(path: Path, kept: float) -> None:
    whole = content(path)
    path.write_bytes(whole[: int(len(whole) * kept)])


async def dump(url: str, target: Path, *, force: bool = False) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await dumps.dump(connection, client(url, os.environ), target, force=force)
    finally:
        await connection.close()


async def restore(url: str, source: Path, *, replace: bool = False) -> None:
    connection = await asyncpg.connect(url)
    try:
        await dumps.restore(connection, client(url, os.environ), source, replace=replace)
    finally:
        await connection.close()


@pytest.fixture
async def saved(database_url: str, tmp_path: Path) -> AsyncIterator[Path]:
    """A dump of `ROWS`."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(ROWS)
    await connection.close()
    await dump(database_url, tmp_path / "dump")
    yield tmp_path / "dump"


async def test_what_is_restored_is_what_was_dumped(database_url: str, empty_database_url: str, saved: Path) -> None:
    await restore(empty_database_url, saved)
    assert await everything(empty_database_url) == await everything(database_url)
    await consistent(empty_database_url)
    assert await migrate(empty_database_url) == []
    await fetch(empty_database_url, "DELETE FROM tenant_kv WHERE id = 'b'")
    await consistent(empty_database_url)


async def test_a_database_with_rows_is_only_replaced_when_asked(database_url: str, saved: Path) -> None:
    was = await everything(database_url)
    await fetch(database_url, "UPDATE tenant_state SET banned = false")
    with pytest.raises(ConfigError, match=r"the database has rows, in tenant_kv for one \(--replace"):
        await restore(database_url, saved)
    await restore(database_url, saved, replace=True)
    assert await everything(database_url) == was


async def test_a_migrated_database_without_rows_takes_a_dump(
    empty_database_url: str, database_url: str, saved: Path
) -> None:
    await migrate(empty_database_url)
    await restore(empty_database_url, saved)
    assert await everything(empty_database_url) == await everything(database_url)


async def test_a_damaged_dump_changes_nothing(database_url: str, saved: Path) -> None:
    was = await everything(database_url)
    for kept in (0.9, 0.5):
        cut(saved, kept)
        with pytest.raises(ConfigError):
            await restore(database_url, saved, replace=True)
        assert await everything(database_url) == was


async def test_a_restore_that_fails_half_way_changes_nothing(
    database_url: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own error, after the old tables went and some of the new ones came."""
    was = await everything(database_url)
    monkeypatch.setattr(
        dumps, "_CLEAR", "SELECT 'DROP TABLE tenant_state' WHERE $1::text[] IS NOT NULL AND NOT $2::boolean"
    )
    with pytest.raises(ConfigError, match=r"nothing was restored: .* already exists"):
        await restore(database_url, saved, replace=True)
    assert await everything(database_url) == was


async def test_a_newer_dump_is_refused(database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    await fetch(database_url, "INSERT INTO _migrations_applied (id, sha256) VALUES ('9999_future', sha256('x'))")
    await dump(database_url, tmp_path / "dump")
    with pytest.raises(ConfigError, match="newer than this build: it has migration 9999_future"):
        await restore(empty_database_url, tmp_path / "dump")


async def test_an_older_dump_is_migrated_after_it_came(
    empty_database_url: str, tmp_path: Path, postgres_server: Any
) -> None:
    for migration in files()[:-1]:
        (tmp_path / f"{migration.id}.sql").write_text(migration.sql)
    await migrate(empty_database_url, source=tmp_path)
    await dump(empty_database_url, tmp_path / "dump")
    await migrate(empty_database_url)
    await restore(empty_database_url, tmp_path / "dump")
    assert await pending(empty_database_url) == [files()[-1].id]


async def test_what_is_no_dump_of_ours_is_refused(empty_database_url: str, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="is no dump"):
        await restore(database_url, tmp_path / "text")
    with pytest.raises(ConfigError, match="cannot read"):
        await restore(database_url, tmp_path / "none")
    await fetch(empty_database_url, "CREATE TABLE theirs (n int)")
    with pytest.raises(ConfigError, match="no database of pytw"):
        await dump(empty_database_url, tmp_path / "dump")
    programs = client(empty_database_url, os.environ)
    dumps._run(programs, "pg_dump", "-Fc", f"--file={tmp_path / 'dump'}", f"--dbname={programs.dsn}")
    with pytest.raises(ConfigError, match="a dump, but not of pytw"):
        await restore(database_url, tmp_path / "dump")


async def test_a_database_in_use_is_not_restored_into(empty_database_url: str, saved: Path) -> None:
    other = await asyncpg.connect(empty_database_url)
    with pytest.raises(ConfigError, match="1 other connections use the database"):
        await restore(empty_database_url, saved)
    await other.close()


async def test_files_are_not_overwritten_and_never_half(
    database_url: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mode(saved) == 0o600
    with pytest.raises(StorageRefused, match="is there already"):
        await dump(database_url, saved)
    assert await dump(database_url, saved, force=True) == len(content(saved))
    was = content(saved)
    with monkeypatch.context() as patched:
        patched.setattr(pgclient.pgfiles, "environment", lambda: {"PGOPTIONS": "-c nonsense=1"})
        with pytest.raises(ConfigError, match="pg_dump fails"):
            await dump(database_url, saved, force=True)
    assert content(saved) == was
    assert os.listdir(saved.parent) == ["dump"]


async def test_tables_of_somebody_else_are_neither_dumped_nor_touched(database_url: str, tmp_path: Path) -> None:
    await fetch(database_url, "CREATE TABLE theirs (n int)")
    await fetch(database_url, "INSERT INTO theirs VALUES (1)")
    await dump(database_url, tmp_path / "dump")
    await fetch(database_url, "INSERT INTO theirs VALUES (2)")
    await restore(database_url, tmp_path / "dump", replace=True)
    assert await fetch(database_url, "SELECT n FROM theirs") == [(1,), (2,)]


async def test_a_database_that_was_taken_over_comes_back_with_what_it_was(
    empty_database_url: str, tmp_path: Path
) -> None:
    rows = reference.some_rows()
    await build(empty_database_url, rows, 0)
    await migrate(empty_database_url)
    was = await everything(empty_database_url)
    await dump(empty_database_url, tmp_path / "dump")
    await restore(empty_database_url, tmp_path / "dump", replace=True)
    assert await everything(empty_database_url) == was
    assert (await kv(empty_database_url)).keys() == {row.id for row in rows}
    assert await fetch(empty_database_url, "SELECT count(*) FROM reference.guild_templates_kv") == [(len(rows),)]


@pytest.mark.parametrize(
    ("dsn", "without", "password"),
    [
        ("postgresql://u:p%40ss@h:1/d?sslmode=require", "postgresql://u@h:1/d?sslmode=require", "p@ss"),
        ("postgresql://u@/d?host=%2Frun&password=x", "postgresql://u@/d?host=%2Frun", "x"),
        ("postgresql://h/d", "postgresql://h/d", None),
        ("postgresql://u:p@[::1]:5/d", "postgresql://u@[::1]:5/d", "p"),
    ],
)
def test_the_password_is_no_argument(
    dsn: str, without: str, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert split_password(dsn) == (without, {} if password is None else {"PGPASSWORD": password})
    found = client(dsn, os.environ)
    assert found.environment.get("PGPASSWORD") == password
    assert "PGPASSWORD" not in repr(found)


async def test_a_server_newer_than_the_programs_is_told(database_url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database_url)
    programs = client(database_url, os.environ)
    old = pgclient.Client(programs.binaries, 12, programs.dsn, programs.environment)
    with pytest.raises(PytwError, match=r"the server is PostgreSQL \d+, and .* is of version 12 \(set TW_PG_BIN"):
        await dumps.dump(connection, old, tmp_path / "dump", force=False)
    await connection.close()
