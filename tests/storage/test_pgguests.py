"""Workers as guests of the embedded server: what they reach with an account of their own, and what they do not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytw.main.rights import DATABASE_GID, UID_FIRST
from pytw.storage import pgguests
from pytw.storage.migrate import migrate
from pytw.storage.pool import open_pool
from pytw.storage.postgres import EmbeddedPostgres

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="guests are told apart by accounts, which only root may take")

#: What only the master touches: secrets, sessions, where the gateway is, objects, what was removed and what has been migrated.
PRIVATE = (
    "_migrations_applied",
    "gateway_cursors",
    "loose_sources",
    "removed_templates",
    "template_deployments",
    "template_secrets",
    "tenant_objects",
    "tenant_objects_usage",
    "users",
    "web_api_tokens",
)

#: A worker in small: holds the socket's directory, leaves root, and tries.
GUEST = """
import asyncio, json, os, sys
import asyncpg
from pytw.main.direct import held
url, group, uid, statements = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
url = held(url)
os.environ["HOME"] = "/"
os.setgroups([group] if group else [])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)

async def main():
    try:
        connection = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError) as error:
        return type(error).__name__
    found = []
    for statement in statements:
        try:
            await connection.execute(statement)
            found.append(None)
        except asyncpg.PostgresError as error:
            found.append(type(error).__name__)
    return found

print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    directory = Path(tempfile.mkdtemp(prefix="pytw-test-"))
    found = EmbeddedPostgres(directory / "data", durable=False, guests=DATABASE_GID)
    try:
        found.start()
        asyncio.run(_admit(found))
        yield found
    finally:
        found.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _admit(server: EmbeddedPostgres) -> None:
    await migrate(server.url)
    database = await open_pool(server.url, 1)
    # Each start of the master does it: it must hold the second time, too.
    await pgguests.admit(database)
    await pgguests.admit(database)
    await database.close()


def as_worker(url: str, *statements: str, group: int = DATABASE_GID, uid: int = UID_FIRST + 3) -> object:
    arguments = [sys.executable, "-c", GUEST, url, str(group), str(uid), json.dumps(statements)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_guest_reads_and_writes_rows_of_tenants(server: EmbeddedPostgres) -> None:
    found = as_worker(
        server.guest_url,
        "INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value) VALUES ('i', '1', 'guild', 'k', '{s}', '1')",
        "UPDATE tenant_kv SET value = '2' WHERE id = 'i'",
        "DELETE FROM tenant_kv WHERE id = 'i'",
        "SELECT * FROM templates",
    )
    assert found == [None] * 4


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SELECT * FROM {table}" for table in PRIVATE),
        "DELETE FROM templates",
        "INSERT INTO global_kv_purchases SELECT * FROM global_kv_purchases",
        "UPDATE sources SET source = ''",
        "DROP TABLE tenant_kv",
        "TRUNCATE tenant_kv",
        "CREATE TABLE more (x int)",
        "COPY tenant_kv TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/hostname')",
        "SET ROLE pytw",
        "CREATE ROLE other",
    ],
)
def test_guest_may_do_nothing_else(server: EmbeddedPostgres, statement: str) -> None:
    assert as_worker(server.guest_url, statement) == ["InsufficientPrivilegeError"]


async def test_of_every_table_it_is_said_whose_it_is(database_url: str) -> None:
    database = await open_pool(database_url, 1)
    tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await database.close()
    guests = [table for tables in pgguests.RIGHTS.values() for table in tables]
    assert sorted(table for (table,) in tables) == sorted([*PRIVATE, *guests])


def test_guest_is_not_taken_for_the_owner(server: EmbeddedPostgres) -> None:
    assert as_worker(server.url) == "InvalidAuthorizationSpecificationError"


def test_nobody_outside_the_group_reaches_the_socket(server: EmbeddedPostgres) -> None:
    assert as_worker(server.guest_url, group=0) == "PermissionError"
