from __future__ import annotations

import pytest

from pytw.errors import Conflict, LimitExceeded, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import TENANT_DATA_BYTES_MAX
from pytw.storage.stores import Stores
from pytw.types import Id, TenantState


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
    await stores.templates.put(Id.guild(7 << 22), "t", {"init.luau": ""}, events=["X"])
    gates = {gate.tenant: gate for gate in await stores.tenants.gates(1, 3)}
    expected = [owner(number << 22).key for number in (1, 4) for owner in (Id.guild, Id.user)] + [Id.guild(7 << 22).key]
    assert sorted(gates) == sorted(expected)
    assert gates[Id.guild(7 << 22).key].events == DEFAULT_EVENTS | {"X"}


async def test_one_tenants_gate_equals_its_gate_among_all(stores: Stores) -> None:
    await stores.templates.put(Id.user(5), "t", {"init.luau": ""}, events=["X"])
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
