"""Keys of a hostile template, from Luau to PostgreSQL and back."""

from __future__ import annotations

import pytest

from .test_storage_calls import World, world  # noqa: F401 - a fixture
from .workerlike_contract import B

MOMENTS = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_first_and_last_moments_come_back(world: World, moment: str) -> None:  # noqa: F811
    body = f"""
    local at = require("@antiraid/datetime").UTC:fromString("{moment}")
    ctx.KV:set("k", 1, {{"s"}}, {{expires_at = at}})
    return ctx.KV:getrecord("k", {{"s"}}).expires_at == at
    """
    assert await world.run(body) is True


async def test_a_moment_before_all_others_burns_no_attempts_of_another_tenants_key(world: World) -> None:  # noqa: F811
    at = f'require("@antiraid/datetime").UTC:fromString("{MOMENTS[0]}")'
    await world.run(f'ctx.KV:set("k", 1, {{"s"}}, {at})')
    await world.run(f'ctx.KV:set("k", 1, {{"s"}}, {at} + require("@antiraid/datetime").timedelta_seconds(1))', tenant=B)
    found = await world.stores.claim_expired(0, 1, limit=4)
    assert [record.key for _, record in found] == ["k", "k"]
