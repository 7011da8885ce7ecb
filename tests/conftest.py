"""What all tests share: one PostgreSQL server for the session, and a database of its own for each test that asks."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from pytw.storage.migrate import migrate
from pytw.storage.postgres import DATABASE, PORT, USER, EmbeddedPostgres

TEMPLATE = "migrated"
_numbers = itertools.count(1)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own: fixtures may not touch the loop of the test."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def _url(server: EmbeddedPostgres, database: str) -> str:
    return f"postgresql://{USER}@/{database}?host={quote(server.connect_kwargs['host'], safe='')}&port={PORT}"


async def _execute(server: EmbeddedPostgres, statement: str) -> None:
    connection = await asyncpg.connect(_url(server, DATABASE))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A server without regard for power failures, shared by the session."""
    directory = Path(tempfile.mkdtemp(prefix="pytw-test-"))
    server = EmbeddedPostgres(directory, durable=False)
    try:
        server.start()
        _run(_execute(server, f"CREATE DATABASE {TEMPLATE}"))
        _run(migrate(_url(server, TEMPLATE)))
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _fresh(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield _url(server, name)
    finally:
        _run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


def fresh_database(server: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database, for as long as the iterator waits."""
    return _fresh(server, TEMPLATE)


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database that nobody else uses."""
    yield from fresh_database(postgres_server)


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    yield from _fresh(postgres_server, DATABASE)
