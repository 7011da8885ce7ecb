"""What resources of tenants share: whose path it is, and the answer that comes when the owning VM runs the change."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pytw.api.answers import answer, snowflake
from pytw.api.context import ApiContext
from pytw.errors import Unavailable
from pytw.types import Id, OwnerType

#: In front of every resource of a tenant; `owner_of` reads it.
TENANT = "/{owner:guilds|users}/{id}"

_OWNERS = {"guilds": OwnerType.GUILD, "users": OwnerType.USER}


def owner_of(request: web.Request) -> Id:
    """The tenant of a path that begins with `TENANT`. Raises: RequestError: not a snowflake."""
    owner = request.match_info["owner"]
    return Id(_OWNERS[owner], snowflake(request.match_info["id"], f"the id of {owner}"))


async def when_running(context: ApiContext, owner: Id, body: dict[str, Any]) -> web.Response:
    """*body* with ``"running": true``, when the tenant's next event sees what was saved.

    202, ``"running": false`` and a hint where the worker of the tenant is away: it reads what was saved when it comes back.
    """
    try:
        await context.workers.refresh_tenant(owner.key)
    except Unavailable as error:
        hint = f"saved; the worker of this tenant is away ({error.detail}) and reads it when it comes back"
        return answer({**body, "running": False, "hint": hint}, status=202)
    return answer({**body, "running": True})


__all__ = ["TENANT", "owner_of", "when_running"]
