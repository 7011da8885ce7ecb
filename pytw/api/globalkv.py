"""What is published, for everybody: ``GET /global-kvs?scope&query&limit&after`` and ``GET /global-kvs/{scope}/{key}/{version}``.

Only approved versions are seen. A listing is ``{"items": [partial, ...], "after": cursor or null}``; the cursor goes into
``after`` of the next request. One version is ``{"partial", "data"}``, where data is
``{"type": "Value", "data", "opaque"}``, null where it is opaque, or ``{"type": "PurchaseRequired", "purchase_url"}``.

Source: reference (spec/http-schema-systems.md 1.3), with pages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.context import CONTEXT, GlobalKvs
from pytw.api.numbers import limit_of
from pytw.errors import NotFound, RequestError
from pytw.limits import GLOBAL_KV_FIND_ROWS_MAX
from pytw.types import GlobalRecord

PLACE = "/{scope}/{key}/{version}"


class Place(NamedTuple):
    """Which version a path names."""

    scope: str
    key: str
    version: int


def routes() -> list[web.RouteDef]:
    return [web.get("/global-kvs", find), web.get("/global-kvs" + PLACE, get)]


async def find(request: web.Request) -> web.Response:
    scope = request.query.get("scope")
    if scope is None:
        raise RequestError("scope is missing", hint="?scope=S says in which one to look")
    limit, after = rows_of(request), request.query.get("after") or None
    async with request.app[CONTEXT].public_reads.turn():
        found = await _published(request).find(scope, request.query.get("query", "%"), limit=limit, after=after)
    return answer({"items": [partial(record) for record in found.items], "after": found.after})


async def get(request: web.Request) -> web.Response:
    place = place_of(request)
    async with request.app[CONTEXT].public_reads.turn():
        record = await _published(request).get(*place)
    told: dict[str, Any]
    if record.price is not None:
        url = record.purchase_url(request.app[CONTEXT].frontend_url)
        told = {"type": "PurchaseRequired", "purchase_url": url}
    else:
        told = value(record, hidden=record.opaque)
    return answer({"partial": partial(record), "data": told})


def _published(request: web.Request) -> GlobalKvs:
    found = request.app[CONTEXT].global_kv
    if found is None:
        raise NotFound("there is no such page")
    return found


def place_of(request: web.Request) -> Place:
    """Raises: RequestError: the version is no number."""
    text = request.match_info["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise RequestError(f"not a version: {text[:40]!r}", hint="versions are whole numbers from 1")
    return Place(request.match_info["scope"], request.match_info["key"], int(text))


def rows_of(request: web.Request) -> int:
    """``?limit``; as much as a page may have by default. Raises: RequestError."""
    return limit_of(request, GLOBAL_KV_FIND_ROWS_MAX, GLOBAL_KV_FIND_ROWS_MAX)


def partial(record: GlobalRecord) -> dict[str, Any]:
    """`PartialGlobalKv` of the reference."""
    return {
        "key": record.key,
        "version": record.version,
        "owner_id": record.owner_id,
        "owner_type": record.owner_type,
        "price": record.price,
        "short": record.short,
        "public_metadata": orjson.Fragment(record.public_metadata),
        "scope": record.scope,
        "created_at": record.created_at,
        "last_updated_at": record.last_updated_at,
        "public_data": record.public_data,
        "review_state": record.review_state,
        "long": record.long,
    }


def value(record: GlobalRecord, *, hidden: bool) -> dict[str, Any]:
    data = None if hidden or record.data is None else orjson.Fragment(record.data)
    return {"type": "Value", "data": data, "opaque": record.opaque}


__all__ = ["PLACE", "Place", "partial", "place_of", "routes", "rows_of", "value"]
