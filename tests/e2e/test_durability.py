"""What a template was told is written stays written, whatever is killed: PostgreSQL, workers, again and again.

A write is acknowledged when the answer of the handler that made it has reached the caller. Each may be made by any of
several tenants, half of them to a key of its own, half to one of a few keys that are written over and over with growing
values: there a later write may stand in place of an earlier one, but never an earlier one in place of a later one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from pytw import values
from pytw.storage.postgres import DATABASE, PORT, USER
from tests.e2e.server import Server, children, serving, title

WRITES = int(os.environ.get("TW_TEST_WRITES", "3000"))
GUILDS = [(8 + i) << 22 for i in range(8)]
BATCH = 10
#: When that share of the writes is acknowledged, it is killed; worker by its id, or the database.
KILLS: tuple[tuple[float, int | None], ...] = (
    (0.1, None),
    (0.2, 0),
    (0.3, None),
    (0.4, 1),
    (0.5, None),
    (0.55, 0),
    (0.7, 1),
    (0.75, None),
)
WITHIN_S = 600.0
WRITER = """
return {
    WebWrite = function(ctx)
        local asked = ctx:event().data
        local written, failed = {}, {}
        for number = asked.first, asked.first + asked.count - 1 do
            local key = if number % 2 == 0 then `once {number}` else `again {number % 20}`
            local ok, why = pcall(function() ctx.KV:set(key, number, { "durable" }) end)
            if ok then table.insert(written, number) else table.insert(failed, tostring(why)) end
        end
        return { written = written, failed = failed }
    end,
}
"""


def key_of(number: int) -> str:
    return f"once {number}" if number % 2 == 0 else f"again {number % 20}"


def postmaster(server: Server) -> int:
    """0 while none runs."""
    below = children(server.process.pid)
    found = [pid for pid in below if "/postgres -D " in title(pid)]
    return found[0] if found else 0


class Writers:
    """One caller for each guild, all at the same time, until enough is acknowledged."""

    def __init__(self, server: Server, wanted: int) -> None:
        self._server = server
        self._wanted = wanted
        #: Guild -> the numbers that were acknowledged, in order.
        self.acknowledged: dict[int, list[int]] = defaultdict(list)
        self.count = 0
        #: How what was not acknowledged failed.
        self.failed: Counter[str] = Counter()

    async def run(self, deaths: Iterable[tuple[float, int | None]]) -> None:
        timeout = aiohttp.ClientTimeout(total=90)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._server.port}", timeout=timeout) as session:
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                group.create_task(self._kill(deaths))
                for guild in GUILDS:
                    group.create_task(self._write(session, guild))

    async def _write(self, session: aiohttp.ClientSession, guild: int) -> None:
        first = 1
        while self.count < self._wanted:
            asked = {"type": "WebWrite", "guild_id": str(guild), "data": {"first": first, "count": BATCH}}
            first += BATCH
            async with session.post("/test/event", json=asked) as response:
                answer = await response.json()
                if response.status != 200:
                    self.failed[f"{response.status} {answer.get('outcome')}"] += BATCH
                    await asyncio.sleep(0.02)
                    continue
            (said,) = [part for part in answer["templates"] if part["template"] == "writer"] or [None]
            if said is None or said["outcome"] != "ok":
                self.failed[f"the template: {said and said['error']}"[:120]] += BATCH
                await asyncio.sleep(0.02)
                continue
            self.acknowledged[guild] += said["value"]["written"]
            self.count += len(said["value"]["written"])
            for why in said["value"]["failed"]:
                self.failed[re.sub(r"in [\d.]+ s", "in a moment", why.partition("\n")[0])[:120]] += 1
            if said["value"]["failed"]:
                await asyncio.sleep(0.02)

    async def _kill(self, deaths: Iterable[tuple[float, int | None]]) -> None:
        for share, who in deaths:
            while self.count < share * self._wanted or not (pid := self._pid(who)):
                await asyncio.sleep(0.01)
            os.kill(pid, signal.SIGKILL)

    def _pid(self, who: int | None) -> int:
        return postmaster(self._server) if who is None else self._server.workers().get(who, 0)


async def stored(data_dir: Path) -> dict[tuple[int, str], int]:
    """What is in the database, by guild and key."""
    socket = str(data_dir / "run")
    for _ in range(500):
        try:
            connection = await asyncpg.connect(host=socket, port=PORT, user=USER, database=DATABASE)
            break
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.02)
    rows = await connection.fetch(
        "SELECT owner_id, key, value::text AS value FROM tenant_kv WHERE 'durable' = ANY (scopes)"
    )
    await connection.close()
    return {(int(row["owner_id"]), row["key"]): values.from_tagged_json(json.loads(row["value"])) for row in rows}


def lost(acknowledged: dict[int, list[int]], found: dict[tuple[int, str], int]) -> list[tuple[int, int, Any]]:
    """Guild, number and what stands in its place, of each acknowledged write that is gone."""
    gone = []
    for guild, numbers in acknowledged.items():
        for number in numbers:
            value = found.get((guild, key_of(number)))
            if value is None or value < number:
                gone.append((guild, number, value))
    return gone


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + 60)
@pytest.mark.parametrize("worker_db", ["mesophyll", "direct"])
def test_no_acknowledged_write_is_lost_by_killing_the_database_and_workers(worker_db: str) -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2", "--worker-db", worker_db) as server:
        for guild in GUILDS:
            server.put(guild, "writer", WRITER)
        writers = Writers(server, WRITES)
        began = time.monotonic()
        asyncio.run(writers.run(KILLS))
        took_s = time.monotonic() - began
        # Once more, with everything acknowledged: what is not on the disk is gone now.
        os.kill(postmaster(server), signal.SIGKILL)
        found = asyncio.run(stored(server.data_dir))
        failed = dict(writers.failed)
        print(  # noqa: T201 - the figures of the run
            f"{writers.count} acknowledged in {took_s:.1f} s, {len(KILLS) + 1} kills, {sum(failed.values())} failed: {failed}"
        )
        assert lost(writers.acknowledged, found) == []
        assert writers.count >= WRITES
        unclear = [
            why
            for why in failed
            if "database" not in why and "worker" not in why and why[:3] not in ("502", "503", "504")
        ]
        assert unclear == []
