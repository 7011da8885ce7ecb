from __future__ import annotations

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.storage.stores import Stores
from pytw.storage.templates import TemplateStore
from pytw.types import Draft, Id
from tests.storage.templates_contract import GUILD, ONE, TWO, Make, TemplatesContract


class TestContract(TemplatesContract):
    @pytest.fixture
    def make(self, stores: Stores) -> Make:
        return lambda limits=None: TemplateStore(stores.db, limits)


async def names(stores: Stores) -> list[str]:
    return [t.name for t in await stores.program(GUILD.key) if not t.left_out]


async def test_draft_of_a_new_template_does_not_run(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], deploy=False))
    assert (await stores.templates.get(GUILD, "t")).version is None
    assert await stores.program(GUILD.key) == []
    assert "A" not in (await stores.tenants.gate(GUILD.key)).events


@pytest.mark.parametrize("how", [{"deploy": False}, {"error": "init.luau:1: no"}])
async def test_draft_or_broken_version_leaves_what_runs_as_it_is(stores: Stores, how: dict[str, object]) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], events_override=["C"], allowed_caps=["kv:*"]))
    await stores.templates.put(GUILD, Draft("t", TWO, events=["B"], paused=True, **how))  # type: ignore[arg-type]
    found = await stores.templates.get(GUILD, "t")
    assert (found.files, found.listens, found.allowed_caps) == (ONE, ["C"], ["kv:*"])
    assert (found.version, found.paused) == (1, False)


async def test_override_is_of_one_deployment(stores: Stores) -> None:
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"], events_override=["C"]))
    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"]))
    assert (await stores.templates.get(GUILD, "t")).listens == ["A"]


async def test_paused_template_is_marked_in_the_program_and_has_no_files_there(stores: Stores) -> None:
    async def seen() -> list[tuple[bool, bool]]:
        return [(t.paused, bool(t.files)) for t in await stores.program(GUILD.key)]

    await stores.templates.put(GUILD, Draft("t", ONE, events=["A"]))
    await stores.templates.set_paused(GUILD, "t", True)
    assert await seen() == [(True, False)]
    await stores.templates.put(GUILD, Draft("t", TWO, events=["A"]))
    assert await seen() == [(True, False)]
    await stores.templates.set_paused(GUILD, "t", False)
    assert await seen() == [(False, True)]
    with pytest.raises(NotFound):
        await stores.templates.set_paused(GUILD, "u", True)


async def test_program_keeps_the_order_of_creation(stores: Stores) -> None:
    for name in ("z", "a", "m"):
        await stores.templates.put(GUILD, Draft(name, ONE, events=["A"]))
    await stores.templates.put(GUILD, Draft("z", TWO, events=["B"]))
    assert await names(stores) == ["z", "a", "m"]
    assert [t.name for t in await stores.templates.list(GUILD)] == ["a", "m", "z"]


async def test_tenants_do_not_see_each_others_versions(stores: Stores) -> None:
    version = await stores.templates.put(GUILD, Draft("t", ONE))
    for other in (Id.user(1), Id.guild(2)):
        for call in (
            stores.versions.list(other, "t"),
            stores.versions.get(other, "t", version),
            stores.versions.deploy(other, "t", version),
            stores.versions.rollback(other, "t"),
            stores.versions.undelete(other, "t"),
        ):
            with pytest.raises(NotFound):
                await call
        assert await stores.program(other.key) == []


async def test_deployed_sources_of_a_tenant_are_bounded_together(stores: Stores) -> None:
    big = {f"{number}.luau": "-" * 250_000 for number in range(8)}
    for name in ("a", "b"):
        await stores.templates.put(GUILD, Draft(name, big))
    with pytest.raises(LimitExceeded, match="bytes of source together"):
        await stores.templates.put(GUILD, Draft("c", big))
    await stores.templates.put(GUILD, Draft("c", big, deploy=False))
    with pytest.raises(LimitExceeded, match="bytes of source together"):
        await stores.versions.deploy(GUILD, "c", 1)
    await stores.templates.put(GUILD, Draft("b", big))
    await stores.templates.put(Id.guild(2), Draft("c", big))
    with pytest.raises(LimitExceeded, match="the files have"):
        await stores.templates.put(GUILD, Draft("d", {f"{n}.luau": "-" * 250_000 for n in range(18)}, deploy=False))


@pytest.mark.parametrize(
    "draft",
    [
        Draft("t", ONE, allowed_caps=["x"] * 201),
        Draft("t", ONE, allowed_caps=["x" * 1_025]),
        Draft("t", ONE, allowed_caps=["\0"]),
        Draft("t", ONE, message="x" * 2_001),
        Draft("t", ONE, error_channel="general"),
    ],
)
async def test_what_is_said_of_a_template_is_bounded(stores: Stores, draft: Draft) -> None:
    with pytest.raises((LimitExceeded, RequestError)):
        await stores.templates.put(GUILD, draft)
    assert await stores.templates.list(GUILD) == []
