"""What resources of tenants share: whose path it is, and the answer that comes when the owning VM runs the change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from pytw.api.answers import answer
from pytw.api.context import ApiContext
from pytw.api.numbers import snowflake
from pytw.errors import Unavailable
from pytw.types import Id, OwnerType

#: In front of every resource of a tenant; `owner_of` reads it.
TENANT = "/{owner:guilds|users}/{id}"

#: Tenants that are refreshed at the same time.
FLUSH_TENANTS_MAX = 32

_OWNERS = {"guilds": OwnerType.GUILD, "users": OwnerType.USER}


def owner_of(request: web.Request) -> Id:
    """The tenant of a path that begins with `TENANT`. Raises: RequestError: not a snowflake."""
    owner = request.match_info["owner"]
    return Id(_OWNERS[owner], snowflake(request.match_info["id"], f"the id of {owner}"))


async def when_running(context: ApiContext, owner: Id, body: dict[str, Any]) -> web.Response:
    """*body* with ``"running": true``, when the tenant's next event sees what was saved.

    202, ``"running": false`` and a hint where the worker of the tenant is away: it reads what was saved when it comes back.
    """
    return told(body, await refresh(context, owner))


async def refresh(context: ApiContext, owner: Id) -> Unavailable | None:
    """Have the tenant's worker read what was saved. Returns why it is away, None where it has read it."""
    try:
        await context.workers.refresh_tenant(owner.key)
    except Unavailable as error:
        return error
    return None


def told(body: dict[str, Any], away: Unavailable | None) -> web.Response:
    """The answer of `when_running` after `refresh`."""
    if away is None:
        return answer({**body, "running": True})
    hint = f"saved; the worker of this tenant is away ({away.detail}) and reads it when it comes back"
    return answer({**body, "running": False, "hint": hint}, status=202)


async def flush_others(context: ApiContext, tenants: Sequence[int]) -> dict[str, int]:
    """Have the workers of many tenants read their templates anew, `FLUSH_TENANTS_MAX` at a time.

    The reference's ``FlushOthers``, by which whoever changes what others run has them run it; there nothing ever asks for
    it (spec/http-schema-systems.md 5.9). `when_running` is its ``FlushSelf``.

    Returns: ``tenants``, and ``away``: those whose worker is away and reads it when it comes back.
    """
    away = 0

    async def flush(tenant: int) -> None:
        nonlocal away
        try:
            await context.workers.refresh_tenant(tenant)
        except Unavailable:
            away += 1

    for start in range(0, len(tenants), FLUSH_TENANTS_MAX):
        await asyncio.gather(*(flush(tenant) for tenant in tenants[start : start + FLUSH_TENANTS_MAX]))
    return {"tenants": len(tenants), "away": away}


__all__ = ["TENANT", "flush_others", "owner_of", "refresh", "told", "when_running"]
