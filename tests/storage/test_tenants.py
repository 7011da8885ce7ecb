from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytw.errors import Conflict, LimitExceeded, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import TENANT_DATA_BYTES_MAX
from pytw.storage.stores import Stores
from pytw.types import Draft, Id, TenantState


async def test_revision_grows_and_guards(stores: Stores) -> None:
    assert (await stores.tenants.tenant_state(1)).revision == 0
    await stores.tenants.set_tenant_state(1, TenantState(frozenset(), {}))
    await stores.tenants.set_tenant_state(1, TenantState(frozenset({"A"}), {}), if_revision=1)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await stores.tenants.set_tenant_state(1, TenantState(frozenset({"B"}), {}), if_revision=1)
    state = await stores.tenants.tenant_state(1)
    assert (state.revision, state.events) == (2, {"A"})


async def test_ban_of_an_unknown_tenant_keeps_the_default_events(stores: Stores) -> None:
    await stores.tenants.set_banned(1, True)
    gate = await stores.tenants.gate(1)
    assert (gate.events, gate.banned) == (DEFAULT_EVENTS, True)
    await stores.tenants.set_banned(1, False)
    assert not (await stores.tenants.gate(1)).banned


async def test_gates_are_those_of_one_worker(stores: Stores) -> None:
    for number in range(6):
        for owner in (Id.guild(number << 22), Id.user(number << 22)):
            await stores.tenants.set_tenant_state(owner.key, TenantState(frozenset({str(number)}), {}))
    await stores.templates.put(Id.guild(7 << 22), Draft("t", {"init.luau": ""}, events=["X"]))
    gates = {gate.tenant: gate for gate in await stores.tenants.gates(1, 3)}
    expected = [owner(number << 22).key for number in (1, 4) for owner in (Id.guild, Id.user)] + [Id.guild(7 << 22).key]
    assert sorted(gates) == sorted(expected)
    assert gates[Id.guild(7 << 22).key].events == DEFAULT_EVENTS | {"X"}


async def test_one_tenants_gate_equals_its_gate_among_all(stores: Stores) -> None:
    await stores.templates.put(Id.user(5), Draft("t", {"init.luau": ""}, events=["X"]))
    await stores.tenants.set_banned(Id.guild(5).key, True)
    await stores.tenants.set_tenant_state(Id.guild(6).key, TenantState(frozenset(), {}))
    for gate in await stores.tenants.gates(0, 1):
        assert await stores.tenants.gate(gate.tenant) == gate


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (TenantState(frozenset(), {"x": "y" * TENANT_DATA_BYTES_MAX}), LimitExceeded),
        (TenantState(frozenset({""}), {}), RequestError),
        (TenantState(frozenset({"x" * 200}), {}), RequestError),
        (TenantState(frozenset({"a\0"}), {}), RequestError),
        (TenantState(frozenset(), {"x": object()}), RequestError),
        (TenantState(frozenset(), {"x": "\0"}), RequestError),
    ],
)
async def test_state_that_cannot_be_kept_is_refused(stores: Stores, state: TenantState, error: type[Exception]) -> None:
    with pytest.raises(error):
        await stores.tenants.set_tenant_state(1, state)
    assert (await stores.tenants.tenant_state(1)).revision == 0


async def test_two_first_writers_lose_nothing(stores: Stores) -> None:
    read = await stores.tenants.tenant_state(1)
    wanted = [TenantState(read.events | {name}, {name: 1}) for name in "AB"]
    stored = await asyncio.gather(*(stores.tenants.update_tenant_state(1, read, one) for one in wanted))
    state = await stores.tenants.tenant_state(1)
    assert (state.events, state.data, state.revision) == (DEFAULT_EVENTS | {"A", "B"}, {"A": 1, "B": 1}, 2)
    assert state == max(stored, key=lambda one: one.revision)


async def test_update_without_a_base_replaces(stores: Stores) -> None:
    await stores.tenants.set_tenant_state(1, TenantState(frozenset({"A"}), {"a": 1}))
    await stores.tenants.update_tenant_state(1, None, TenantState(frozenset({"B"}), {"b": 1}))
    state = await stores.tenants.tenant_state(1)
    assert (state.events, state.data) == ({"B"}, {"b": 1})


async def test_update_leaves_the_ban_alone(stores: Stores) -> None:
    read = await stores.tenants.tenant_state(1)
    await stores.tenants.set_banned(1, True)
    stored = await stores.tenants.update_tenant_state(1, read, TenantState(frozenset({"A"}), {}, banned=False))
    assert stored.banned
    assert (await stores.tenants.gate(1)).banned


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TenantState(frozenset(), {"a": "x" * 200_000}), TenantState(frozenset(), {"b": "x" * 200_000})),
        (
            TenantState(frozenset(f"a{n}" for n in range(60)), {}),
            TenantState(frozenset(f"b{n}" for n in range(60)), {}),
        ),
    ],
)
async def test_what_two_writers_want_together_has_the_same_bounds(
    stores: Stores, first: TenantState, second: TenantState
) -> None:
    base = TenantState(frozenset(), {})
    await stores.tenants.update_tenant_state(1, None, base)
    read = await stores.tenants.tenant_state(1)
    await stores.tenants.update_tenant_state(1, read, first)
    with pytest.raises(LimitExceeded):
        await stores.tenants.update_tenant_state(1, read, second)
    state = await stores.tenants.tenant_state(1)
    assert (state.events, state.data) == (first.events, first.data)


_DELTA = st.tuples(
    st.sets(st.sampled_from("ABCDEF"), max_size=3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(-9, 9), max_size=2),
)


_UNUSED = itertools.count(1000)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deltas=st.lists(_DELTA, min_size=2, max_size=8))
async def test_of_many_writers_at_once_none_is_lost(stores: Stores, deltas: list) -> None:
    """Each adds events of its own and writes below a key of its own and below a shared one, all from one reading."""
    tenants, tenant = stores.tenants, next(_UNUSED)
    await tenants.update_tenant_state(tenant, None, TenantState(frozenset({"gone"}), {"shared": {"gone": 1}}))
    read = await tenants.tenant_state(tenant)

    async def write(number: int, events: set[str], data: dict[str, int]) -> None:
        own = {f"{number}{event}" for event in events}
        wanted = {"shared": {f"{number}{key}": value for key, value in data.items()}, str(number): data}
        await tenants.update_tenant_state(tenant, read, TenantState(frozenset(own), wanted))

    await asyncio.gather(*(write(number, *delta) for number, delta in enumerate(deltas)))
    state = await tenants.tenant_state(tenant)
    assert state.events == {f"{number}{event}" for number, (events, _) in enumerate(deltas) for event in events}
    assert state.data == {
        **{str(number): data for number, (_, data) in enumerate(deltas)},
        "shared": {f"{number}{key}": value for number, (_, data) in enumerate(deltas) for key, value in data.items()},
    }
    assert state.revision == len(deltas) + 1
