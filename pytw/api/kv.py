"""The key-value store over HTTP, for root users, under ``/guilds/{id}/kv`` and ``/users/{id}/kv``.

``GET .../kv?query=&scope=&limit=&after=`` lists records of all scopes, or of those given (``scope`` may come several times), by
key: ``{"records": [...], "after": cursor or null}``. ``GET .../kv/record?key=&scope=`` is the record that a script would get,
``PUT .../kv/record`` writes ``{"key", "scopes", "value", "tagged"?, "expires_at"?, "resume"?, "if_version"?}``, and
``DELETE .../kv/record?key=&scope=`` (or ``?id=``) deletes what a script would. ``GET .../kv/scopes`` lists the scopes in use.

Values are plain JSON, where times and bytes are texts and come back as such if they are written again; with ``tagged=1`` they
are the tagged JSON of docs/values.md, which keeps every type.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from pytw import values
from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT, KvKeys
from pytw.api.numbers import limit_of
from pytw.api.running import TENANT, owner_of
from pytw.errors import Conflict, NotFound, RequestError, Unavailable
from pytw.limits import KV_FIND_ROWS_MAX
from pytw.types import KvRecord

LIST_DEFAULT = 100

log = logging.getLogger("staff")


class PutRecord(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT."""

    key: str
    scopes: list[str]
    value: Any
    tagged: bool = False
    expires_at: datetime | None = None
    resume: bool = False
    if_version: int | None = None


_decoder = msgspec.json.Decoder(PutRecord)


def routes() -> list[web.RouteDef]:
    place = TENANT + "/kv"
    return [
        web.get(place, list_),
        web.get(place + "/scopes", scopes),
        web.get(place + "/record", get),
        web.put(place + "/record", put),
        web.delete(place + "/record", delete),
    ]


async def list_(request: web.Request) -> web.Response:
    keys, tenant = await _asked(request)
    query = request.query
    limit = limit_of(request, LIST_DEFAULT, KV_FIND_ROWS_MAX)
    found, after = await keys.browse(
        tenant, query.get("query", "%"), _scopes(request), limit=limit, after=query.get("after")
    )
    tagged = _tagged(request)
    records = [
        {**_shown(one.record, tagged=tagged), "attempts": one.attempts, "due_at": one.due_at, "given_up": one.given_up}
        for one in found
    ]
    return answer({"records": records, "after": after})


async def scopes(request: web.Request) -> web.Response:
    keys, tenant = await _asked(request)
    return answer({"scopes": await keys.list_scopes(tenant)})


async def get(request: web.Request) -> web.Response:
    keys, tenant = await _asked(request)
    key = request.query.get("key", "")
    record = await keys.get(tenant, key, _scopes(request))
    if record is None:
        raise NotFound(f"there is no key {key[:80]!r} with these scopes")
    return answer(_shown(record, tagged=_tagged(request)))


async def put(request: web.Request) -> web.Response:
    who = await require_root(request)
    keys, tenant = await _asked(request)
    asked = await body_of(request, _decoder)
    try:
        value = values.pack(values.from_tagged_json(asked.value) if asked.tagged else asked.value)
    except (ValueError, TypeError) as error:
        raise RequestError(f"the value cannot be stored: {error}") from None
    written = await keys.set(
        tenant,
        asked.key,
        asked.scopes,
        value,
        asked.expires_at,
        resume=asked.resume,
        if_version=asked.if_version,
    )
    if not written.written:
        raise Conflict(f"the key has version {written.version}, not {asked.if_version}; nothing was written")
    log.info("key %r set by %s", asked.key, who.name, extra={"tenant": tenant})
    return answer({"key": asked.key, "version": written.version})


async def delete(request: web.Request) -> web.Response:
    who = await require_root(request)
    keys, tenant = await _asked(request)
    record_id, key = request.query.get("id"), request.query.get("key", "")
    if record_id is not None:
        gone = int(await keys.delete_by_id(tenant, record_id))
    else:
        gone = await keys.delete(tenant, key, _scopes(request))
    if not gone:
        raise NotFound("there is no such record")
    log.info("%d records %r deleted by %s", gone, record_id or key, who.name, extra={"tenant": tenant})
    return answer({"deleted": gone})


async def _asked(request: web.Request) -> tuple[KvKeys, int]:
    await require_root(request)
    keys = request.app[CONTEXT].kv
    if keys is None:
        raise Unavailable("this server has no key-value store")
    return keys, owner_of(request).key


def _scopes(request: web.Request) -> list[str]:
    return request.query.getall("scope", [])


def _tagged(request: web.Request) -> bool:
    return request.query.get("tagged", "0") not in ("0", "")


def _shown(record: KvRecord, *, tagged: bool) -> dict[str, Any]:
    value = values.unpack(record.value)
    return {
        "id": record.id,
        "key": record.key,
        "scopes": record.scopes,
        "value": values.to_tagged_json(value) if tagged else value,
        "version": record.version,
        "expires_at": record.expires_at,
        "resume": record.resume,
        "created_at": record.created_at,
        "last_updated_at": record.last_updated_at,
    }
