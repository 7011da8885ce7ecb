"""A worker's own way to the database: where it leads, what may be asked over it, and how little else it opens."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytw.errors import ConfigError, Forbidden, NotReady
from pytw.limits import Limits
from pytw.main.direct import DirectDb, complete, connections_warning, files_of, held, ports_of
from pytw.main.options import ServeOptions
from pytw.storage.pool import open_pool
from pytw.worker.db import MASTER_OPERATIONS
from pytw.worker.spec import WorkerSpec
from pytw.workerdb import OPERATIONS, Operation, over
from tests.worker.fakes import MemoryDb

MINE, OTHERS = 1 << 22, 2 << 22


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("postgresql://u:p@db.example/x", {5432}),
        ("postgresql://u:p@db.example:6543/x", {6543}),
        ("postgresql://u@[::1]:7000/x", {7000}),
        ("postgresql://u@a:1,b:2/x", {1, 2}),
        ("postgresql://u@/x?host=db.example&port=77", {77}),
        ("postgresql://u@/x?host=/run/postgresql&port=5433", set()),
        ("postgresql://u@/x?host=%2Frun%2Fpostgresql", set()),
    ],
)
def test_only_the_ports_of_the_address_are_opened(url: str, ports: set[int]) -> None:
    assert ports_of(url) == ports


def test_files_of_a_tls_connection_stay_readable() -> None:
    url = "postgresql://u@h/x?sslmode=verify-full&sslrootcert=/etc/db/ca.pem&sslcert=/etc/db/c.pem"
    assert files_of(url) == ["/etc/db/ca.pem", "/etc/db/c.pem"]


def test_socket_directory_is_held_by_a_descriptor() -> None:
    """So that what is above it may be closed to the worker's account."""
    directory = tempfile.mkdtemp(prefix="pytw-test-")
    url = held(f"postgresql://u@/x?host={directory}&port=5432")
    number = url.partition("/proc/self/fd/")[2].partition("&")[0]
    assert os.readlink(f"/proc/self/fd/{number}") == directory
    os.close(int(number))
    os.rmdir(directory)
    assert held("postgresql://u:p@db.example/x") == "postgresql://u:p@db.example/x"
    with pytest.raises(ConfigError, match="is not there"):
        held(f"postgresql://u@/x?host={directory}")


def test_password_of_the_masters_environment_goes_with_the_address() -> None:
    known = {"PGPASSWORD": "a b&c"}
    assert complete("postgresql://u@h/x", known) == "postgresql://u@h/x?password=a%20b%26c"
    assert complete("postgresql://u@h/x?sslmode=require", known).endswith("?sslmode=require&password=a%20b%26c")
    for url in ("postgresql://u:p@h/x", "postgresql://u@h/x?password=p"):
        assert complete(url, known) == url
    assert complete("postgresql://u@h/x", {}) == "postgresql://u@h/x"


@pytest.fixture
async def worker(database_url: str) -> AsyncIterator[tuple[DirectDb, MemoryDb]]:
    """Worker 1 of 2, and its master."""
    master = MemoryDb()
    made = DirectDb(WorkerSpec(worker_id=1, workers=2, database=database_url, limits=Limits()), master)
    await made.open()
    yield made, master
    await made.close()


async def test_a_foreign_tenant_is_refused_before_the_database(worker: tuple[DirectDb, MemoryDb]) -> None:
    """For every operation but those of the master, which refuses them itself."""
    db, master = worker[0].operations, worker[1]
    for operation in OPERATIONS.values():
        if operation.of_objects or operation.name in MASTER_OPERATIONS:
            continue
        given = [None] * len(operation.parameters)
        first = [OTHERS, *given] if operation.of_tenant else [0, 2, *given[2:]]
        by_place = first[: len(first) - len(operation.keywords)]
        with pytest.raises(Forbidden, match="does not belong to worker 1"):
            await getattr(db, operation.name)(*by_place, **dict.fromkeys(operation.keywords))
    assert master.calls == []


async def test_what_only_the_master_can_answer_goes_to_it(worker: tuple[DirectDb, MemoryDb]) -> None:
    asked: list[str] = []

    async def master(operation: Operation, tenant: int, args: tuple[Any, ...]) -> None:
        asked.append(operation.name)

    made = DirectDb(worker[0]._spec, over(master))
    await made.open()
    await made.operations.object_get(MINE, "k")
    await made.operations.object_put(MINE, "k", b"1")
    await made.operations.secret_get(MINE, "t", "s")
    assert await made.operations.kv_get(MINE, "k", ["s"]) is None
    assert asked == ["object_get", "object_put", "secret_get"]
    await made.close()


async def test_before_it_is_opened_nothing_is_asked() -> None:
    made = DirectDb(WorkerSpec(worker_id=1, workers=2, database="postgresql:///x"), MemoryDb())
    with pytest.raises(NotReady):
        await made.operations.kv_get(MINE, "k", ["s"])


async def test_more_connections_than_the_server_takes_are_told(database_url: str) -> None:
    database = await open_pool(database_url, 1)
    assert await connections_warning(database, 197) is None
    told = await connections_warning(database, 198)
    assert told is not None
    assert "may open 198 database connections together, and the server takes 197" in told
    await database.close()


def test_connections_are_those_of_the_master_and_of_direct_workers() -> None:
    assert ServeOptions(max_db_connections=5).connections(4) == 5
    assert ServeOptions(max_db_connections=5, worker_db="direct").connections(4) == 25
