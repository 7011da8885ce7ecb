"""What many tenants ask at the same time goes into few statements, and nobody gets another's answer or fault."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from pytw import values
from pytw.errors import LimitExceeded, RequestError
from pytw.limits import DB_STATEMENT_S, KV_TOGETHER_BYTES_MAX, Limits
from pytw.storage.apart import Apart
from pytw.storage.kept import KeptConnection
from pytw.storage.kv import KvStore
from pytw.storage.kvexpiry import KvExpiryStore
from pytw.storage.kvrules import LOCK_ROOM, owner_of
from pytw.storage.kvtogether import READ, READ_ONE, WRITE_FREE, KvTogether, Place
from pytw.storage.pool import Database
from pytw.storage.stores import Stores
from pytw.types import Id

TENANTS = [Id.guild(number << 22).key for number in range(1, 9)] + [Id.user(1 << 22).key]
PAST = datetime(2020, 1, 1, tzinfo=UTC)
COUNTED = """
SELECT owner_type, owner_id, coalesce(count(kv.id), 0), coalesce(sum(kv.bytes), 0), used.keys, used.bytes
FROM tenant_kv_usage AS used LEFT JOIN tenant_kv AS kv USING (owner_type, owner_id)
GROUP BY owner_type, owner_id, used.keys, used.bytes"""


class Sent(NamedTuple):
    """A statement for several keys."""

    text: str
    arguments: tuple[Any, ...]


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """Those that read or write several keys, as they are sent."""
    sent: list[Sent] = []
    fetch = KeptConnection.fetch

    async def noted(kept: KeptConnection, statement: str, *arguments: Any) -> list:  # type: ignore[type-arg]
        sent.append(Sent(statement, arguments))
        return await fetch(kept, statement, *arguments)

    monkeypatch.setattr(KeptConnection, "fetch", noted)
    return sent


def together(db: Database) -> KvTogether:
    return KvTogether(db, Apart(db, tenant_max=1, total_max=1), Limits())


async def test_each_gets_its_own_of_one_statement(stores: Stores, statements: list[Sent]) -> None:
    kv = KvStore(stores.db)
    written = await asyncio.gather(*(kv.set(t, "k", ["b", "a"], values.pack(n)) for n, t in enumerate(TENANTS)))
    assert [(w.written, w.version) for w in written] == [(True, 1)] * len(TENANTS)
    assert [sent.text for sent in statements] == [WRITE_FREE, WRITE_FREE]
    found = await asyncio.gather(*(kv.get(t, "k", ["a", "b"]) for t in TENANTS), kv.get(TENANTS[0], "none", ["a"]))
    assert [values.unpack(record.value) for record in found if record] == list(range(len(TENANTS)))
    assert found[-1] is None
    assert [sent.text for sent in statements[2:]] == [READ_ONE, READ]


async def test_tenants_of_one_statement_come_in_one_order(stores: Stores, statements: list[Sent]) -> None:
    """Two masters that make the same tenants' first keys would otherwise wait for each other in a ring."""
    kv = KvStore(stores.db)
    await asyncio.gather(*(kv.set(t, f"k{n}", ["s"], values.pack(n)) for n, t in enumerate([9, *reversed(TENANTS)])))
    _, owner_ids, owner_types, keys, *_ = statements[-1].arguments
    owners = list(zip(owner_ids, owner_types, strict=True))
    assert owners == sorted(owners)
    assert len(set(owners)) == len(TENANTS)
    for number, tenant in enumerate(reversed(TENANTS), 1):
        assert (owner_of(tenant), f"k{number}") in zip(owners, keys, strict=True)
        found = await kv.get(tenant, f"k{number}", ["s"])
        assert found is not None
        assert values.unpack(found.value) == number


async def test_a_tenant_without_room_is_no_fault_of_the_others(stores: Stores) -> None:
    kv = KvStore(stores.db, Limits(kv_keys_max=2))
    asked = [(t, f"k{n}") for t in TENANTS[:2] for n in range(4)] + [(t, "k") for t in TENANTS[2:]]
    found = await asyncio.gather(*(kv.set(t, k, ["s"], values.pack(1)) for t, k in asked), return_exceptions=True)
    refused = [tenant for (tenant, _), end in zip(asked, found, strict=True) if isinstance(end, LimitExceeded)]
    assert sorted(refused) == sorted([*TENANTS[:1] * 2, *TENANTS[1:2] * 2])
    assert all(not isinstance(end, Exception) for end in found[8:])
    assert "would hold 3 keys" in str(next(end for end in found if isinstance(end, LimitExceeded)))


async def test_of_two_who_expect_one_version_one_is_first(stores: Stores) -> None:
    kv = KvStore(stores.db)
    wanted = [kv.set(TENANTS[0], "k", ["s"], values.pack(n), if_version=0) for n in range(6)]
    ends = await asyncio.gather(*wanted)
    assert sorted((end.written, end.version) for end in ends) == [(False, 1)] * 5 + [(True, 1)]
    found = await kv.get(TENANTS[0], "k", ["s"])
    assert found is not None
    assert values.unpack(found.value) == next(n for n, end in enumerate(ends) if end.written)


async def test_what_cannot_be_stored_is_refused_before_it_meets_others(stores: Stores, statements: list[Sent]) -> None:
    kv = KvStore(stores.db)
    good, bad = await asyncio.gather(
        kv.set(TENANTS[0], "k", ["s"], values.pack(1)),
        kv.set(TENANTS[1], "k", ["s"], values.pack("a\0b")),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    assert isinstance(bad, RequestError)
    assert "NUL" in str(bad)
    assert [sent.text for sent in statements] == [WRITE_FREE]


@pytest.mark.parametrize("size", [KV_TOGETHER_BYTES_MAX // 2, KV_TOGETHER_BYTES_MAX * 4])
async def test_long_values_come_back_as_they_went(stores: Stores, size: int) -> None:
    kv = KvStore(stores.db)
    value = values.pack("x" * size)
    assert (await kv.set(TENANTS[0], "k", ["s"], value)).written
    found = await kv.get(TENANTS[0], "k", ["s"])
    assert found is not None
    assert found.value == value
    row = await together(stores.db).read(Place(*owner_of(TENANTS[0]), "k", ["s"]))
    assert (row is None) is (size > KV_TOGETHER_BYTES_MAX), "long values travel alone"


async def test_inside_a_transaction_nothing_leaves_it(stores: Stores) -> None:
    with pytest.raises(RuntimeError, match="undone"):
        async with stores.db.atomic() as inside:
            kv = KvStore(inside)
            await kv.set(TENANTS[0], "k", ["s"], values.pack(1))
            assert await kv.get(TENANTS[0], "k", ["s"]) is not None
            raise RuntimeError("undone")
    assert await stores.kv.get(TENANTS[0], "k", ["s"]) is None


async def test_writers_of_every_kind_never_wait_in_a_ring_and_the_counts_are_right(stores: Stores) -> None:
    """A ring would end one of them by an error of the database, after a second."""
    chance = random.Random(7)
    kv, expiry = KvStore(stores.db), KvExpiryStore(stores.db)

    async def one(number: int) -> None:
        tenant, key = chance.choice(TENANTS[:3]), f"k{chance.randrange(4)}"
        match number % 8:
            case 0 | 1 | 2:
                await kv.set(tenant, key, [chance.choice("ab")], values.pack("v" * chance.randrange(60)), PAST)
            case 3:
                await kv.set(tenant, key, ["a", "b"], values.pack(number))
            case 4:
                await kv.delete(tenant, key, ["a"])
            case 5:
                for record in await kv.find(tenant, "%%", ["a"], limit=2):
                    await kv.delete_by_id(tenant, record.id)
            case 6:
                await kv.set_expiry(tenant, key, ["b"], PAST)
            case 7:
                due = await expiry.claim(0, 1, limit=6)
                for owner in {owner for owner, _ in due}:
                    await expiry.finish(owner, [(record.id, record.version) for found, record in due if found == owner])

    turn = iter(range(600))

    async def writer() -> None:
        for number in turn:
            await one(number)

    await asyncio.gather(*(writer() for _ in range(16)))
    for *_, keys, size, keys_counted, bytes_counted in await stores.db.fetch(COUNTED):
        assert (keys, size) == (keys_counted, bytes_counted)


async def _answered(asked: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """Those that are answered while the others wait for a lock that is not given up."""
    done: set[asyncio.Task[object]] = set()
    async with asyncio.timeout(DB_STATEMENT_S / 2):
        while not any(task.get_name() == "quiet" for task in done):
            done |= (await asyncio.wait(asked - done, return_when=asyncio.FIRST_COMPLETED))[0]
    return done


async def test_a_tenant_whose_room_is_held_waits_alone(stores: Stores) -> None:
    kv, (busy, quiet, new) = KvStore(stores.db), TENANTS[:3]
    for tenant in (busy, quiet):
        await kv.set(tenant, "k", ["s"], values.pack(0))
    async with stores.db.transaction() as holder:
        await holder.execute(LOCK_ROOM, *owner_of(busy))
        waiting = [asyncio.create_task(kv.set(busy, f"k{n}", ["s"], values.pack(n))) for n in range(8)]
        others = asyncio.gather(*(kv.set(tenant, "k", ["s"], values.pack(1)) for tenant in (quiet, new)))
        asked = {*waiting, asyncio.create_task(asyncio.wait_for(others, None), name="quiet")}
        assert {task.get_name() for task in await _answered(asked)} == {"quiet"}
        assert [written.version for written in await others] == [2, 1]
    assert [written.version for written in await asyncio.gather(*waiting)] == [1] * 8


async def test_statements_of_a_tenant_that_wait_leave_connections_to_the_others(stores: Stores) -> None:
    kv, (busy, quiet) = KvStore(stores.db), TENANTS[:2]
    for tenant in (busy, quiet):
        await kv.set(tenant, "k", ["s"], values.pack(0))
    long = values.pack("x" * KV_TOGETHER_BYTES_MAX)
    async with stores.db.transaction() as holder:
        await holder.execute(LOCK_ROOM, *owner_of(busy))
        waiting = [asyncio.create_task(kv.delete(busy, "k", ["s"])) for _ in range(4)]
        waiting += [asyncio.create_task(kv.set(busy, f"k{n}", ["t"], long)) for n in range(4)]
        others = asyncio.gather(kv.get(quiet, "k", ["s"]), kv.find(quiet, "%", ["s"], limit=10))
        asked = {*waiting, asyncio.create_task(asyncio.wait_for(others, None), name="quiet")}
        assert {task.get_name() for task in await _answered(asked)} == {"quiet"}
    await asyncio.gather(*waiting)
