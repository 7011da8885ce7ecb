"""`--worker-db direct` as it is served: workers with connections of their own, and no other right than to reach them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pytw.main.rights import DATABASE_GID
from pytw.storage.migrate import migrate
from pytw.storage.postgres import EmbeddedPostgres
from tests.e2e.server import Server, free_port, serving, title

GUILD = 8 << 22
PASSWORD = "pass-of-the-test"
POOL = ("--worker-type", "processpool", "--process-workers", "2", "--max-db-connections", "3")
#: Bytes in an answer of the API.
IN_JSON = b64encode(b"in the bucket").decode()
STORE = """
return {
    WebStore = function(ctx)
        ctx.KV:set("k", 7, { "s" })
        ctx.ObjectStorage:upload_file("f", buffer.fromstring("in the bucket"))
        return { kv = ctx.KV:get("k", { "s" }), file = ctx.ObjectStorage:download_file("f") }
    end,
}
"""


def ask(server: Server) -> object:
    status, answer = server.event(GUILD, type="WebStore")
    assert status == 200, answer
    (said,) = [part for part in answer["templates"] if part["template"] == "store"]
    assert said["error"] is None, said
    return said["value"]


def test_templates_store_and_find_over_their_workers_own_connections() -> None:
    with serving(*POOL, "--worker-db", "direct") as server:
        server.put(GUILD, "store", STORE)
        assert ask(server) == {"kv": 7, "file": IN_JSON}
        database = server.call("GET", "/healthz")[1]["database"]
        assert (database["worker_db"], database["connections_max"], database["state"]) == ("direct", 9, "closed")
        assert "direct: 9 connections at most" in server.log
        before = server.workers()[0]
        os.kill(before, signal.SIGKILL)
        server.wait_worker(0, other_than=before)
        server.wait_ready(10)
        assert ask(server) == {"kv": 7, "file": IN_JSON}


def test_the_address_is_in_no_workers_arguments_or_environment() -> None:
    with serving(*POOL, "--worker-db", "direct") as server:
        for pid in server.workers().values():
            assert "PGSQL" not in title(pid) and "postgresql" not in title(pid)
            assert b"postgresql" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="workers have accounts of their own only where the master is root")
def test_only_a_direct_worker_may_enter_the_sockets_directory() -> None:
    for mode, allowed in (("direct", True), ("mesophyll", False)):
        with serving(*POOL, "--worker-db", mode) as server:
            (pid, *_) = server.workers().values()
            status = Path(f"/proc/{pid}/status").read_text()
            groups = status.partition("Groups:")[2].partition("\n")[0].split()
            assert groups == ([str(DATABASE_GID)] if allowed else [])
            run = (server.data_dir / "run").stat()
            assert run.st_mode & 0o777 == (0o710 if allowed else 0o700)
            assert (run.st_gid == DATABASE_GID) is allowed


@pytest.fixture
def tcp_url() -> Iterator[str]:
    """A migrated database of a PostgreSQL server that listens on TCP and wants a password."""
    directory, port = Path(tempfile.mkdtemp(prefix="pytw-test-")), free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
    server = EmbeddedPostgres(directory / "data", durable=False, settings=settings)
    try:
        server.start()
        with open(server._cluster / "pg_hba.conf", "a") as rules:
            rules.write("host all app 127.0.0.1/32 scram-sha-256\n")
        lines = (server._cluster / "pg_hba.conf").read_text().replace("host    all             all", "# ")
        (server._cluster / "pg_hba.conf").write_text(lines)
        asyncio.run(_make_role({**server.connect_kwargs, "port": port}))
        url = f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/app"
        asyncio.run(migrate(url))
        yield url
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _make_role(arguments: dict[str, Any]) -> None:
    connection = await asyncpg.connect(**arguments)
    await connection.execute(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
    await connection.execute("CREATE DATABASE app OWNER app")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def test_a_database_over_tcp_is_reached_and_its_password_is_seen_nowhere(tcp_url: str) -> None:
    """The worker has a uid of its own, Landlock lets it out to this port only, and its home is closed to it."""
    with serving(*POOL, "--worker-db", "direct", "--dev", env={"TW_DATABASE_URL": tcp_url}) as server:
        server.put(GUILD, "store", STORE)
        assert ask(server) == {"kv": 7, "file": IN_JSON}
        assert PASSWORD not in server.log
        for pid in server.workers().values():
            assert PASSWORD not in title(pid)
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
