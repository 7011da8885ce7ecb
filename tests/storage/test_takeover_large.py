"""Many starters on a large database of the reference, and starters that are killed: one applies, and no row is lost or changed."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from pytw.storage.migrate import TAKEOVER, files
from tests.storage.reference import SEED, advance

LOG = logging.getLogger("tests.takeover")
REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = int(os.environ.get("TW_TEST_ROWS", "50000"))
STARTERS = 8
KILLS = 10
CODE = "import asyncio, sys; from pytw.storage.migrate import migrate; print(len(asyncio.run(migrate(sys.argv[1]))))"

#: n -> (the value in the old form, the same tagged). A ninth of the tenants has most keys.
VALUES = """
CASE n % 6
    WHEN 0 THEN jsonb_build_object('a', n, 'name', 'name ' || n, 'list', jsonb_build_array(true, null, n + 0.5))
    WHEN 1 THEN to_jsonb('text ' || n)
    WHEN 2 THEN to_jsonb(n)
    WHEN 3 THEN to_jsonb(n + 0.25)
    WHEN 4 THEN jsonb_build_object('___khronosValType___', 'interval', 'value', jsonb_build_array(n, 5))
    ELSE jsonb_build_array(n % 2 = 0, 'x') END AS old,
CASE n % 6
    WHEN 0 THEN jsonb_build_object('Map', jsonb_build_array(
        jsonb_build_array(tagged('Text', to_jsonb('a'::text)), tagged('Integer', to_jsonb(n))),
        jsonb_build_array(tagged('Text', to_jsonb('list'::text)), tagged('List', jsonb_build_array(
            tagged('Boolean', 'true'), '"Null"'::jsonb, tagged('Float', to_jsonb(n + 0.5))))),
        jsonb_build_array(tagged('Text', to_jsonb('name'::text)), tagged('Text', to_jsonb('name ' || n)))))
    WHEN 1 THEN tagged('Text', to_jsonb('text ' || n))
    WHEN 2 THEN tagged('Integer', to_jsonb(n))
    WHEN 3 THEN tagged('Float', to_jsonb(n + 0.25))
    WHEN 4 THEN tagged('Interval', jsonb_build_array(n, 5))
    ELSE tagged('List', jsonb_build_array(tagged('Boolean', to_jsonb(n % 2 = 0)), tagged('Text', to_jsonb('x'::text)))) END AS new"""
FILL = f"""
CREATE FUNCTION tagged(tag text, inside jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN jsonb_build_object(tag, inside);
CREATE TABLE made AS SELECT n, {VALUES}, sha256(n::text::bytea)::text AS id FROM generate_series(1, {ROWS}) n;
INSERT INTO guild_templates_kv (id, guild_id, key, scopes, value)
SELECT id, (100000000000000000 + CASE WHEN n % 9 = 0 THEN n % 5000 ELSE n % 7 END)::text, 'key' || n,
    CASE n % 3 WHEN 0 THEN '{{templates}}' WHEN 1 THEN '{{a,b}}' ELSE '{{b,a,c}}' END::text[],
    WRITTEN FROM made"""
#: Equal for equal rows, whatever their order.
SUM = """
SELECT count(*), sum(hashtextextended(concat_ws('|', id, owner_id, key, scopes, value, created_at, last_updated_at), 0))::text
FROM """
SORTED = '(SELECT array_agg(s ORDER BY s COLLATE "C") FROM unnest(scopes) s)'


async def build(url: str, form: str) -> list[tuple[int, str]]:
    """The database in its *form*; returns count and sum of what should come out."""
    connection = await asyncpg.connect(url)
    await connection.execute(SEED)
    await connection.execute(FILL.replace("WRITTEN", "old" if form == "august 2025" else "new"))
    if form == "final":
        await advance(connection, [], 5, recorded=True)
    table = "tenant_kv" if form == "final" else "guild_templates_kv"
    owner = "owner_id" if form == "final" else "guild_id AS owner_id"
    rows = f"SELECT id, {owner}, key, {SORTED} AS scopes, new AS value, created_at, last_updated_at FROM {table} JOIN made USING (id)"
    found = [tuple(row) for row in await connection.fetch(f"{SUM} ({rows}) AS wanted")]
    await connection.close()
    return found


async def check(url: str, expected: list[tuple[int, str]]) -> None:
    connection = await asyncpg.connect(url)
    assert [tuple(row) for row in await connection.fetch(f"{SUM} tenant_kv")] == expected
    assert await connection.fetchval("SELECT count(*) FROM tenant_kv") == ROWS
    assert await connection.fetchval("SELECT count(*) FROM takeover_left") == 0
    usage = "SELECT owner_id, count(*) AS keys, sum(bytes)::bigint AS bytes FROM tenant_kv GROUP BY 1"
    wrong = f"SELECT count(*) FROM tenant_kv_usage FULL JOIN ({usage}) AS counted USING (owner_id, keys, bytes)"
    assert await connection.fetchval(wrong) == await connection.fetchval("SELECT count(*) FROM tenant_kv_usage")
    await connection.close()


async def start(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, url, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY
    )


async def counts(started: list[asyncio.subprocess.Process]) -> list[int]:
    """What each applied; all end well."""
    found = []
    for process in started:
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        found.append(int(out))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.weakness(13)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["empty", "final", "august 2025"])
async def test_of_many_starters_one_migrates_and_none_fails(empty_database_url: str, form: str) -> None:
    expected = [] if form == "empty" else await build(empty_database_url, form)
    began = time.monotonic()
    everything = len(files()) + (form != "empty")
    assert await counts([await start(empty_database_url) for _ in range(STARTERS)]) == [0] * (STARTERS - 1) + [
        everything
    ]
    LOG.info("%s: %d rows, %d starters, %.1f s", form, ROWS, STARTERS, time.monotonic() - began)
    if expected:
        await check(empty_database_url, expected)


@pytest.mark.slow
@pytest.mark.weakness(13)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", ["final", "august 2025"])
async def test_killed_at_random_points_and_run_again_it_is_the_same(empty_database_url: str, form: str) -> None:
    """The kills are spread over the time that the stage takes which the database is in."""
    expected = await build(empty_database_url, form)
    seed = random.randrange(1 << 32)
    LOG.info("seed %d", seed)
    points = random.Random(seed)
    whole_s = 0.7 + ROWS / 25_000
    killed = 0
    for _ in range(KILLS):
        process = await start(empty_database_url)
        try:
            await asyncio.wait_for(process.wait(), points.uniform(0.05, whole_s))
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            killed += 1
            await process.communicate()
    assert killed
    process = await start(empty_database_url)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    LOG.info("%s: killed %d times, then %d were applied", form, killed, int(out))
    await check(empty_database_url, expected)


def test_a_take_over_counts_as_one() -> None:
    assert TAKEOVER not in {migration.id for migration in files()}
