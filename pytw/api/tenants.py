"""A tenant's state and its ban over HTTP: ``/guilds/{id}/state``, ``/guilds/{id}/ban``, the same for users, for root users.

PUT and DELETE of the ban answer when it is in force, or lifted, in the owning worker: handlers in flight have ended then.
``"running": false`` where that worker is away; it reads the ban when it comes back, before it takes events.
"""

from __future__ import annotations

import logging

from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.context import CONTEXT, Tenants
from pytw.api.running import TENANT, owner_of, when_running
from pytw.errors import Unavailable

log = logging.getLogger("staff")


def routes() -> list[web.RouteDef]:
    return [
        web.get(TENANT + "/state", show),
        web.put(TENANT + "/ban", ban),
        web.delete(TENANT + "/ban", unban),
    ]


async def show(request: web.Request) -> web.Response:
    await require_root(request)
    state = await _store(request).tenant_state(owner_of(request).key)
    return answer(
        {"events": sorted(state.events), "data": state.data, "banned": state.banned, "revision": state.revision}
    )


async def ban(request: web.Request) -> web.Response:
    return await _set_banned(request, banned=True)


async def unban(request: web.Request) -> web.Response:
    return await _set_banned(request, banned=False)


async def _set_banned(request: web.Request, *, banned: bool) -> web.Response:
    who = await require_root(request)
    owner = owner_of(request)
    await _store(request).set_banned(owner.key, banned)
    log.info("%s by %s", "banned" if banned else "ban lifted", who.name, extra={"tenant": owner.key})
    return await when_running(request.app[CONTEXT], owner, {"banned": banned})


def _store(request: web.Request) -> Tenants:
    tenants = request.app[CONTEXT].tenants
    if tenants is None:
        raise Unavailable("this server keeps no state of tenants")
    return tenants
