"""Versions of templates over HTTP, below ``/guilds/{id}/templates/{name}`` and ``/users/{id}/...``, for root users.

- ``GET /versions?limit&before``: the saves, newest first; ``GET /versions/{number}``: one with its files.
- ``POST /deploy {"version"}``: run a saved version, with its entry and its own events.
- ``POST /rollback {"version"?}``: run what ran before, or that version.
- ``POST /undelete``: bring back a template that was removed, as it was.

All three answer when the owning VM runs it. A version that was never evaluated, or that failed, is evaluated first: 422
where it fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT, Principal
from pytw.api.evaluation import evaluate
from pytw.api.numbers import limit_of, number
from pytw.api.running import TENANT, owner_of
from pytw.api.templates import template_name, when_deployed
from pytw.limits import TEMPLATE_VERSIONS_MAX

if TYPE_CHECKING:
    from pytw.storage.templateversions import Version

VERSIONS_SHOWN = 100
#: PostgreSQL's bigint.
_NUMBER_MAX = (1 << 63) - 1

Number = Annotated[int, Meta(ge=1, le=_NUMBER_MAX)]


class Deploy(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST deploy."""

    version: Number


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST rollback, which may be empty."""

    version: Number | None = None


_deploy = msgspec.json.Decoder(Deploy)
_rollback = msgspec.json.Decoder(Rollback)


def routes() -> list[web.RouteDef]:
    place = TENANT + "/templates/{name}"
    return [
        web.get(place + "/versions", list_),
        web.get(place + "/versions/{number}", get),
        web.post(place + "/deploy", deploy),
        web.post(place + "/rollback", rollback),
        web.post(place + "/undelete", undelete),
    ]


async def list_(request: web.Request) -> web.Response:
    await require_root(request)
    limit = limit_of(request, VERSIONS_SHOWN, TEMPLATE_VERSIONS_MAX)
    before = number(request.query["before"], "before", _NUMBER_MAX) if "before" in request.query else None
    owner, name = owner_of(request), template_name(request)
    found = await request.app[CONTEXT].versions().list(owner, name, limit=limit, before=before)
    return answer({"versions": [_shown(version) for version in found]})


async def get(request: web.Request) -> web.Response:
    await require_root(request)
    wanted = number(request.match_info["number"], "the version", _NUMBER_MAX)
    owner, name = owner_of(request), template_name(request)
    version, files = await request.app[CONTEXT].versions().get(owner, name, wanted)
    return answer({**_shown(version), "files": files})


async def deploy(request: web.Request) -> web.Response:
    who = await require_root(request)
    return await _run(request, (await body_of(request, _deploy)).version, who)


async def rollback(request: web.Request) -> web.Response:
    who = await require_root(request)
    asked = await body_of(request, _rollback) if request.can_read_body else Rollback()
    if asked.version is not None:
        return await _run(request, asked.version, who)
    context, owner, name = request.app[CONTEXT], owner_of(request), template_name(request)
    await context.versions().rollback(owner, name, author=who.name)
    return await when_deployed(context, owner, name)


async def undelete(request: web.Request) -> web.Response:
    await require_root(request)
    context, owner, name = request.app[CONTEXT], owner_of(request), template_name(request)
    await context.versions().undelete(owner, name)
    return await when_deployed(context, owner, name)


async def _run(request: web.Request, wanted: int, who: Principal) -> web.Response:
    context, owner, name = request.app[CONTEXT], owner_of(request), template_name(request)
    versions = context.versions()
    version, files = await versions.get(owner, name, wanted)
    events = None
    if version.events is None or version.error is not None:
        found = await evaluate(context, owner.key, name, files, version.entry)
        if found.error is not None:
            return found.refusal(f"version {wanted} does not run; what runs stays", version=wanted)
        events = found.events
    await versions.deploy(owner, name, wanted, events=events, author=who.name)
    return await when_deployed(context, owner, name)


def _shown(version: Version) -> dict[str, Any]:
    return {
        "version": version.number,
        "digest": version.digest,
        "runs": version.runs,
        "deployed_at": version.deployed_at,
        "error": version.error,
        "author": version.author,
        "message": version.message,
        "created_at": version.created_at,
        "entry": version.entry,
        "events": version.events,
        "file_count": len(version.files),
        "bytes": version.bytes,
    }
