"""The shop: versions that do not change, `latest` that follows approvals, and tenants that run what is approved."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.limits import SHOP_SOURCE_BYTES_MAX
from pytw.storage import locks, sources
from pytw.storage.shop import Publication
from pytw.storage.stores import Stores
from pytw.storage.templateversions import Deployed
from pytw.types import Draft, Id
from tests.storage.templates_contract import GUILD, ONE, TWO
from tests.storage.waiting import until_it_waits


async def publish(stores: Stores, *versions: str, approve: bool = True, **more: Any) -> None:
    for version in versions:
        files = {"init.luau": f"return '{version}'"}
        await stores.shop.publish(Publication("greet", version, files, **{"events": ["A"], **more}))
        if approve:
            await stores.shop.review("greet", version, "approved")


async def runs(stores: Stores, owner: Id = GUILD) -> list[str]:
    return [
        next(iter(t.files.values())).decode().removeprefix("return '").removesuffix("'") if t.files else t.left_out
        for t in await stores.program(owner.key)
    ]


async def take(stores: Stores, ref: str, owner: Id = GUILD, name: str = "g", **more: Any) -> int:
    return await stores.templates.put(owner, Draft(name, {}, shop=ref, **more))


async def test_tenant_runs_the_listings_files_with_its_own_events_and_capabilities(stores: Stores) -> None:
    await publish(stores, "1", events=["A", "B"], allowed_caps=["kv:*"], entry="main")
    assert await take(stores, "$shop/greet#1") == 0
    (source,) = await stores.program(GUILD.key)
    assert (source.entry, source.events, source.allowed_caps) == ("main", {"A", "B"}, ("kv:*",))
    found = await stores.templates.get(GUILD, "g")
    assert (found.version, found.shop_ref, found.shop_version) == (None, "$shop/greet#1", "1")
    assert found.files == {"init.luau": "return '1'"}
    assert (await stores.tenants.gate(GUILD.key)).events >= {"A", "B"}
    await take(stores, "$shop/greet#1", events_override=["C"], allowed_caps=["discord:*"], paused=True)
    (source,) = await stores.program(GUILD.key)
    assert (source.events, source.allowed_caps, source.paused, source.files) == ({"C"}, ("discord:*",), True, {})


async def test_name_of_the_reference_says_it_all(stores: Stores) -> None:
    await publish(stores, "1")
    await stores.templates.put(GUILD, Draft("$shop/greet#latest", {}))
    assert await runs(stores) == ["1"]
    with pytest.raises(RequestError, match="for what the shop has"):
        await stores.templates.put(GUILD, Draft("$shop/greet#1", ONE))
    with pytest.raises(RequestError, match="another version"):
        await take(stores, "$shop/greet#latest", name="$shop/greet#1")


async def test_what_is_not_there_or_not_approved_is_refused_with_what_exists(stores: Stores) -> None:
    with pytest.raises(NotFound, match="the shop has no"):
        await take(stores, "$shop/greet#latest")
    await publish(stores, "1.9", "1.10")
    await publish(stores, "2", approve=False)
    with pytest.raises(RequestError, match="it is pending") as refused:
        await take(stores, "$shop/greet#2")
    assert refused.value.hint == "there is $shop/greet#1.10, $shop/greet#1.9"
    with pytest.raises(NotFound, match="the shop has no") as refused:
        await take(stores, "$shop/greet#3")
    await stores.shop.withdraw("greet", "1.9")
    with pytest.raises(RequestError, match="it is withdrawn"):
        await take(stores, "$shop/greet#1.9")
    assert await stores.templates.list(GUILD) == []


async def test_latest_is_the_highest_approved_version_and_follows_approvals(stores: Stores) -> None:
    await publish(stores, "1.9")
    await take(stores, "$shop/greet#latest")
    await publish(stores, "1.10", approve=False, events=["B"])
    assert await runs(stores) == ["1.9"]
    await stores.shop.review("greet", "1.10", "approved")
    assert await runs(stores) == ["1.10"]
    assert (await stores.templates.get(GUILD, "g")).listens == ["B"]
    assert "B" in (await stores.tenants.gate(GUILD.key)).events
    await publish(stores, "1.10-rc")
    assert await runs(stores) == ["1.10"]
    await stores.shop.withdraw("greet", "1.10")
    assert await runs(stores) == ["1.10-rc"]
    await stores.shop.review("greet", "1.10-rc", "denied")
    assert (await runs(stores), (await stores.templates.get(GUILD, "g")).listens) == (["1.9"], ["A"])
    await stores.shop.review("greet", "1.9", "denied")
    assert await runs(stores) == ["the shop has no approved version for $shop/greet#latest"]


async def test_new_version_does_not_widen_what_a_template_may(stores: Stores) -> None:
    await publish(stores, "1", allowed_caps=["kv:*"])
    await take(stores, "$shop/greet#latest")
    await publish(stores, "2", allowed_caps=["*"])
    (source,) = await stores.program(GUILD.key)
    assert (source.allowed_caps, await runs(stores)) == (("kv:*",), ["2"])


async def test_review_names_the_tenants_that_run_it(stores: Stores) -> None:
    await publish(stores, "1", "2")
    for number, ref in enumerate(("latest", "1", "2", "latest"), 10):
        await take(stores, f"$shop/greet#{ref}", Id.guild(number))
    await take(stores, "$shop/greet#latest", Id.user(10), name="h")
    await take(stores, "$shop/greet#1", Id.guild(10), name="again")
    assert set(await stores.shop.review("greet", "2", "denied")) == {10, 12, 13, Id.user(10).key}
    assert set(await stores.shop.withdraw("greet", "1")) == {10, 11, 13, Id.user(10).key}


async def test_published_version_does_not_change(stores: Stores) -> None:
    await publish(stores, "1")
    with pytest.raises(Conflict, match="versions do not change"):
        await stores.shop.publish(Publication("greet", "1", TWO, ["A"]))
    await stores.shop.withdraw("greet", "1")
    with pytest.raises(Conflict):
        await stores.shop.publish(Publication("greet", "1", TWO, ["A"]))
    with pytest.raises(Conflict, match="was withdrawn"):
        await stores.shop.review("greet", "1", "approved")
    with pytest.raises(RequestError, match="does not change"):
        await stores.db.execute("UPDATE shop_templates SET files = '{}'")
    # The same version by another text: 1.0 stands beside 1.
    await publish(stores, "1.0")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"name": "a/b"}, RequestError),
        ({"version": "latest"}, RequestError),
        ({"files": {}}, RequestError),
        ({"files": {f"{n}": "-" * 250_000 for n in range(SHOP_SOURCE_BYTES_MAX // 250_000 + 1)}}, LimitExceeded),
        ({"short": "x" * 513}, LimitExceeded),
        ({"long": "x" * 65_537}, LimitExceeded),
        ({"events": [""]}, RequestError),
    ],
)
async def test_what_cannot_be_published_is_refused(
    stores: Stores, more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await stores.shop.publish(Publication(**{"name": "x", "version": "1", "files": ONE, "events": [], **more}))
    assert await stores.shop.list() == []


async def test_list_is_by_name_and_version_in_pages(stores: Stores) -> None:
    await publish(stores, "1.10", "1.9", approve=False)
    await stores.shop.publish(Publication("a", "2", ONE, [], owner=Id.guild(5), short="s", author="9"))
    await stores.shop.review("greet", "1.9", "denied", note="too loud", author="9")
    found = await stores.shop.list()
    assert [(one.name, one.version) for one in found] == [("a", "2"), ("greet", "1.9"), ("greet", "1.10")]
    assert [one.version for one in await stores.shop.list(limit=2, after="a#2")] == ["1.9", "1.10"]
    assert [one.version for one in await stores.shop.list("greet", after="greet#1.9")] == ["1.10"]
    assert [one.version for one in await stores.shop.list(state="denied")] == ["1.9"]
    one = await stores.shop.get("greet", "1.9")
    assert (one.review_note, one.reviewed_by, one.files) == ("too loud", "9", {"init.luau": "return '1.9'"})
    assert (found[0].owner_type, found[0].owner_id, found[0].short, found[0].published_by) == ("guild", "5", "s", "9")
    with pytest.raises(NotFound):
        await stores.shop.get("greet", "7")


async def test_rolling_back_leads_from_the_shop_to_own_files_and_back(stores: Stores) -> None:
    await publish(stores, "1")
    await stores.templates.put(GUILD, Draft("g", ONE, events=["X"]))
    await take(stores, "$shop/greet#latest")
    assert await stores.versions.rollback(GUILD, "g") == Deployed(1)
    found = await stores.templates.get(GUILD, "g")
    assert (found.version, found.shop_ref, found.files, found.listens) == (1, None, ONE, ["X"])
    await take(stores, "$shop/greet#latest")
    await stores.templates.put(GUILD, Draft("g", TWO, events=["X"]))
    assert await stores.versions.rollback(GUILD, "g") == Deployed(None, "$shop/greet#latest")
    await stores.templates.remove(GUILD, "g")
    assert await stores.versions.undelete(GUILD, "g") == Deployed(None, "$shop/greet#latest")
    assert await runs(stores) == ["1"]
    await stores.templates.put(GUILD, Draft("g", TWO))
    await stores.shop.review("greet", "1", "denied")
    with pytest.raises(RequestError, match="the shop has no"):
        await stores.versions.rollback(GUILD, "g")


async def test_takers_and_reviews_wait_for_each_other(stores: Stores) -> None:
    await publish(stores, "1")
    for lock, work in (
        ("pg_advisory_xact_lock_shared", stores.shop.review("greet", "1", "denied")),
        ("pg_advisory_xact_lock_shared", stores.shop.withdraw("greet", "1")),
        ("pg_advisory_xact_lock", take(stores, "$shop/greet#1")),
    ):
        async with stores.db.transaction() as connection:
            await connection.execute(f"SELECT {lock}($1)", locks.SHOP)
            waiting: asyncio.Task[object] = asyncio.create_task(work)
            await until_it_waits(stores.db, waiting)
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_bytes_of_the_shop_count_for_the_tenant(stores: Stores) -> None:
    big = {f"{number}.luau": "-" * 250_000 for number in range(4)}
    for version in "12345":
        await stores.shop.publish(Publication("big", version, big, []))
        await stores.shop.review("big", version, "approved")
    for version in "1234":
        await take(stores, f"$shop/big#{version}", name=f"t{version}")
    with pytest.raises(LimitExceeded, match="bytes of source together"):
        await take(stores, "$shop/big#5", name="t5")


async def test_whoever_takes_it_while_it_is_reviewed_is_told_or_refused(stores: Stores) -> None:
    """Nobody runs a denied version unheard: each taker is refused, or among the tenants of the review."""
    await publish(stores, "1")
    takers = [take(stores, "$shop/greet#1", Id.guild(number)) for number in range(1, 9)]
    *taken, told = await asyncio.gather(*takers, stores.shop.review("greet", "1", "denied"), return_exceptions=True)
    assert not isinstance(told, BaseException)
    assert {number for number, result in enumerate(taken, 1) if result == 0} == set(told)  # type: ignore[arg-type]


async def test_sources_of_the_shop_are_not_collected(stores: Stores) -> None:
    """Also those that tenants have had as their own, and have none of any more."""
    await publish(stores, "1")
    for number in range(101):
        await stores.templates.put(Id.guild(9), Draft(f"x{number}", {"init.luau": "return '1'"}))
        await stores.templates.remove(Id.guild(9), f"x{number}")
    await stores.db.execute("DELETE FROM template_versions")
    await stores.db.execute("INSERT INTO loose_sources SELECT hash FROM sources")
    await sources.collect(stores.db)
    assert await stores.db.fetchval("SELECT count(*) FROM loose_sources") == 0
    assert (await stores.shop.get("greet", "1")).files == {"init.luau": "return '1'"}
