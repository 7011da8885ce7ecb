from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pytw.errors import ConfigError, DatabaseUnreachable
from pytw.storage import migrate as module
from pytw.storage.migrate import files, migrate, pending

REPOSITORY = Path(__file__).resolve().parents[2]
ONE = "CREATE TABLE one (n int);\nINSERT INTO one VALUES (1);\n"
TWO = "ALTER TABLE one ADD COLUMN m int;\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text(ONE)
    (tmp_path / "0002_two.sql").write_text(TWO)
    return tmp_path


async def test_an_empty_database_gets_all_and_then_nothing(empty_database_url: str) -> None:
    everything = [migration.id for migration in files()]
    assert await pending(empty_database_url) == everything
    assert await migrate(empty_database_url) == everything
    assert await pending(empty_database_url) == []
    assert await migrate(empty_database_url) == []


async def test_later_files_are_applied_later(empty_database_url: str, source: Path, tmp_path: Path) -> None:
    (source / "0002_two.sql").rename(tmp_path / "two")
    assert await migrate(empty_database_url, source=source) == ["0001_one"]
    (tmp_path / "two").rename(source / "0002_two.sql")
    assert await migrate(empty_database_url, source=source) == ["0002_two"]


async def test_of_many_processes_one_applies_it(empty_database_url: str) -> None:
    """Five interpreters start at once; each ends well."""
    code = f"import asyncio; from pytw.storage.migrate import migrate; print(len(asyncio.run(migrate({empty_database_url!r}))))"
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE, cwd=REPOSITORY)
        for _ in range(5)
    ]
    counts = [int((await process.communicate())[0]) for process in started]
    assert sorted(counts) == [0, 0, 0, 0, len(files())]


async def test_of_many_starters_one_applies_a_file_that_needs_no_transaction(
    empty_database_url: str, source: Path
) -> None:
    """The others poll for the lock: CREATE INDEX CONCURRENTLY waits for every statement that waits."""
    (source / "0003_index.sql").write_text("-- tw: no-transaction\nCREATE INDEX CONCURRENTLY one_by_n ON one (n);\n")
    done = await asyncio.gather(*(migrate(empty_database_url, source=source) for _ in range(5)))
    assert sorted(map(len, done)) == [0, 0, 0, 0, 3]


async def test_changed_old_file_is_refused(empty_database_url: str, source: Path) -> None:
    await migrate(empty_database_url, source=source)
    (source / "0001_one.sql").write_text(ONE + "\n")
    with pytest.raises(ConfigError, match="0001_one has changed"):
        await migrate(empty_database_url, source=source)
    with pytest.raises(ConfigError, match="0001_one has changed"):
        await pending(empty_database_url, source=source)


async def test_newer_database_is_refused(empty_database_url: str, source: Path) -> None:
    await migrate(empty_database_url, source=source)
    (source / "0002_two.sql").unlink()
    with pytest.raises(ConfigError, match="newer than this build: it has migration 0002_two"):
        await migrate(empty_database_url, source=source)


async def test_file_between_applied_ones_is_refused(empty_database_url: str, source: Path) -> None:
    await migrate(empty_database_url, source=source)
    (source / "0001_other.sql").write_text("SELECT 1")
    with pytest.raises(ConfigError, match="0001_other is older than 0002_two"):
        await migrate(empty_database_url, source=source)


async def test_failing_file_leaves_nothing_behind(empty_database_url: str, source: Path) -> None:
    (source / "0002_two.sql").write_text("CREATE TABLE half (n int); SELECT 1/0;")
    with pytest.raises(ConfigError, match="migration 0002_two fails: division by zero"):
        await migrate(empty_database_url, source=source)
    connection = await asyncpg.connect(empty_database_url)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await connection.fetch("SELECT id FROM _migrations_applied") == [("0001_one",)]
    await connection.close()
    (source / "0002_two.sql").write_text(TWO)
    assert await migrate(empty_database_url, source=source) == ["0002_two"]


async def test_unreachable_database_is_one_line_without_its_password() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"cannot reach the database 127.0.0.1:1/x: ") as caught:
        await migrate("postgresql://u:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_role_without_rights_is_told_what_it_needs(empty_database_url: str) -> None:
    owner = await asyncpg.connect(empty_database_url)
    role = "poor_" + await owner.fetchval("SELECT current_database()")
    await owner.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        at = urlsplit(empty_database_url)
        with pytest.raises(ConfigError, match=r"permission denied .*CREATE for new ones"):
            await migrate(at._replace(netloc=f"{role}@{at.netloc.rpartition('@')[2]}").geturl())
    finally:
        await owner.execute(f'DROP ROLE "{role}"')
        await owner.close()


async def test_no_files_is_an_incomplete_installation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no migrations"):
        files(tmp_path)


async def test_sorted_sets_are_what_they_were_in_the_first_version(database_url: str) -> None:
    """The function was written anew for speed; rows that it accepted stay valid."""
    first = "CREATE FUNCTION first_version(items text[]) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN items = ARRAY("
    first += 'SELECT DISTINCT item COLLATE "C" FROM unnest(items) AS item ORDER BY 1)'
    cases = "{} {a} {NULL} {a,b} {b,a} {a,a} {a,NULL} {NULL,a} {a,NULL,NULL} {a,B} {B,a} {a,ab,é} [2:3]={a,b} {{a,b}} {a,b,a}"
    connection = await asyncpg.connect(database_url)
    await connection.execute(first)
    differ = "SELECT items FROM unnest($1::text[]) AS items WHERE is_sorted_set(items::text[]) <> first_version(items::text[])"
    assert await connection.fetch(differ, cases.split()) == []
    assert await connection.fetchval("SELECT is_sorted_set('{a,b}') AND NOT is_sorted_set('{b,a}')")
    await connection.close()


def test_the_wheel_carries_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the package first, else beside it in the tree."""
    package = tmp_path / "pytw"
    (package / "storage").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "storage" / "migrate.py"))
    shutil.copytree(REPOSITORY / "migrations", tmp_path / "migrations")
    assert module.directory() == tmp_path / "migrations"
    shutil.copytree(REPOSITORY / "migrations", package / "_migrations")
    assert module.directory() == package / "_migrations"
