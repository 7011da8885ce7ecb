from __future__ import annotations

import pytest

from pytw.errors import LimitExceeded, NotFound
from pytw.storage.stores import Stores
from pytw.storage.templates import TemplateStore
from pytw.types import Draft, Id
from tests.storage.templates_contract import GUILD, ONE, TWO, Make, TemplatesContract


class TestContract(TemplatesContract):
    @pytest.fixture
    def make(self, stores: Stores) -> Make:
        return lambda limits=None: TemplateStore(stores.db, limits)


async def test_every_save_is_a_version_and_what_runs_is_a_pointer(stores: Stores) -> None:
    templates = stores.templates
    first = await templates.put(GUILD, Draft("t", ONE, events=["A"], author="9", message="one"))
    second = await templates.put(GUILD, Draft("t", TWO, events=["B"]))
    draft = await templates.put(GUILD, Draft("t", ONE, deploy=False, message="later"))
    broken = await templates.put(GUILD, Draft("t", {"init.luau": "("}, error="init.luau:1: no"))
    assert [v.id for v in await templates.versions(GUILD, "t")] == [broken, draft, second, first]
    found = await templates.get(GUILD, "t")
    assert (found.version, found.listens, found.files) == (second, ["B"], TWO)
    await templates.deploy(GUILD, "t", first)
    found = await templates.get(GUILD, "t")
    assert (found.version, found.listens, found.files, found.author, found.message) == (first, ["A"], ONE, "9", "one")
    for missing in (broken, 10**9):
        with pytest.raises(NotFound):
            await templates.deploy(GUILD, "t", missing)


async def test_removed_template_can_be_brought_back(stores: Stores) -> None:
    version = await stores.templates.put(GUILD, Draft("t", ONE, events=["A"]))
    await stores.templates.remove(GUILD, "t")
    assert await stores.templates.list(GUILD) == []
    with pytest.raises(NotFound):
        await stores.templates.get(GUILD, "t")
    with pytest.raises(NotFound):
        await stores.templates.remove(GUILD, "t")
    await stores.templates.deploy(GUILD, "t", version)
    assert (await stores.templates.get(GUILD, "t")).files == ONE


async def test_draft_of_a_new_template_does_not_run(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], deploy=False))
    assert (await stores.templates.get(GUILD, "t")).version is None
    assert await stores.templates.program(GUILD.key) == []
    assert "A" not in (await stores.tenants.gate(GUILD.key)).events


async def test_draft_leaves_what_runs_as_it_is(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], events_override=["C"], allowed_caps=["kv:*"]))
    await stores.templates.put(GUILD, Draft("t", TWO, events=["B"], deploy=False))
    found = await stores.templates.get(GUILD, "t")
    assert (found.files, found.listens, found.allowed_caps) == (ONE, ["C"], ["kv:*"])


async def test_override_is_of_one_deployment(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], events_override=["C"]))
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"]))
    assert (await stores.templates.get(GUILD, "t")).listens == ["A"]


async def test_paused_template_is_marked_in_the_program(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"]))
    await stores.templates.set_paused(GUILD, "t", True)
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True]
    await stores.templates.put(GUILD, Draft("t", TWO, events=["A"]))
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True]
    await stores.templates.set_paused(GUILD, "t", False)
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [False]
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], paused=True))
    await stores.templates.put(GUILD, Draft("v", ONE, events=["A"], paused=True))
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True, True]
    with pytest.raises(NotFound):
        await stores.templates.set_paused(GUILD, "u", True)


async def test_program_keeps_the_order_of_creation(stores: Stores) -> None:
    for name in ("z", "a", "m"):
        await stores.templates.put(GUILD, Draft(name, ONE, events=["A"]))
    await stores.templates.put(GUILD, Draft("z", TWO, events=["B"]))
    assert [t.name for t in await stores.templates.program(GUILD.key)] == ["z", "a", "m"]
    assert [t.name for t in await stores.templates.list(GUILD)] == ["a", "m", "z"]


async def test_template_that_lacks_a_source_stops_nobody_else(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("bad", {"init.luau": "lost"}, events=["A"]))
    await stores.templates.put(GUILD, Draft("good", ONE, events=["A"]))
    await stores.db.execute("DELETE FROM sources WHERE source = 'lost'")
    assert [t.name for t in await stores.templates.program(GUILD.key)] == ["good"]


async def test_same_source_is_kept_once(stores: Stores) -> None:
    for guild in range(3):
        await stores.templates.put(Id.guild(guild), Draft("t", ONE))
    assert await stores.db.fetchval("SELECT count(*) FROM sources") == 1


async def test_tenants_do_not_see_each_other(stores: Stores) -> None:
    version = await stores.templates.put(GUILD, Draft("t", ONE))
    with pytest.raises(NotFound):
        await stores.templates.get(Id.user(1), "t")
    with pytest.raises(NotFound):
        await stores.templates.deploy(Id.guild(2), "t", version)
    assert await stores.templates.program(Id.guild(2).key) == []


async def test_deployed_sources_of_a_tenant_are_bounded_together(stores: Stores) -> None:
    big = {f"{number}.luau": "-" * 250_000 for number in range(8)}
    for name in ("a", "b"):
        await stores.templates.put(GUILD, Draft(name, big))
    with pytest.raises(LimitExceeded):
        await stores.templates.put(GUILD, Draft("c", big))
    await stores.templates.put(GUILD, Draft("c", big, deploy=False))
    await stores.templates.put(GUILD, Draft("b", big))
    await stores.templates.put(Id.guild(2), Draft("c", big))
