"""Versions: every save one, exact roll-backs, removed templates that come back as they were."""

from __future__ import annotations

import pytest

from pytw.errors import NotFound, RequestError
from pytw.limits import TEMPLATES_REMOVED_MAX
from pytw.storage.stores import Stores
from pytw.storage.templateversions import Deployed
from pytw.types import Draft
from tests.storage.templates_contract import GUILD, ONE, TWO

THREE = {"init.luau": "return { C = 1 }"}


async def runs(stores: Stores) -> int | None:
    return (await stores.templates.get(GUILD, "t")).version


async def put(stores: Stores, *sources: dict[str, str], name: str = "t") -> None:
    for source in sources:
        await stores.templates.put(GUILD, Draft(name, source, events=["A"]))


async def test_every_save_is_a_version_and_what_runs_is_a_pointer(stores: Stores) -> None:
    templates, versions = stores.templates, stores.versions
    assert await templates.put(GUILD, Draft("t", ONE, events=["A"], author="9", message="one")) == 1
    assert await templates.put(GUILD, Draft("t", TWO, events=["B"])) == 2
    assert await templates.put(GUILD, Draft("t", ONE, deploy=False, message="later")) == 3
    assert await templates.put(GUILD, Draft("t", {"init.luau": "("}, error="init.luau:1: no")) == 4
    assert await templates.put(GUILD, Draft("u", ONE)) == 1
    four, three, two, one = await versions.list(GUILD, "t")
    assert [v.number for v in (four, three, two, one)] == [4, 3, 2, 1]
    assert [v.runs for v in (four, three, two, one)] == [False, False, True, False]
    assert [v.deployed_at is not None for v in (four, three, two, one)] == [False, False, True, True]
    assert (four.error, three.error) == ("init.luau:1: no", None)
    assert (one.author, one.message, one.events, one.entry) == ("9", "one", ["A"], "init")
    # Same files, same digest.
    assert len({one.digest, two.digest, four.digest}) == 3 and one.digest == three.digest
    assert [v.number for v in await versions.list(GUILD, "t", limit=2, before=4)] == [3, 2]
    assert (await versions.get(GUILD, "t", 2))[1] == TWO
    found = await templates.get(GUILD, "t")
    assert (found.version, found.listens, found.files) == (2, ["B"], TWO)


async def test_deployed_version_has_its_own_entry_and_events_and_the_rows_settings(stores: Stores) -> None:
    main = {"main.luau": "return {}"}
    await stores.templates.put(GUILD, Draft("t", main, "main", ["A"], events_override=["X"], author="9", message="one"))
    await stores.templates.put(
        GUILD, Draft("t", TWO, events=["B"], allowed_caps=["kv:*"], error_channel="5", paused=True)
    )
    await stores.versions.deploy(GUILD, "t", 1)
    found = await stores.templates.get(GUILD, "t")
    assert (found.version, found.entry, found.files, found.author, found.message) == (1, "main", main, "9", "one")
    assert (found.events, found.events_override) == (["A"], None)
    assert (found.allowed_caps, found.error_channel, found.paused) == (["kv:*"], "5", True)
    await stores.templates.put(GUILD, Draft("t", ONE, events=["B"], events_override=["X"]))
    await stores.versions.deploy(GUILD, "t", 2)
    assert (await stores.templates.get(GUILD, "t")).listens == ["X"]


async def test_broken_version_is_not_deployed_until_it_was_evaluated(stores: Stores) -> None:
    await put(stores, ONE)
    await stores.templates.put(GUILD, Draft("t", TWO, error="init: the database was away"))
    with pytest.raises(RequestError, match="version 2 of t is broken: init: the database was away"):
        await stores.versions.deploy(GUILD, "t", 2)
    with pytest.raises(NotFound, match="no version 3"):
        await stores.versions.deploy(GUILD, "t", 3)
    await stores.versions.deploy(GUILD, "t", 2, events=["B"])
    assert (await stores.templates.get(GUILD, "t")).listens == ["B"]
    assert (await stores.versions.get(GUILD, "t", 2))[0].error is None


async def test_rolling_back_leads_further_back_each_time(stores: Stores) -> None:
    await put(stores, ONE, TWO, THREE)
    await stores.templates.put(GUILD, Draft("t", ONE, deploy=False))
    assert await stores.versions.rollback(GUILD, "t") == Deployed(2)
    assert await stores.versions.rollback(GUILD, "t") == Deployed(1)
    with pytest.raises(NotFound, match="nothing ran before"):
        await stores.versions.rollback(GUILD, "t")
    assert await runs(stores) == 1


async def test_rollback_is_to_what_ran_and_not_to_what_was_saved_before(stores: Stores) -> None:
    await put(stores, ONE, TWO, THREE)
    await stores.versions.deploy(GUILD, "t", 1)
    assert await stores.versions.rollback(GUILD, "t") == Deployed(3)
    await stores.versions.deploy(GUILD, "t", 3)
    await stores.versions.deploy(GUILD, "t", 3)
    assert await stores.versions.rollback(GUILD, "t") == Deployed(2)
    await put(stores, ONE)
    assert await runs(stores) == 4
    assert await stores.versions.rollback(GUILD, "t") == Deployed(2)


async def test_removed_template_comes_back_as_it_was(stores: Stores) -> None:
    await stores.templates.put(
        GUILD,
        Draft("t", ONE, events=["A"], events_override=["X"], allowed_caps=["kv:*"], error_channel="5", paused=True),
    )
    before = await stores.templates.get(GUILD, "t")
    with pytest.raises(RequestError, match="there is a template t"):
        await stores.versions.undelete(GUILD, "t")
    await stores.templates.remove(GUILD, "t")
    assert await stores.templates.list(GUILD) == []
    assert [v.number for v in await stores.versions.list(GUILD, "t")] == [1]
    assert await stores.versions.undelete(GUILD, "t") == Deployed(1)
    after = await stores.templates.get(GUILD, "t")
    assert (after.files, after.listens, after.allowed_caps, after.error_channel, after.paused, after.created_at) == (
        (before.files, ["X"], ["kv:*"], "5", True, before.created_at)
    )
    with pytest.raises(NotFound, match="no template u was removed"):
        await stores.versions.undelete(GUILD, "u")


async def test_version_of_a_removed_template_is_deployed_with_its_old_capabilities(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], allowed_caps=[]))
    await stores.templates.put(GUILD, Draft("t", TWO, events=["A"], allowed_caps=["kv:*"]))
    await stores.templates.remove(GUILD, "t")
    await stores.versions.deploy(GUILD, "t", 1)
    found = await stores.templates.get(GUILD, "t")
    assert (found.version, found.allowed_caps) == (1, ["kv:*"])
    assert await stores.templates.put(GUILD, Draft("t", ONE)) == 3


async def test_a_new_template_of_a_removed_ones_name_does_not_have_its_settings(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, allowed_caps=["kv:*"], paused=True))
    await stores.templates.remove(GUILD, "t")
    await stores.templates.put(GUILD, Draft("t", TWO))
    found = await stores.templates.get(GUILD, "t")
    assert (found.version, found.allowed_caps, found.paused) == (2, ["*"], False)


async def test_only_so_many_removed_templates_can_come_back(stores: Stores) -> None:
    for number in range(TEMPLATES_REMOVED_MAX + 2):
        await put(stores, {"init.luau": f"return {number}"}, name=f"t{number}")
        await stores.templates.remove(GUILD, f"t{number}")
    for number in (0, 1):
        with pytest.raises(NotFound):
            await stores.versions.undelete(GUILD, f"t{number}")
        with pytest.raises(NotFound):
            await stores.versions.list(GUILD, f"t{number}")
    await stores.versions.undelete(GUILD, "t2")
    assert await stores.db.fetchval("SELECT count(*) FROM sources") == TEMPLATES_REMOVED_MAX
    assert await stores.db.fetchval("SELECT count(*) FROM template_deployments") == TEMPLATES_REMOVED_MAX
