"""Which databases a server migrates by itself, and which it refuses with the command to type."""

from __future__ import annotations

import shutil
from pathlib import Path

import asyncpg
import pytest

from pytw.errors import ConfigError, SchemaOutdated
from pytw.main.database import open_database
from pytw.storage.migrate import directory, files, migrate, pending


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The migrations without the last one."""
    shutil.copytree(directory(), tmp_path / "older")
    sorted((tmp_path / "older").glob("*.sql"))[-1].unlink()
    return tmp_path / "older"


async def test_the_own_database_is_migrated(empty_database_url: str) -> None:
    database = await open_database(empty_database_url, 1, own=True)
    await database.close()
    assert await pending(empty_database_url) == []


async def test_an_empty_named_database_is_refused_with_the_command_to_type(empty_database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match=r"the database is empty \(run `tw migrate`\)"):
        await open_database(empty_database_url, 1, own=False)
    assert len(await pending(empty_database_url)) == len(files())


async def test_an_outdated_named_database_is_refused_and_then_accepted(empty_database_url: str, older: Path) -> None:
    await migrate(empty_database_url, source=older)
    with pytest.raises(SchemaOutdated, match=rf"the database lacks {files()[-1].id} \(run `tw migrate`\)"):
        await open_database(empty_database_url, 1, own=False)
    await migrate(empty_database_url)
    await (await open_database(empty_database_url, 1, own=False)).close()


@pytest.mark.parametrize("own", [False, True])
async def test_a_newer_database_is_refused(database_url: str, own: bool) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO _migrations_applied (id, sha256) VALUES ('9999_future', '')")
    await connection.close()
    with pytest.raises(ConfigError, match="newer than this build: it has migration 9999_future"):
        await open_database(database_url, 1, own=own)
