"""What is kept of saved versions, and that sources go with the last one that refers to them."""

from __future__ import annotations

import asyncio

import pytest

from pytw.errors import LimitExceeded, NotFound
from pytw.storage import locks, sources, templatewrites
from pytw.storage.shop import Publication
from pytw.storage.stores import Stores
from pytw.types import Draft, Id
from tests.storage.templates_contract import GUILD, ONE
from tests.storage.waiting import until_it_waits


def text(number: int) -> dict[str, str]:
    return {"init.luau": f"return {{}} -- {number}"}


async def kept(stores: Stores, name: str = "t") -> list[int]:
    return [version.number for version in await stores.versions.list(GUILD, name)]


async def count(stores: Stores) -> int:
    return int(await stores.db.fetchval("SELECT count(*) FROM sources"))


async def test_same_source_is_kept_once(stores: Stores) -> None:
    for guild in range(3):
        await stores.templates.put(Id.guild(guild), Draft("t", ONE))
    assert await count(stores) == 1


async def test_of_one_template_so_many_versions_are_kept(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templatewrites, "TEMPLATE_VERSIONS_MAX", 4)
    for number in range(1, 4):
        await stores.templates.put(GUILD, Draft("t", text(number)))
    for number in range(4, 9):
        await stores.templates.put(GUILD, Draft("t", text(number), deploy=False))
    # 3 runs, 2 ran before it.
    assert await kept(stores) == [8, 7, 3, 2]
    assert await count(stores) == 4
    assert (await stores.versions.rollback(GUILD, "t")).version == 2
    assert await stores.templates.put(GUILD, Draft("t", text(9))) == 9
    assert await kept(stores) == [9, 8, 7, 2]
    with pytest.raises(NotFound, match="the last one is 9"):
        await stores.versions.deploy(GUILD, "t", 3)


async def test_versions_of_a_tenant_take_so_many_bytes(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templatewrites, "VERSION_OVERHEAD_BYTES", 1_000)
    monkeypatch.setattr(templatewrites, "TENANT_VERSIONS_BYTES_MAX", 6_200)
    await stores.templates.put(GUILD, Draft("a", text(1)))
    await stores.templates.put(GUILD, Draft("b", text(2)))
    for number in range(3, 7):
        await stores.templates.put(GUILD, Draft("a", text(number), deploy=False))
    assert (await kept(stores, "a"), await kept(stores, "b")) == ([5, 4, 3, 2, 1], [1])
    await stores.templates.put(GUILD, Draft("b", text(7)))
    assert (await kept(stores, "a"), await kept(stores, "b")) == ([5, 4, 3, 1], [2, 1])
    # What a removed template ran goes last of all that may go.
    await stores.templates.remove(GUILD, "a")
    for number in range(8, 11):
        await stores.templates.put(GUILD, Draft("b", text(number), deploy=False))
    assert (await kept(stores, "a"), await kept(stores, "b")) == ([1], [5, 4, 3, 2, 1])
    await stores.templates.put(Id.guild(9), Draft("t", text(99)))
    assert await count(stores) == 7


async def test_what_has_to_stay_is_never_pruned(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    await stores.templates.put(GUILD, Draft("t", text(1)))
    await stores.templates.put(GUILD, Draft("t", text(2)))
    monkeypatch.setattr(templatewrites, "TENANT_VERSIONS_BYTES_MAX", 9_000)
    with pytest.raises(LimitExceeded, match="the versions that run"):
        await stores.templates.put(GUILD, Draft("u", text(3)))
    assert await kept(stores) == [2, 1]
    assert [t.name for t in await stores.templates.list(GUILD)] == ["t"]


async def test_source_that_somebody_else_has_too_stays(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templatewrites, "TEMPLATE_VERSIONS_MAX", 1)
    await stores.templates.put(Id.guild(2), Draft("t", text(1)))
    for number in (1, 2, 3):
        await stores.templates.put(GUILD, Draft("t", text(number), deploy=False))
    assert await count(stores) == 2
    assert (await stores.templates.get(Id.guild(2), "t")).files == text(1)


async def test_collector_that_never_came_is_made_up_for(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templatewrites, "TEMPLATE_VERSIONS_MAX", 1)

    async def lost(_db: object) -> None:
        """The process ended between the two transactions."""

    with monkeypatch.context() as crash:
        crash.setattr(sources, "collect", lost)
        for number in (1, 2):
            await stores.templates.put(GUILD, Draft("t", text(number), deploy=False))
    assert await count(stores) == 2
    await stores.templates.put(GUILD, Draft("t", text(3), deploy=False))
    assert await count(stores) == 1
    assert await stores.db.fetchval("SELECT count(*) FROM loose_sources") == 0


async def test_collector_waits_for_who_saves(stores: Stores) -> None:
    """What was looked for and not yet referred to is not taken away meanwhile."""
    async with stores.db.transaction() as connection:
        await sources.hold(connection)
        collecting = asyncio.create_task(sources.collect(stores.db))
        await until_it_waits(stores.db, collecting)
    await collecting


async def test_who_saves_waits_for_the_collector(stores: Stores) -> None:
    async with stores.db.transaction() as connection:
        await connection.execute(sources.ALONE, locks.SOURCES)
        for save in (stores.templates.put(GUILD, Draft("t", ONE)), stores.shop.publish(Publication("t", "1", ONE, []))):
            saving: asyncio.Task[object] = asyncio.create_task(save)
            await until_it_waits(stores.db, saving)
            saving.cancel()
            await asyncio.wait([saving])


async def test_no_source_is_lost_among_savers_and_collectors(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenant saves the same few sources again and again while others let go of them."""
    monkeypatch.setattr(templatewrites, "TEMPLATE_VERSIONS_MAX", 1)

    async def save(guild: int) -> None:
        for number in range(12):
            await stores.templates.put(Id.guild(guild), Draft("t", text((guild + number) % 3), deploy=False))

    await asyncio.gather(*(save(guild) for guild in range(1, 5)))
    missing = await stores.db.fetchval(
        "SELECT count(*) FROM template_versions v, unnest(v.hashes) AS hash"
        " WHERE NOT EXISTS (SELECT FROM sources s WHERE s.hash = hash)"
    )
    assert missing == 0
