"""Keys that expire all at once, handlers that fail, a worker that is killed: each handler runs, and nothing goes unhandled.

One handler in ten fails the first time. One key in seven is written anew by its own handler, and another one in seven is
extended from outside while its handler runs: neither may be deleted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import msgpack
import pytest

from pytw.storage.pool import Database, open_pool
from pytw.storage.postgres import DATABASE, PORT, USER
from pytw.storage.stores import Stores
from pytw.types import Id
from tests.e2e.server import Server, serving

KEYS = int(os.environ.get("TW_TEST_EXPIRING_KEYS", "1000"))
GUILDS = [(8 + i) << 22 for i in range(8)]
#: The worker is killed when that share of the keys is handled.
KILLS = (0.3, 0.6)
WITHIN_S = 600.0
#: Each look reads all keys.
LOOK_S = 0.2
LATER = datetime.now(UTC) + timedelta(days=1)
FAILS, WRITTEN, EXTENDED = 10, 3, 5
HANDLER = """
return {
    KeyExpiry = function(ctx)
        local key = ctx:event().data.key
        local number = tonumber(string.match(key, "%d+")) :: number
        if number % 10 == 0 and not ctx.KV:get(key, { "failed" }) then
            ctx.KV:set(key, true, { "failed" })
            error("the first time it fails")
        end
        if number % 7 == 5 then
            ctx.KV:set(key, true, { "running" })
            task.wait(0.2)
        end
        ctx.KV:set(key, true, { "handled" })
        if number % 7 == 3 then
            ctx.KV:set(key, "written by its handler", { "expiring" })
        end
    end,
}
"""
SCOPED = "SELECT owner_id || ' ' || key FROM tenant_kv WHERE scopes = ARRAY[$1]"


async def scoped(database: Database, scope: str) -> set[str]:
    return {row[0] for row in await database.fetch(SCOPED, scope)}


def name(number: int) -> str:
    return f"{GUILDS[number % len(GUILDS)]} k{number}"


async def write_keys(stores: Stores) -> None:
    """Then lets all of them expire within a second."""
    numbers = iter(range(KEYS))

    async def write() -> None:
        for number in numbers:
            await stores.kv_set(GUILDS[number % len(GUILDS)], f"k{number}", ["expiring"], msgpack.packb(number), LATER)

    await asyncio.gather(*(write() for _ in range(4)))
    await stores.db.execute("UPDATE tenant_kv SET expires_at = now() + random() * interval '1 second'")


async def extend(stores: Stores, extended: set[str]) -> None:
    """Extends each key whose handler says that it runs; *extended* are those where that was in time."""
    asked: set[str] = set()
    while True:
        for key in await scoped(stores.db, "running") - asked:
            asked.add(key)
            guild, _, plain = key.partition(" ")
            if await stores.kv_set_expiry(Id.guild(int(guild)).key, plain, ["expiring"], LATER):
                extended.add(key)
        await asyncio.sleep(0.02)


async def kill(server: Server, database: Database) -> None:
    killed = 0
    for share in KILLS:
        while await database.fetchval("SELECT count(*) FROM tenant_kv WHERE scopes = ARRAY['handled']") < share * KEYS:
            await asyncio.sleep(0.05)
        while (pid := server.workers().get(0, 0)) in (0, killed):
            await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        killed = pid


async def expire(server: Server, written: set[str], outside: set[str]) -> tuple[set[str], set[str]]:
    """Keys whose handler has run, and keys that are still there, when nothing is due any more."""
    url = f"postgresql://{USER}@/{DATABASE}?host={server.data_dir / 'run'}&port={PORT}"
    stores = Stores(await open_pool(url, 6))
    await write_keys(stores)
    began = time.monotonic()
    extended: set[str] = set()
    helpers = [asyncio.create_task(extend(stores, extended)), asyncio.create_task(kill(server, stores.db))]
    try:
        async with asyncio.timeout(WITHIN_S):
            # What was written anew or extended stays; what is handled besides is about to be deleted.
            while (
                (await scoped(stores.db, "expiring")) - (written & await scoped(stores.db, "handled")) - extended
            ) or not helpers[1].done():
                await asyncio.sleep(LOOK_S)
                for helper in helpers:
                    if helper.done():
                        helper.result()
    finally:
        helpers[0].cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
    print(f"{time.monotonic() - began:.1f} s, {len(extended)} extended from outside")  # noqa: T201
    left = await scoped(stores.db, "expiring")
    # A worker that was killed may have left the handler of a key that was then extended: it has run, and is not due again.
    handled = (await scoped(stores.db, "handled")) | (extended & await scoped(stores.db, "running"))
    await stores.close()
    assert extended <= outside
    assert extended - left == set(), "deleted after being extended"
    return handled, left


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + 60)
def test_every_expired_key_is_handled_and_none_that_was_extended_is_deleted() -> None:
    everyone = {name(number) for number in range(KEYS)}
    written = {name(number) for number in range(KEYS) if number % 7 == WRITTEN}
    outside = {name(number) for number in range(KEYS) if number % 7 == EXTENDED}
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        for guild in GUILDS:
            server.put(guild, "expiry", HANDLER)
        handled, left = asyncio.run(expire(server, written, outside))
        print(  # noqa: T201 - the figures of the run
            f"{KEYS} keys, {len(KILLS)} kills: {len(handled)} handled, {len(left)} extended or written anew"
        )
        assert everyone - handled == set(), "deleted unhandled, or never handled"
        assert written - left == set(), "deleted after its handler wrote it anew"
