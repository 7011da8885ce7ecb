"""Objects over HTTP: for root users under ``/guilds/{id}/objects`` and ``/users/{id}/objects``, and what signed URLs lead to.

``GET .../objects?prefix=&limit=&after=`` lists; GET, PUT (the body is the content) and DELETE of ``.../objects/{key}`` do what
they say; ``POST .../objects`` takes over what the tenant has in the reference's bucket.

``GET /objects/...`` is a signed URL of an object on disk. A script chose the bytes, and our address shows them: they are for
saving, and no browser may take them for a page.
"""

from __future__ import annotations

import logging

from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import bytes_of
from pytw.api.context import CONTEXT, Objects
from pytw.api.numbers import limit_of
from pytw.api.running import TENANT, owner_of
from pytw.errors import NotFound, Unavailable
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_LIST_MAX
from pytw.storage.objectkeys import content_type, disposition
from pytw.storage.objectlinks import owner_of as owner_of_link

log = logging.getLogger("staff")


def routes() -> list[web.RouteDef]:
    place = TENANT + "/objects"
    return [
        web.get("/objects/{kind}/{tenant}/{key:.+}", read),
        web.get(place, list_),
        web.post(place, adopt),
        web.get(place + "/{key:.+}", get),
        web.put(place + "/{key:.+}", put),
        web.delete(place + "/{key:.+}", delete),
    ]


async def read(request: web.Request) -> web.Response:
    """The object of a signed URL. Raises: Forbidden: not a URL of ours, or expired. NotFound. Overloaded."""
    objects = request.app[CONTEXT].objects
    owner = owner_of_link(request.match_info["kind"], request.match_info["tenant"])
    if objects is None or owner is None:
        raise NotFound("there is no such page")
    key = request.match_info["key"]
    expires, signature = request.query.get("expires", ""), request.query.get("signature", "")
    async with request.app[CONTEXT].object_reads.turn():
        data = await objects.open_link(owner, key, expires=expires, signature=signature)
    return _content(request, key, data)


async def list_(request: web.Request) -> web.Response:
    """A page; ``after`` of the answer asks for the next, and is null on the last."""
    await require_root(request)
    limit = limit_of(request, OBJECT_LIST_MAX, OBJECT_LIST_MAX)
    found = await _objects(request).list(
        owner_of(request), request.query.get("prefix", ""), limit=limit + 1, after=request.query.get("after") or None
    )
    shown = [
        {"key": item.key, "size": item.size, "last_modified": item.last_modified, "etag": item.etag}
        for item in found[:limit]
    ]
    return answer({"objects": shown, "after": found[limit - 1].key if len(found) > limit else None})


async def adopt(request: web.Request) -> web.Response:
    await require_root(request)
    reference = request.app[CONTEXT].reference_objects
    if reference is None:
        raise Unavailable("this server has no object storage")
    found = await reference.adopt(owner_of(request))
    return answer({"taken": found.taken, "here": found.here, "left": found.left})


async def get(request: web.Request) -> web.Response:
    await require_root(request)
    key = request.match_info["key"]
    return _content(request, key, await _objects(request).get(owner_of(request), key))


async def put(request: web.Request) -> web.Response:
    who = await require_root(request)
    objects, owner, key = _objects(request), owner_of(request), request.match_info["key"]
    data = await bytes_of(request, OBJECT_BYTES_MAX)
    await objects.put(owner, key, data)
    log.info("object %r put by %s", key, who.name, extra={"tenant": owner.key})
    return answer({"key": key, "size": len(data)})


async def delete(request: web.Request) -> web.Response:
    who = await require_root(request)
    owner, key = owner_of(request), request.match_info["key"]
    await _objects(request).delete(owner, key)
    log.info("object %r removed by %s", key, who.name, extra={"tenant": owner.key})
    return answer({"key": key, "removed": True})


def _objects(request: web.Request) -> Objects:
    objects = request.app[CONTEXT].objects
    if objects is None:
        raise Unavailable("this server has no object storage")
    return objects


def _content(request: web.Request, key: str, data: bytes) -> web.Response:
    """The object, or the part of it that is asked for."""
    headers = {
        "Content-Type": content_type(key),
        "Content-Disposition": disposition(key),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
        "Referrer-Policy": "no-referrer",
        "Accept-Ranges": "bytes",
    }
    part = _part(request, len(data))
    if part is None:
        return web.Response(body=data, headers=headers)
    if not part:
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return web.Response(status=206, body=data[part.start : part.stop], headers=headers)


def _part(request: web.Request, size: int) -> range | None:
    """What ``Range`` asks for; empty where there is no such part, None where it asks for nothing that we know."""
    try:
        asked = request.http_range
    except ValueError:
        return None
    if asked.start is None and asked.stop is None:
        return None
    return range(*asked.indices(size))
