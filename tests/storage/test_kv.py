from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone

import msgpack
import pytest

from pytw import values
from pytw.errors import InternalError, LimitExceeded, RequestError
from pytw.limits import KV_DELETE_ROWS_MAX, KV_FIND_BYTES_MAX, KV_FIND_ROWS_MAX, KV_LIST_SCOPES_MAX, Limits
from pytw.storage import kvrules
from pytw.storage.kv import KvStore
from pytw.storage.kvrules import like_pattern
from pytw.storage.stores import Stores
from pytw.types import Id, KvWritten

PAST = datetime(2020, 1, 1, tzinfo=UTC)
ONE = bytes(msgpack.packb(1))


async def test_concurrent_writes_of_one_key_all_count(stores: Stores) -> None:
    await asyncio.gather(*(stores.kv.set(Id.guild(1).key, "k", ["s"], ONE) for _ in range(20)))
    record = await stores.kv.get(Id.guild(1).key, "k", ["s"])
    assert record is not None
    assert record.version == 20


async def test_find_gives_no_more_than_its_bound(stores: Stores) -> None:
    await stores.db.execute(
        "INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value)"
        """ SELECT n::text, '1', 'guild', n::text, '{s}', '"Null"' FROM generate_series(1, $1) AS n""",
        KV_FIND_ROWS_MAX + 5,
    )
    assert len(await stores.kv.find(1, "%%", ["s"], limit=10**9)) == KV_FIND_ROWS_MAX


async def test_scopes_are_listed_all_or_not_at_all(stores: Stores) -> None:
    await stores.db.execute(
        "INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value)"
        """ SELECT n::text, '1', 'guild', 'k', ARRAY[n::text], '"Null"' FROM generate_series(1, $1) AS n""",
        KV_LIST_SCOPES_MAX + 1,
    )
    with pytest.raises(LimitExceeded, match="more than 10,000 scopes"):
        await stores.kv.list_scopes(1)


@pytest.mark.parametrize(
    ("pattern", "like"), [("a\\", "a\\\\"), ("a\\\\", "a\\\\"), ("a\\\\\\", "a\\\\\\\\"), ("%%", None)]
)
def test_backslash_at_the_end_stands_for_itself(pattern: str, like: str | None) -> None:
    assert like_pattern(pattern) == like


@pytest.mark.parametrize(
    ("owner_id", "owner_type", "key", "scopes"),
    [
        ("01", "guild", "k", ["s"]),
        ("9223372036854775808", "guild", "k", ["s"]),
        ("x", "guild", "k", ["s"]),
        ("1", "server", "k", ["s"]),
        ("1", "guild", "k", ["b", "a"]),
        ("1", "guild", "k", []),
        ("1", "guild", "", ["s"]),
    ],
)
async def test_the_table_refuses_rows_that_routing_could_not_place(
    stores: Stores, owner_id: str, owner_type: str, key: str, scopes: list[str]
) -> None:
    statement = "INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value) VALUES ('1', $1, $2, $3, $4, '1')"
    with pytest.raises(RequestError, match="violates check"):
        await stores.db.execute(statement, owner_id, owner_type, key, scopes)


AWKWARD = [
    values.UnsignedInteger(2**64 - 1),
    -(2**63),
    2**53 + 1,
    1.0,
    1e22,
    1.7976931348623157e308,
    5e-324,
    0.1,
    float("inf"),
    "",
    "\ud7ff \\u0041 \x7f \U0001f600",
    values.RawText(b"\xff\x00"),
    values.Buffer(bytes(range(256))),
    values.Vector(1.0, 2.5, -3.0),
    values.Interval(-2, 500_000_000),
    values.TimeZone("Europe/London"),
    values.LazyStringMap({"b": "1", "a": "2"}),
    datetime(2026, 2, 27, 6, 7, 33, 123456, UTC),
    msgpack.Timestamp(1, 1),
    values.Map([(1, "a"), (True, "b"), (1.5, None), ([1], {})]),
    {"z": [], "y": {}, "x": [[None]]},
]


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
async def test_value_comes_back_as_it_was(stores: Stores, value: object) -> None:
    await stores.kv.set(1, "k", ["s"], values.pack(value))
    record = await stores.kv.get(1, "k", ["s"])
    assert record is not None
    back = values.unpack(record.value)
    assert (type(back), back) == (type(value), value)
    if type(value) is dict:
        assert list(back) == list(value)


@pytest.mark.parametrize("value", [b"\xc1", b"", b"\x01\x01", values.pack(msgpack.Timestamp(10**15, 0))])
async def test_bytes_that_are_no_value_are_refused(stores: Stores, value: bytes) -> None:
    with pytest.raises(RequestError):
        await stores.kv.set(1, "k", ["s"], value)


async def test_row_that_cannot_be_read_stops_no_other(stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """As somebody may have written it past us."""
    for key in ("bad", "good"):
        await stores.kv.set(1, key, ["s"], ONE, PAST)
    await stores.db.execute("UPDATE tenant_kv SET value = '{}' WHERE key = 'bad'")
    with pytest.raises(InternalError, match="bad"):
        await stores.kv.get(1, "bad", ["s"])
    for limit in (1, 2, 9):
        assert [record.key for record in await stores.kv.find(1, "%%", ["s"], limit=limit)] == ["good"]
    assert "bad" in caplog.text


async def test_values_too_long_together_are_refused_before_they_are_read(stores: Stores) -> None:
    tenant, text = Id.guild(1).key, "x" * 200_000
    for number in range(KV_FIND_BYTES_MAX // len(text) + 2):
        await stores.kv.set(tenant, f"k{number:03}", ["s"], values.pack(text))
    assert len(await stores.kv.find(tenant, "k00%", ["s"], limit=1_000)) == 10
    with pytest.raises(LimitExceeded):
        await stores.kv.find(tenant, "%%", ["s"], limit=1_000)


def small(stores: Stores, **limits: int) -> KvStore:
    """A store with little room on the same database."""
    return KvStore(stores.db, Limits(**limits))


async def usage(stores: Stores, tenant: Id) -> tuple[int, int]:
    """What the counter says, which must be what the rows say."""
    owner = (tenant.owner_id, tenant.owner_type.value)
    statement = "SELECT {} FROM {} WHERE owner_id = $1 AND owner_type = $2"
    counted = await stores.db.fetchrow(statement.format("keys, bytes", "tenant_kv_usage"), *owner)
    held = await stores.db.fetchrow(statement.format("count(*), coalesce(sum(bytes), 0)::int8", "tenant_kv"), *owner)
    assert counted is not None
    assert held is not None
    assert tuple(counted) == tuple(held)
    return int(counted[0]), int(counted[1])


async def test_keys_over_the_limit_are_refused_until_one_goes(stores: Stores) -> None:
    kv, tenant = small(stores, kv_keys_max=2), Id.guild(5)
    for key in ("a", "b"):
        await kv.set(tenant.key, key, ["s"], ONE)
    with pytest.raises(LimitExceeded, match=r"key 'c' it would hold 3 keys, and limits.kv_keys_max is 2"):
        await kv.set(tenant.key, "c", ["s"], ONE)
    with pytest.raises(LimitExceeded, match="kv_keys_max"):
        await kv.set(tenant.key, "a", ["other"], ONE)
    await kv.set(tenant.key, "a", ["s"], ONE)
    await kv.set(Id.guild(6).key, "c", ["s"], ONE)
    await kv.set(Id.user(5).key, "c", ["s"], ONE)
    await kv.delete(tenant.key, "b", ["s"])
    await kv.set(tenant.key, "c", ["s"], ONE)
    assert (await usage(stores, tenant))[0] == 2


async def test_bytes_over_the_limit_are_refused_and_overwriting_delete_and_expiry_give_room(stores: Stores) -> None:
    kv, tenant = small(stores, kv_bytes_max=1 << 20), Id.guild(5)
    long, longer = (bytes(msgpack.packb("x" * size)) for size in (200_000, 250_000))
    for key in "abcde":
        await kv.set(tenant.key, key, ["s"], long, PAST if key == "a" else None)
    with pytest.raises(LimitExceeded, match=r"key 'f' .* bytes, and limits.kv_bytes_max is 1,048,576"):
        await kv.set(tenant.key, "f", ["s"], long)
    with pytest.raises(LimitExceeded, match="key 'b'"):
        await kv.set(tenant.key, "b", ["s"], longer)
    found = await kv.get(tenant.key, "b", ["s"])
    assert found is not None
    assert (found.value, found.version) == (long, 1)
    # Three ways to get room, each enough for one more.
    await kv.set(tenant.key, "b", ["s"], ONE)
    await kv.set(tenant.key, "f", ["s"], long)
    await kv.delete(tenant.key, "c", ["s"])
    await kv.set(tenant.key, "g", ["s"], long)
    with pytest.raises(LimitExceeded):
        await kv.set(tenant.key, "h", ["s"], long)
    ((_, due),) = await stores.claim_expired(0, 1, limit=10)
    await stores.finish_expired(tenant.key, [(due.id, due.version)])
    await kv.set(tenant.key, "h", ["s"], long)
    keys, size = await usage(stores, tenant)
    assert keys == 6
    assert 1_000_000 < size <= 1 << 20


async def test_full_tenant_may_write_what_does_not_grow(stores: Stores) -> None:
    """As after an operator has lowered the limits."""
    tenant = Id.guild(5)
    for key in "abc":
        await stores.kv.set(tenant.key, key, ["s"], bytes(msgpack.packb("x" * 200_000)))
    kv = small(stores, kv_bytes_max=1 << 20, kv_keys_max=1)
    await kv.set(tenant.key, "a", ["s"], ONE)
    assert (await usage(stores, tenant))[0] == 3


async def test_writes_at_the_same_moment_never_pass_the_limit(stores: Stores) -> None:
    kv, tenant = small(stores, kv_keys_max=20, kv_bytes_max=1 << 20), Id.guild(5)
    for round_ in range(10):
        writes = [kv.set(tenant.key, f"{round_}.{number}", ["s"], ONE) for number in range(4)]
        writes += [kv.set(tenant.key, "same", ["s"], ONE) for _ in range(4)]
        ended = await asyncio.gather(*writes, return_exceptions=True)
        assert {type(one) for one in ended} <= {KvWritten, LimitExceeded}
    assert (await usage(stores, tenant))[0] == 20


async def test_bytes_of_writes_at_the_same_moment_never_pass_the_limit(stores: Stores) -> None:
    kv, tenant = small(stores, kv_bytes_max=1 << 20), Id.guild(5)
    value = bytes(msgpack.packb("x" * 100_000))
    ended = await asyncio.gather(
        *(kv.set(tenant.key, str(number), ["s"], value) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, KvWritten) for one in ended) == 10
    assert (await usage(stores, tenant))[0] == 10


async def test_value_of_many_small_parts_is_not_converted_on_the_loop(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed it is short, as JSON many times as long, and looking at each part holds who waits for the loop."""
    seen: list[bool] = []

    def noted(value: bytes) -> str:
        seen.append(threading.current_thread() is threading.main_thread())
        return kvrules.to_row(value)

    monkeypatch.setattr("pytw.storage.kv.to_row", noted)
    for value in (values.pack([True] * 4_000), values.pack("short")):
        await stores.kv.set(Id.guild(1).key, "k", ["s"], value)
    assert seen == [False, True]


async def test_moment_without_a_year_in_utc_is_refused(stores: Stores) -> None:
    at = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
    with pytest.raises(RequestError, match="before the year 1 or after 9999"):
        await stores.kv.set(Id.guild(1).key, "k", ["s"], ONE, at)


async def test_thousands_of_rows_of_one_key_are_deleted_in_several_statements(stores: Stores) -> None:
    owner, rows = Id.guild(7 << 22), KV_DELETE_ROWS_MAX * 2 + 5
    await stores.db.execute(
        """INSERT INTO tenant_kv (id, owner_id, owner_type, key, scopes, value)
        SELECT 'row' || n, $1, $2, 'k', ARRAY['a', 's' || n], '"Null"' FROM generate_series(1, $3::int) AS n""",
        owner.owner_id,
        owner.owner_type.value,
        rows,
    )
    await stores.kv.set(owner.key, "other", ["a"], values.pack(1))
    assert await stores.kv.delete(owner.key, "k", ["a"]) == rows
    assert await stores.kv.delete(owner.key, "k", ["a"]) == 0
    assert await stores.kv.keys(owner.key, ["a"]) == ["other"]
