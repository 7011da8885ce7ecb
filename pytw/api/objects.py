"""``GET /objects/...``: what a signed URL of an object on disk leads to.

A script chose the bytes, and our address shows them: they are for saving, and no browser may take them for a page.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from pytw.api.context import CONTEXT
from pytw.errors import NotFound
from pytw.storage.objectlinks import owner_of


def routes() -> list[web.RouteDef]:
    return [web.get("/objects/{kind}/{tenant}/{key:.+}", read)]


async def read(request: web.Request) -> web.Response:
    """The object. Raises: Forbidden: not a URL of ours, or expired. NotFound."""
    objects = request.app[CONTEXT].objects
    owner = owner_of(request.match_info["kind"], request.match_info["tenant"])
    if objects is None or owner is None:
        raise NotFound("there is no such page")
    key = request.match_info["key"]
    data = await objects.open_link(
        owner, key, expires=request.query.get("expires", ""), signature=request.query.get("signature", "")
    )
    name = key.rpartition("/")[2]
    return web.Response(
        body=data,
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Cache-Control": "private, no-store",
            "Referrer-Policy": "no-referrer",
        },
    )
