"""Many tenants whose workers are told of one change."""

from __future__ import annotations

import asyncio

from pytw.api.running import FLUSH_TENANTS_MAX, flush_others
from pytw.errors import NotReady
from tests.api.conftest import Api


async def test_every_tenant_is_told_and_those_whose_worker_is_away_are_counted(api: Api) -> None:
    told: list[int] = []

    async def refresh(tenant: int) -> None:
        told.append(tenant)
        if tenant % 10 == 0:
            raise NotReady("the worker is not connected")

    api.workers.refresh_tenant = refresh  # type: ignore[method-assign]
    assert await flush_others(api.context, range(100)) == {"tenants": 100, "away": 10}
    assert sorted(told) == list(range(100))


async def test_so_many_tenants_are_told_at_once(api: Api) -> None:
    at_once = most = 0

    async def refresh(_tenant: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1

    api.workers.refresh_tenant = refresh  # type: ignore[method-assign]
    await flush_others(api.context, range(3 * FLUSH_TENANTS_MAX))
    assert most == FLUSH_TENANTS_MAX
