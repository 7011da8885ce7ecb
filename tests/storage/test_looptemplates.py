from __future__ import annotations

from typing import Any

import pytest

from pytw import values
from pytw.errors import LimitExceeded, NotReady, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import TEMPLATE_CAPS_MAX, TEMPLATE_MESSAGE_BYTES_MAX
from pytw.storage import looptemplates
from pytw.storage.looprecords import asked
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.stores import Stores
from pytw.storage.templatechoice import choose, choose_versions
from pytw.storage.tenants import TenantStore
from pytw.types import Draft, TenantState
from tests.storage.templates_contract import GUILD, ONE, TWO, Make, TemplatesContract

SCOPE = ["templates"]


class TestContract(TemplatesContract):
    @pytest.fixture
    def make(self, stores: Stores) -> Make:
        return lambda limits=None: LoopTemplateStore(stores.db, limits)


async def seen(stores: Stores) -> dict[str, Any]:
    """What a loop finds, by key."""
    found = await stores.kv.find(GUILD.key, "%%", SCOPE, limit=100)
    return {record.key: values.unpack(record.value) for record in found}


async def data(stores: Stores) -> Any:
    return (await stores.tenants.tenant_state(GUILD.key)).data


async def test_record_has_the_form_of_the_reference(stores: Stores) -> None:
    await stores.loop_templates.put(GUILD, Draft("t", TWO, events=["A"], allowed_caps=["kv:*"]))
    value = (await seen(stores))["t"]
    form = {
        "type": "custom",
        "name": "t",
        "content": TWO,
        "allowed_caps": ["kv:*"],
        "paused": False,
        "language": "luau",
    }
    assert {key: value[key] for key in form} == form
    assert isinstance(value["content"], values.LazyStringMap)


async def test_tenant_data_says_whether_there_are_templates(stores: Stores) -> None:
    templates = stores.loop_templates
    await templates.put(GUILD, Draft("t", ONE))
    assert (await data(stores))["builtins_havetemplates"] is True
    await templates.set_paused(GUILD, "t", True)
    assert (await data(stores))["builtins_havetemplates"] is False
    await templates.set_paused(GUILD, "t", False)
    assert (await data(stores))["builtins_havetemplates"] is True
    await templates.remove(GUILD, "t")
    assert (await data(stores))["builtins_havetemplates"] is False


async def test_paused_template_is_where_no_loop_looks_and_keeps_its_place(stores: Stores) -> None:
    templates = stores.loop_templates
    await templates.put(GUILD, Draft("t", ONE, events=["A"]))
    born = (await templates.get(GUILD, "t")).created_at
    await templates.set_paused(GUILD, "t", True)
    assert await seen(stores) == {}
    await templates.set_paused(GUILD, "t", False)
    assert list(await seen(stores)) == ["t"]
    assert (await templates.get(GUILD, "t")).created_at == born


async def test_rest_of_the_tenants_state_is_left_alone(stores: Stores) -> None:
    state = TenantState(frozenset({"A", "B"}), {"mine": [1, None], "builtins_eventrefs": {"B": {"system": True}}})
    await stores.tenants.set_tenant_state(GUILD.key, state)
    await stores.loop_templates.put(GUILD, Draft("t", ONE, events=["A", "B", "C"]))
    found = await stores.tenants.tenant_state(GUILD.key)
    assert (found.events, found.data["mine"]) == ({"A", "B", "C"}, [1, None])
    await stores.loop_templates.remove(GUILD, "t")
    found = await stores.tenants.tenant_state(GUILD.key)
    assert (found.events, found.data["builtins_eventrefs"]) == ({"A", "B"}, {"B": {"system": True}})


async def test_function_for_every_event_adds_none(stores: Stores) -> None:
    await stores.loop_templates.put(GUILD, Draft("t", ONE, events=["*"]))
    assert (await stores.tenants.gate(GUILD.key)).events == DEFAULT_EVENTS


async def test_template_never_has_the_key_that_a_loops_own_modules_have(stores: Stores) -> None:
    await stores.loop_templates.put(GUILD, Draft("main", ONE))
    assert "main" not in await seen(stores)


class TestWrittenByALoop:
    """Records under keys that the loop chose."""

    async def write(self, stores: Stores, key: str, **fields: Any) -> None:
        value = {"type": "custom", "content": values.LazyStringMap(ONE), "allowed_caps": ["*"], "paused": False}
        await stores.kv.set(GUILD.key, key, SCOPE, values.pack({**value, "language": "luau", **fields}))

    async def test_is_listed_and_shown(self, stores: Stores) -> None:
        await self.write(stores, "k3yOf16LettersXX", name="t")
        found = await stores.loop_templates.get(GUILD, "t")
        assert (found.files, found.listens, found.version, found.paused) == (ONE, [], 1, False)

    async def test_is_replaced_under_its_own_key(self, stores: Stores) -> None:
        await self.write(stores, "k3yOf16LettersXX", name="t")
        await stores.loop_templates.put(GUILD, Draft("t", TWO, events=["A"]))
        assert {key: value["content"] for key, value in (await seen(stores)).items()} == {"k3yOf16LettersXX": TWO}

    async def test_of_two_with_one_name_one_is_left(self, stores: Stores) -> None:
        await self.write(stores, "first", name="t")
        await self.write(stores, "second", name="t")
        await stores.loop_templates.put(GUILD, Draft("t", TWO))
        assert list(await seen(stores)) == ["first"]

    async def test_all_of_a_name_are_removed(self, stores: Stores) -> None:
        await self.write(stores, "first", name="t")
        await self.write(stores, "second", name="t")
        await stores.loop_templates.remove(GUILD, "t")
        assert await seen(stores) == {}

    async def test_content_as_a_plain_table_is_shown(self, stores: Stores) -> None:
        await self.write(stores, "k", name="t", content=dict(ONE))
        assert (await stores.loop_templates.get(GUILD, "t")).files == ONE

    async def test_what_is_no_template_hides_no_other(self, stores: Stores) -> None:
        await stores.kv.set(GUILD.key, "odd", SCOPE, values.pack([1]))
        await self.write(stores, "nameless")
        await self.write(stores, "k", name="t")
        assert [template.name for template in await stores.loop_templates.list(GUILD)] == ["t"]


async def test_template_that_no_value_holds_is_refused(stores: Stores) -> None:
    big = {"init.luau": "-" * 200_000, "b.luau": "-" * 100_000}
    with pytest.raises(LimitExceeded, match="one value of the key-value store"):
        await stores.loop_templates.put(GUILD, Draft("t", big))


async def test_templates_together_stay_what_a_loop_reads_at_once(stores: Stores) -> None:
    big = {"init.luau": "\x01" * 43_000}
    with pytest.raises(LimitExceeded, match="a loop reads"):
        for number in range(40):
            await stores.loop_templates.put(GUILD, Draft(f"t{number}", big))
    await stores.loop_templates.put(GUILD, Draft("t0", big))
    await stores.loop_templates.remove(GUILD, "t1")


async def test_entry_is_init(stores: Stores) -> None:
    with pytest.raises(RequestError, match="starts at init"):
        await stores.loop_templates.put(GUILD, Draft("t", ONE, entry="other"))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"error_channel": "general"}, RequestError),
        ({"allowed_caps": ["x"] * (TEMPLATE_CAPS_MAX + 1)}, LimitExceeded),
        ({"message": "x" * (TEMPLATE_MESSAGE_BYTES_MAX + 1)}, LimitExceeded),
    ],
)
async def test_what_is_said_of_a_template_is_checked_as_everywhere(
    stores: Stores, more: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await stores.loop_templates.put(GUILD, Draft("t", ONE, **more))
    assert await stores.loop_templates.list(GUILD) == []


async def test_state_that_a_script_changes_meanwhile_is_not_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is made anew from what the script wrote between reading and writing."""
    reads = 0

    class Interrupted(TenantStore):
        async def tenant_state(self, tenant: int) -> TenantState:
            nonlocal reads
            reads += 1
            found = await super().tenant_state(tenant)
            if reads == 1:
                await stores.tenants.set_tenant_state(tenant, TenantState(found.events | {"S"}, {"mine": 1}))
            return found

    monkeypatch.setattr(looptemplates, "TenantStore", Interrupted)
    await stores.loop_templates.put(GUILD, Draft("t", ONE, events=["A"]))
    found = await stores.tenants.tenant_state(GUILD.key)
    assert found.events >= {"S", "A"} and found.data["mine"] == 1
    assert reads == 2


class TestAsked:
    def test_event_of_nobody_is_added_with_its_asker(self) -> None:
        assert asked(TenantState(frozenset(), {}), "t", {"A"}) == ({"A"}, {"A": {"t": True}})

    def test_event_that_was_there_stays_nobodys(self) -> None:
        assert asked(TenantState(frozenset({"A"}), {}), "t", {"A"}) == ({"A"}, {})

    def test_event_goes_with_its_last_asker(self) -> None:
        both = TenantState(frozenset({"A"}), {"builtins_eventrefs": {"A": {"t": True, "u": True}}})
        events, refs = asked(both, "t", set())
        assert (events, refs) == ({"A"}, {"A": {"u": True}})
        assert asked(TenantState(events, {"builtins_eventrefs": refs}), "u", set()) == (frozenset(), {})

    def test_references_of_another_form_are_left_out(self) -> None:
        assert asked(TenantState(frozenset(), {"builtins_eventrefs": []}), "t", {"A"}) == ({"A"}, {"A": {"t": True}})
        odd = TenantState(frozenset({"A"}), {"builtins_eventrefs": {"A": True}})
        assert asked(odd, "t", set()) == ({"A"}, {"A": True})


async def test_what_workers_say_decides(stores: Stores) -> None:
    assert choose(stores, loop_mode=True) is stores.loop_templates
    assert choose(stores, loop_mode=False) is stores.templates
    assert choose_versions(stores, loop_mode=False) is stores.versions
    with pytest.raises(RequestError, match="there is the version that runs and no other"):
        choose_versions(stores, loop_mode=True)
    for choice in (choose, choose_versions):
        with pytest.raises(NotReady):
            choice(stores, loop_mode=None)


@pytest.mark.parametrize("more", [{"deploy": False}, {"error": "init:1: no"}, {"shop": "$shop/x#1"}])
async def test_drafts_broken_ones_and_the_shop_are_refused(stores: Stores, more: Any) -> None:
    with pytest.raises(RequestError, match="in loop mode a template is one record"):
        await stores.loop_templates.put(GUILD, Draft("t", ONE, **more))
    assert await stores.loop_templates.list(GUILD) == []
