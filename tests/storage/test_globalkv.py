"""What is published: immutable versions, seen when staff approves them, listed in pages."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.limits import (
    GLOBAL_KV_DATA_BYTES_MAX,
    GLOBAL_KV_FIND_BYTES_MAX,
    GLOBAL_KV_OWNED_BYTES_MAX,
    GLOBAL_KV_OWNED_MAX,
)
from pytw.storage.globalkv import DELETE
from pytw.storage.globalstaff import GRANT
from pytw.storage.stores import Stores
from pytw.types import Id
from tests.storage.waiting import until_it_waits

MINE: dict[str, Any] = {"owner_type": "user", "owner_id": "1"}
STAFF: dict[str, Any] = {"owner_type": "staff", "owner_id": "1"}


async def _published(stores: Stores, key: str, version: int = 1, **more: Any) -> None:
    await stores.global_kv.create("s", key, version, **{**MINE, "data": {"a": [1]}, "short": "what it is", **more})
    await stores.global_staff.review("s", key, version, "approved")


async def _found(stores: Stores, pattern: str = "%%", **page: Any) -> list[tuple[str, int]]:
    return [(r.key, r.version) for r in (await stores.global_kv.find("s", pattern, **page)).items]


async def test_only_approved_versions_are_seen(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **MINE, data=1, short="x")
    with pytest.raises(NotFound):
        await stores.global_kv.get("s", "key", 1)
    assert await _found(stores) == []
    await stores.global_staff.review("s", "key", 1, "approved")
    assert (await stores.global_kv.get("s", "key", 1)).data == b"1"
    await stores.global_staff.review("s", "key", 1, "denied")
    assert await _found(stores) == []


async def test_versions_are_immutable(stores: Stores) -> None:
    await _published(stores, "key")
    with pytest.raises(Conflict):
        await _published(stores, "key")
    await _published(stores, "key", 2)
    assert [(r.version, r.data) for r in (await stores.global_kv.find("s")).items] == [(1, None), (2, None)]


@pytest.mark.parametrize(
    "change",
    [
        "data = '2'",
        "public_data = true",
        "public_metadata = '[]'",
        "short = 'y'",
        "long = 'y'",
        "owner_id = '2'",
        "version = 9",
    ],
)
async def test_the_database_itself_refuses_to_change_a_version(stores: Stores, change: str) -> None:
    await _published(stores, "key")
    with pytest.raises(RequestError, match="a published version does not change"):
        await stores.db.execute(f"UPDATE global_kv SET {change}")


async def test_the_number_of_a_version_that_was_seen_is_never_given_again(stores: Stores) -> None:
    await _published(stores, "seen")
    await stores.global_staff.review("s", "seen", 1, "denied")
    await stores.global_kv.delete("s", "seen", 1, **MINE)
    with pytest.raises(Conflict, match="version 1 of seen exists already"):
        await _published(stores, "seen", data="something else")
    await _published(stores, "seen", 2)


async def test_who_publishes_while_it_is_deleted_does_not_get_its_number(stores: Stores) -> None:
    await _published(stores, "seen")
    async with stores.db.transaction() as deletion:
        await deletion.execute(DELETE, "s", "seen", 1, "user", "1")
        publishing = asyncio.create_task(_published(stores, "seen", data="something else"))
        await until_it_waits(stores.db, publishing)
    with pytest.raises(Conflict, match="version 1 of seen exists already"):
        await publishing
    assert await stores.db.fetchval("SELECT count(*) FROM global_kv") == 0


async def test_a_version_that_nobody_saw_may_be_published_again(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **MINE, data="draft", short="x")
    await stores.global_staff.review("s", "key", 1, "denied")
    await stores.global_kv.delete("s", "key", 1, **MINE)
    await _published(stores, "key", data="mended")
    assert (await stores.global_kv.get("s", "key", 1)).data == b'"mended"'


async def test_find_is_like(stores: Stores) -> None:
    for key in ("abc", "abd", "a_c", "xyz"):
        await _published(stores, key, long="text")
    assert await _found(stores, "ab%") == [("abc", 1), ("abd", 1)]
    assert await _found(stores, "a\\_c") == [("a_c", 1)]
    assert await _found(stores, "abc\\") == []
    assert [r.long for r in (await stores.global_kv.find("s", "abc")).items] == [None]
    assert (await stores.global_kv.get("s", "abc", 1)).long == "text"


async def test_find_pages_by_rows(stores: Stores) -> None:
    places = [("abc", 1), ("abc", 2), ("abc", 10), ("abd", 1), ("xyz", 3)]
    for key, version in reversed(places):
        await _published(stores, key, version)
    seen, after = [], None
    while True:
        page = await stores.global_kv.find("s", limit=2, after=after)
        assert len(page.items) <= 2
        seen += [(r.key, r.version) for r in page.items]
        if (after := page.after) is None:
            break
    assert seen == places


async def test_find_pages_by_bytes(stores: Stores) -> None:
    large = "x" * (GLOBAL_KV_DATA_BYTES_MAX - 10)
    for version in range(1, 11):
        await _published(stores, "key", version, public_metadata=large)
    first = await stores.global_kv.find("s")
    assert sum(len(r.public_metadata) for r in first.items) <= GLOBAL_KV_FIND_BYTES_MAX
    assert 0 < len(first.items) < 10
    second = await stores.global_kv.find("s", after=first.after)
    assert [r.version for r in (*first.items, *second.items)] == list(range(1, 11))
    assert second.after is None


async def test_what_waits_for_review_does_not_slow_a_listing(stores: Stores) -> None:
    """Read from the index of what is approved: whoever publishes a lot delays nobody."""
    await stores.db.execute(
        "INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, data) "
        "SELECT 's', 'key', n, 'user', '1', '', '1' FROM generate_series(1, 20000) AS n"
    )
    await _published(stores, "zzz", owner_id="2")
    await stores.db.execute("ANALYZE global_kv")
    plan = await stores.db.fetch(
        "EXPLAIN SELECT key FROM global_kv WHERE scope = 's' AND review_state = 'approved' AND (key, version) > ('', 0) "
        "ORDER BY key, version LIMIT 10"
    )
    assert "global_kv_approved" in str(plan)
    assert await _found(stores) == [("zzz", 1)]


async def test_only_the_owner_deletes(stores: Stores) -> None:
    await _published(stores, "key")
    for owner in ({"owner_type": "user", "owner_id": "2"}, {"owner_type": "guild", "owner_id": "1"}):
        with pytest.raises(NotFound):
            await stores.global_kv.delete("s", "key", 1, **owner)
    await stores.global_kv.delete("s", "key", 1, **MINE)
    with pytest.raises(NotFound):
        await stores.global_kv.get("s", "key", 1)


async def test_what_was_bought_stays_for_its_buyers(stores: Stores) -> None:
    await _published(stores, "key", **STAFF, price=5)
    await stores.global_staff.grant("s", "key", 1, Id.guild(7), granted_by="1")
    with pytest.raises(Conflict, match="was bought, and stays for its buyers"):
        await stores.global_kv.delete("s", "key", 1, **STAFF)
    assert (await stores.global_kv.get("s", "key", 1, buyer=Id.guild(7))).data == b'{"a":[1]}'.replace(b":", b": ")
    await stores.global_staff.revoke("s", "key", 1, Id.guild(7))
    await stores.global_kv.delete("s", "key", 1, **STAFF)


async def test_what_is_bought_while_it_is_deleted_stays(stores: Stores) -> None:
    await _published(stores, "key", **STAFF, price=5)
    async with stores.db.transaction() as purchase:
        await purchase.execute(GRANT, "s", "key", 1, "7", "guild", None, "1")
        deleting = asyncio.create_task(stores.global_kv.delete("s", "key", 1, **STAFF))
        await until_it_waits(stores.db, deleting)
    with pytest.raises(Conflict, match="was bought, and stays for its buyers"):
        await deleting
    assert (await stores.global_kv.get("s", "key", 1, buyer=Id.guild(7))).data is not None


async def test_what_is_deleted_while_it_is_bought_is_not_sold(stores: Stores) -> None:
    await _published(stores, "key", **STAFF, price=5)
    async with stores.db.transaction() as deletion:
        await deletion.execute(DELETE, "s", "key", 1, "staff", "1")
        buying = asyncio.create_task(stores.global_staff.grant("s", "key", 1, Id.guild(7), granted_by="1"))
        await until_it_waits(stores.db, buying)
    with pytest.raises(NotFound, match="there is no version 1 of key"):
        await buying
    assert await stores.db.fetchval("SELECT count(*) FROM global_kv_purchases") == 0


async def test_large_price_of_staff_is_kept_and_makes_it_opaque(stores: Stores) -> None:
    await _published(stores, "key", owner_type="staff", price=5_000_000_000, public_data=True)
    found = await stores.global_kv.get("s", "key", 1)
    assert (found.price, found.opaque, found.data) == (5_000_000_000, True, None)


async def test_what_a_tenant_publishes_is_bounded(stores: Stores) -> None:
    await stores.db.execute(
        "INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, data) "
        f"SELECT 's', 'key', n, 'user', '1', '', '1' FROM generate_series(1, {GLOBAL_KV_OWNED_MAX}) AS n"
    )
    with pytest.raises(LimitExceeded, match="too many versions published"):
        await _published(stores, "other")
    await _published(stores, "other", owner_id="2")
    await _published(stores, "third", owner_type="staff")


async def test_the_bytes_of_a_tenant_are_bounded(stores: Stores) -> None:
    size = GLOBAL_KV_OWNED_BYTES_MAX // 100
    await stores.db.execute(
        "INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, data) "
        f"SELECT 's', 'key', n, 'user', '1', '', to_jsonb(repeat('x', {size})) FROM generate_series(1, 100) AS n"
    )
    with pytest.raises(LimitExceeded, match="too much published"):
        await _published(stores, "other")


@pytest.mark.parametrize(
    ("key", "more", "error"),
    [
        ("ab", {}, RequestError),
        (".abc", {}, RequestError),
        ("abc.", {}, RequestError),
        ("a b c", {}, RequestError),
        ("a" * 65, {}, RequestError),
        ("abc", {"price": 1}, RequestError),
        ("abc", {"price": -1, "owner_type": "staff"}, RequestError),
        ("abc", {"price": 2**63, "owner_type": "staff"}, RequestError),
        ("abc", {"short": "x" * 1000}, LimitExceeded),
        ("abc", {"long": "x" * 70_000}, LimitExceeded),
        ("abc", {"data": "x" * 300_000}, LimitExceeded),
        ("abc", {"owner_type": "server"}, RequestError),
    ],
)
async def test_what_cannot_be_published_is_refused(
    stores: Stores, key: str, more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await _published(stores, key, **more)


async def test_rows_of_the_first_schema_are_taken_over(empty_database_url: str) -> None:
    """What was approved before counts as seen, and a price beyond 2^31 stays."""
    from pytw.storage.migrate import files

    connection = await asyncpg.connect(empty_database_url)
    try:
        migrations = {migration.id: migration.sql for migration in files()}
        await connection.execute(migrations.pop("0001_initial"))
        await connection.execute(
            "INSERT INTO global_kv (scope, key, version, owner_type, owner_id, short, data, price, review_state) VALUES "
            "('s', 'one', 1, 'staff', '1', 'a', '{}', 5000000000, 'approved'), ('s', 'two', 1, 'user', '1', 'a', '1', NULL, 'pending')"
        )
        await connection.execute(migrations["0006_global_kv"])
        rows = await connection.fetch(
            "SELECT key, price, bytes, approved_at IS NOT NULL AS seen FROM global_kv ORDER BY key"
        )
        assert [tuple(row) for row in rows] == [("one", 5_000_000_000, 5, True), ("two", None, 4, False)]
    finally:
        await connection.close()
