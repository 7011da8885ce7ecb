"""A master in little, for tests that kill it: `python master_child.py DATA_DIR` writes and prints what was acknowledged."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import asyncpg

from pytw.storage.postgres import EmbeddedPostgres

WRITERS = 8


async def _write(server: EmbeddedPostgres, writer: int) -> None:
    connection = await asyncpg.connect(server.url)
    number = 0
    while True:
        await connection.execute(
            "INSERT INTO acknowledged (writer, number, filler) VALUES ($1, $2, repeat('x', 2000))", writer, number
        )
        sys.stdout.write(f"{writer} {number}\n")
        sys.stdout.flush()
        number += 1


async def _main(server: EmbeddedPostgres) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.supervise())
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE acknowledged (writer int, number int, filler text)")
        await connection.close()
        for writer in range(WRITERS):
            tasks.create_task(_write(server, writer))


if __name__ == "__main__":
    child = EmbeddedPostgres(Path(sys.argv[1]))
    child.start()
    sys.stdout.write(f"{child.pid}\n")
    asyncio.run(_main(child))
