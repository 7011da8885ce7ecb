"""Claims of due keys: one claimer each, every one again until it is handled or given up, by an index."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgpack
import orjson
import pytest

from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX, KV_EXPIRY_CLAIM_S, KV_EXPIRY_CLAIM_S_MAX, KV_EXPIRY_RETRY_S
from pytw.storage.kv import DELETE, EXISTS, FIND, GET, GET_BY_ID, KEYS, RAREST
from pytw.storage.kvexpiry import CLAIM, FINISH, RELEASE, RESUME, RESUME_TENANT, RETRY
from pytw.storage.kvrules import LAST_KEY, key_range
from pytw.storage.kvstaff import BROWSE
from pytw.storage.kvtogether import READ, WRITE, WRITE_FREE
from pytw.storage.migrate import directory
from pytw.storage.pool import connect
from pytw.storage.stores import Stores
from pytw.types import Id

PAST = datetime(2020, 1, 1, tzinfo=UTC)
ONE = bytes(msgpack.packb(1))
GUILD = Id.guild(1).key


async def claims_end(stores: Stores) -> None:
    """As if the time of every claim and of every wait had passed."""
    await stores.db.execute("UPDATE tenant_kv SET expiry_claimed_until = NULL, expiry_retry_at = NULL")


async def seconds(stores: Stores, column: str) -> float:
    return float(await stores.db.fetchval(f"SELECT extract(epoch FROM {column} - now())::float8 FROM tenant_kv"))


async def due_one(stores: Stores) -> tuple[str, int]:
    """A key that is due, claimed."""
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    ((_, record),) = await stores.claim_expired(0, 1, limit=1)
    return record.id, record.version


def test_the_migration_and_the_limits_speak_of_one_number() -> None:
    sql = (Path(directory()) / "0002_kv.sql").read_text()
    assert re.findall(r"expiry_attempts (<|>=) (\d+)", sql) == [
        (sign, str(KV_EXPIRY_ATTEMPTS_MAX)) for sign in ("<", ">=")
    ]


async def test_claims_of_two_masters_never_overlap(stores: Stores) -> None:
    """Two hundred due keys, claimed by four callers at once."""
    for number in range(200):
        await stores.kv.set(Id.guild(number << 22).key, "k", ["s"], ONE, PAST)
    taken = await asyncio.gather(*(stores.claim_expired(0, 1, limit=80) for _ in range(4)))
    ids = [record.id for batch in taken for _, record in batch]
    assert len(ids) == len(set(ids)) == 200


async def test_each_worker_claims_its_own_tenants(stores: Stores) -> None:
    for number in range(12):
        await stores.kv.set(Id.user(number << 22).key, "k", ["s"], ONE, PAST)
    for worker in range(3):
        claimed = await stores.claim_expired(worker, 3, limit=100)
        assert sorted(Id.of(tenant).snowflake >> 22 for tenant, _ in claimed) == list(range(worker, 12, 3))


async def test_oldest_come_first_and_no_more_than_asked(stores: Stores) -> None:
    for year in (2003, 2001, 2002):
        await stores.kv.set(Id.guild(year).key, str(year), ["s"], ONE, datetime(year, 1, 1, tzinfo=UTC))
    assert [record.key for _, record in await stores.claim_expired(0, 1, limit=2)] == ["2001", "2002"]
    assert [record.key for _, record in await stores.claim_expired(0, 1, limit=2)] == ["2003"]


@pytest.mark.weakness(12)
async def test_failed_key_is_due_again_and_again_but_not_for_ever(stores: Stores) -> None:
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    given_up = []
    while claimed := await stores.claim_expired(0, 1, limit=10):
        ((tenant, record),) = claimed
        assert await stores.claim_expired(0, 1, limit=10) == []
        given_up.append(await stores.fail_expired(tenant, record.id, record.version))
        assert await stores.claim_expired(0, 1, limit=10) == []
        await claims_end(stores)
    assert given_up == [False] * (KV_EXPIRY_ATTEMPTS_MAX - 1) + [True]
    assert await stores.kv.get(GUILD, "k", ["s"]) is not None


async def test_failed_key_waits_twice_as_long_each_time(stores: Stores) -> None:
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    waits = []
    for _ in range(KV_EXPIRY_ATTEMPTS_MAX):
        ((tenant, record),) = await stores.claim_expired(0, 1, limit=1)
        await stores.fail_expired(tenant, record.id, record.version)
        waits.append(await seconds(stores, "expiry_retry_at"))
        await claims_end(stores)
    assert [round(wait / KV_EXPIRY_RETRY_S) for wait in waits] == [2**n for n in range(KV_EXPIRY_ATTEMPTS_MAX)]


async def test_claims_are_longer_each_time(stores: Stores) -> None:
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    waits = []
    for _ in range(KV_EXPIRY_ATTEMPTS_MAX):
        await stores.claim_expired(0, 1, limit=1)
        waits.append(await seconds(stores, "expiry_claimed_until"))
        await claims_end(stores)
    wanted = [min(KV_EXPIRY_CLAIM_S * 2**n, KV_EXPIRY_CLAIM_S_MAX) for n in range(KV_EXPIRY_ATTEMPTS_MAX)]
    assert [round(wait, -1) for wait in waits] == wanted


async def test_key_that_was_given_up_can_be_tried_again(stores: Stores) -> None:
    await due_one(stores)
    await stores.db.execute("UPDATE tenant_kv SET expiry_attempts = $1", KV_EXPIRY_ATTEMPTS_MAX)
    assert await stores.retry_expired(GUILD) == 0, "its last attempt is under way"
    await claims_end(stores)
    assert await stores.claim_expired(0, 1, limit=1) == []
    assert await stores.retry_expired(Id.user(1).key) == 0
    assert await stores.retry_expired(GUILD) == 1
    assert len(await stores.claim_expired(0, 1, limit=1)) == 1


async def test_claims_of_a_lost_worker_are_due_again_at_once(stores: Stores) -> None:
    for number in range(4):
        await stores.kv.set(Id.guild(number << 22).key, "k", ["s"], ONE, PAST)
    for worker in range(2):
        await stores.claim_expired(worker, 2, limit=10)
    await stores.db.execute("UPDATE tenant_kv SET expiry_attempts = $1 WHERE owner_id = '0'", KV_EXPIRY_ATTEMPTS_MAX)
    assert await stores.release_claims(0, 2) == (1, 1)
    assert len(await stores.claim_expired(0, 2, limit=10)) == 1
    assert await stores.claim_expired(1, 2, limit=10) == []
    assert (await stores.db.fetchval("SELECT expiry_attempts FROM tenant_kv WHERE owner_id = $1", str(2 << 22))) == 2


async def test_a_wait_after_a_failure_outlasts_a_lost_worker(stores: Stores) -> None:
    await stores.fail_expired(GUILD, *await due_one(stores))
    assert await stores.release_claims(0, 1) == (0, 0)
    assert await stores.claim_expired(0, 1, limit=1) == []


@pytest.mark.weakness(12)
async def test_key_that_is_extended_while_its_handler_runs_stays(stores: Stores) -> None:
    for number, later in enumerate([datetime.now(UTC) + timedelta(hours=1), None, PAST + timedelta(days=1)]):
        key = f"k{number}"
        await stores.kv.set(GUILD, key, ["s"], ONE, PAST)
        ((_, record),) = await stores.claim_expired(0, 1, limit=1)
        assert await stores.kv_set_expiry(GUILD, key, ["s"], later)
        assert await stores.finish_expired(GUILD, [(record.id, record.version)]) == 0
        assert await stores.kv_exists(GUILD, key, ["s"])
        # A late failure of the handler that ran does not touch the new expiry either.
        assert not await stores.fail_expired(GUILD, record.id, record.version)
        await stores.kv.delete(GUILD, key, ["s"])


async def test_late_failure_ends_no_claim_of_what_was_written_since(stores: Stores) -> None:
    claim = await due_one(stores)
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    assert len(await stores.claim_expired(0, 1, limit=1)) == 1
    assert not await stores.fail_expired(GUILD, *claim)
    assert await seconds(stores, "expiry_claimed_until") > 0
    assert await stores.db.fetchval("SELECT expiry_retry_at IS NULL FROM tenant_kv")


async def test_late_failure_puts_nothing_off_whose_claim_has_ended(stores: Stores) -> None:
    claim = await due_one(stores)
    assert await stores.release_claims(0, 1) == (1, 0)
    assert not await stores.fail_expired(GUILD, *claim)
    assert len(await stores.claim_expired(0, 1, limit=1)) == 1


async def test_key_that_was_extended_past_us_stays(stores: Stores) -> None:
    """By a statement that does not count versions."""
    claim = await due_one(stores)
    await stores.db.execute("UPDATE tenant_kv SET expires_at = now() + interval '1 h'")
    assert await stores.finish_expired(GUILD, [claim]) == 0


async def test_only_the_tenants_own_keys_are_finished(stores: Stores) -> None:
    claim = await due_one(stores)
    assert await stores.finish_expired(Id.user(1).key, [claim]) == 0
    assert await stores.fail_expired(Id.user(1).key, *claim) is False
    assert await stores.finish_expired(GUILD, [("unknown", 1), claim]) == 1


async def test_writing_the_key_starts_its_expiry_anew(stores: Stores) -> None:
    await due_one(stores)
    await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
    assert len(await stores.claim_expired(0, 1, limit=1)) == 1


@pytest.mark.parametrize("write", ["set", "set_by_id", "set_expiry", "set_expiry_by_id"])
async def test_key_that_was_given_up_has_all_its_attempts_when_it_is_written(stores: Stores, write: str) -> None:
    record_id, _ = await due_one(stores)
    await stores.fail_expired(GUILD, record_id, 1)
    await stores.db.execute("UPDATE tenant_kv SET expiry_attempts = $1", KV_EXPIRY_ATTEMPTS_MAX)
    assert await stores.claim_expired(0, 1, limit=1) == []
    match write:
        case "set":
            await stores.kv.set(GUILD, "k", ["s"], ONE, PAST)
        case "set_by_id":
            await stores.kv.set_by_id(GUILD, record_id, ONE, PAST)
        case "set_expiry":
            assert await stores.kv.set_expiry(GUILD, "k", ["s"], PAST)
        case "set_expiry_by_id":
            assert await stores.kv.set_expiry_by_id(GUILD, record_id, PAST)
    assert len(await stores.claim_expired(0, 1, limit=1)) == 1
    assert await stores.db.fetchval("SELECT expiry_attempts FROM tenant_kv") == 1


async def test_row_that_cannot_be_read_stops_no_other(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """As somebody may have written it past us."""
    for key in ("bad", "good"):
        await stores.kv.set(1, key, ["s"], ONE, PAST)
    await stores.db.execute("UPDATE tenant_kv SET value = '{}' WHERE key = 'bad'")
    assert [record.key for _, record in await stores.claim_expired(0, 1, limit=9)] == ["good"]
    assert "bad" in caplog.text


async def fill(connection: asyncpg.Connection[asyncpg.Record], rows: int, *, analyze: bool = True) -> None:
    """Keys of one guild: each tenth has a second scope, one in a hundred resumes, one in a thousand is due."""
    await connection.execute(
        "INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value, resume, expires_at)"
        " SELECT lpad(n::text, 8, '0'), '1', 'guild', (CASE WHEN n % 2 = 0 THEN 'ban:' ELSE 'warn:' END) || n,"
        """ CASE WHEN n % 10 = 0 THEN '{s,t}'::text[] ELSE '{s}' END, '"Null"', n % 100 = 0,"""
        " CASE WHEN n % 1000 = 0 THEN now() - interval '1 h' WHEN n % 3 = 0 THEN now() + interval '1 h' END"
        " FROM generate_series(1, $1) AS n",
        rows,
    )
    if analyze:
        await connection.execute("VACUUM ANALYZE tenant_kv, tenant_kv_scopes")


BAN = key_range("ban:%")[1]
WRITTEN = (
    *([0], ["1"], ["guild"], ["ban:2"], ['["s"]'], ["x"], [False], ["1"], [None], [False], [None]),
    *(1 << 30, 1 << 30),
)
QUERIES = {
    "claim": (CLAIM, (0, 1, 10, [])),
    "claim, all busy": (CLAIM, (0, 1, 10, ["guild1"])),
    "finish": (FINISH, ("1", "guild", ["00001000"], [1])),
    "release": (RELEASE, (0, 1)),
    "retry": (RETRY, ("1", "guild", 10)),
    "resume": (RESUME, (0, 1, "00050000", 10)),
    "resume of one": (RESUME_TENANT, ("1", "guild", "00050000", 10)),
    "get": (GET, ("1", "guild", "ban:50000", ["s", "t"])),
    "get by id": (GET_BY_ID, ("1", "guild", "00001000")),
    "get, wider": (GET, ("1", "guild", "ban:50000", ["t"])),
    "get, nothing": (GET, ("1", "guild", "ban:x", ["s"])),
    "exists": (EXISTS, ("1", "guild", "ban:50000", ["t"])),
    "find": (FIND, ("1", "guild", ["s"], None, "ban:5", "", LAST_KEY, 10, "s")),
    "find, prefix": (FIND, ("1", "guild", ["s"], "ban:%", "ban:5", "", BAN, 10, "s")),
    "find, two scopes": (FIND, ("1", "guild", ["s", "t"], "ban:%", "ban:5", "", BAN, 10, "t")),
    "find, end of the prefix": (FIND, ("1", "guild", ["s"], "ban:%", "ban:9999", "", BAN, 10, "s")),
    "rarest": (RAREST, ("1", "guild", ["s", "t", "x"])),
    "keys": (KEYS, ("1", "guild", ["s"], "s", True, 10)),
    "read": (READ, ([0], ["1"], ["guild"], ["ban:2"], ['["s"]'])),
    "write": (WRITE, WRITTEN),
    "write of several": (WRITE_FREE, WRITTEN),
    "browse": (BROWSE, ("1", "guild", [], "ban:%", "ban:5", "", BAN, 10)),
    "delete": (DELETE, ("1", "guild", "ban:50000", ["t"])),
}


async def assert_index_time(connection: asyncpg.Connection[asyncpg.Record], pages_max: int) -> None:
    """Whichever plan PostgreSQL takes."""
    for mode in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {mode}")
        for name, (statement, arguments) in QUERIES.items():
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            found = (await connection.fetch(explain, *arguments))[0][0]
            plan = orjson.loads(found)[0]["Plan"]
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert '"Seq Scan"' not in found, (name, mode, found)
            assert pages < pages_max, (name, mode, pages, found)


@pytest.mark.slow
@pytest.mark.weakness(40)
async def test_nothing_reads_the_whole_table(database_url: str) -> None:
    """100,000 keys of one tenant: each statement touches pages for what it finds. The table alone has more than 2,000."""
    connection = await connect(database_url)
    try:
        await fill(connection, 100_000)
        await assert_index_time(connection, 700)
    finally:
        await connection.close()


@pytest.mark.parametrize("name", ["finish", "get", "get by id", "exists", "read", "write"])
async def test_one_row_is_found_at_once_in_a_table_without_statistics(database_url: str, name: str) -> None:
    """As in a new database: a planner that knows nothing must have no choice."""
    connection = await connect(database_url)
    try:
        await fill(connection, 2_000, analyze=False)
        statement, arguments = QUERIES[name]
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            found = (await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *arguments))[0][0]
            removed = re.findall(r'"Rows Removed by Filter": (\d+)', found)
            assert all(int(rows) < 10 for rows in removed), (mode, found)
    finally:
        await connection.close()
