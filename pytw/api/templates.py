"""The template store over HTTP: ``/guilds/{id}/templates`` and ``/users/{id}/templates``, for root users.

PUT takes ``{"files": {path: source}, "entry"?, "events"?, "allowed_caps"?, "error_channel"?, "message"?, "paused"?}``. What
does not compile is refused with file and line before anything is saved; a PUT, DELETE, pause or resume answers when the
owning VM runs the new state, with ``"running": false`` where that VM's worker is away and will read it when it comes back.
PUT's answer has ``warnings``, a list of sentences, where an event or a capability looks misspelt.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from pytw import luau
from pytw.api.answers import answer, failure
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.capabilities import capability_warnings
from pytw.api.context import CONTEXT
from pytw.api.eventnames import event_warnings
from pytw.api.running import TENANT, owner_of, when_running
from pytw.errors import Unavailable
from pytw.storage.templatechecks import checked_files, checked_name
from pytw.types import ENTRY, EVERY_CAPABILITY, LUAU_SUFFIXES, Draft, TemplateSource

if TYPE_CHECKING:
    from pytw.storage.templates import Template


class PutTemplate(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT. Without ``events`` they are the keys of what the entry returns."""

    files: dict[str, str]
    entry: str = ENTRY
    events: list[str] | None = None
    allowed_caps: list[str] | None = None
    error_channel: str | None = None
    message: str = ""
    paused: bool | None = None


_decoder = msgspec.json.Decoder(PutTemplate)


def routes() -> list[web.RouteDef]:
    place = TENANT + "/templates"
    return [
        web.get(place, list_),
        web.get(place + "/{name}", get),
        web.put(place + "/{name}", put),
        web.delete(place + "/{name}", delete),
        web.post(place + "/{name}/pause", pause),
        web.post(place + "/{name}/resume", resume),
    ]


async def list_(request: web.Request) -> web.Response:
    await require_root(request)
    found = await request.app[CONTEXT].templates().list(owner_of(request))
    return answer({"templates": [_shown(template) for template in found]})


async def get(request: web.Request) -> web.Response:
    await require_root(request)
    template = await request.app[CONTEXT].templates().get(owner_of(request), _name(request))
    return answer({**_shown(template), "entry": template.entry, "files": template.files or {}})


async def put(request: web.Request) -> web.Response:
    who = await require_root(request)
    context = request.app[CONTEXT]
    owner, name = owner_of(request), _name(request)
    asked = await body_of(request, _decoder)
    files = checked_files(asked.files, context.limits)
    if complaints := await _complaints(files):
        first = complaints[0]
        return failure(422, "script_error", f"{name} does not compile: {first['file']}:{first['line']}: {first['text']}",
                       errors=complaints)  # fmt: skip
    caps = [EVERY_CAPABILITY] if asked.allowed_caps is None else asked.allowed_caps
    source = TemplateSource(
        name=name,
        files={path: text.encode() for path, text in files.items()},
        events=frozenset(asked.events or ()),
        entry=asked.entry,
        allowed_caps=caps,
    )
    # Evaluated also where the events are given: an entry that raises would never run.
    try:
        events = await context.workers.check_template(owner.key, source)
    except Unavailable as error:
        raise type(error)(error.detail, hint="nothing was saved; try again in some seconds") from error
    version = await context.templates().put(
        owner,
        Draft(
            name,
            files,
            asked.entry,
            events,
            events_override=asked.events,
            allowed_caps=caps,
            error_channel=asked.error_channel,
            author=who.name,
            message=asked.message,
            paused=asked.paused,
        ),
    )
    saved = await context.templates().get(owner, name)
    told: dict[str, Any] = {"name": name, "version": version, "events": list(saved.listens), "paused": saved.paused}
    if warnings := [*event_warnings(saved.listens), *capability_warnings(caps)]:
        told["warnings"] = warnings
    return await when_running(context, owner, told)


async def delete(request: web.Request) -> web.Response:
    await require_root(request)
    context, owner, name = request.app[CONTEXT], owner_of(request), _name(request)
    await context.templates().remove(owner, name)
    return await when_running(context, owner, {"name": name, "removed": True})


async def pause(request: web.Request) -> web.Response:
    return await _set_paused(request, paused=True)


async def resume(request: web.Request) -> web.Response:
    return await _set_paused(request, paused=False)


async def _set_paused(request: web.Request, *, paused: bool) -> web.Response:
    await require_root(request)
    context, owner, name = request.app[CONTEXT], owner_of(request), _name(request)
    await context.templates().set_paused(owner, name, paused)
    return await when_running(context, owner, {"name": name, "paused": paused})


async def _complaints(files: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(files):
        if path.endswith(LUAU_SUFFIXES):
            found += [{"file": c.file, "line": c.line, "text": c.text} for c in luau.check(path, files[path])]
            # Some milliseconds for a large file: events in between.
            await asyncio.sleep(0)
    return found


def _name(request: web.Request) -> str:
    return checked_name(request.match_info["name"])


def _shown(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "version": template.version,
        "events": list(template.listens),
        "events_override": template.events_override,
        "allowed_caps": template.allowed_caps,
        "error_channel": template.error_channel,
        "paused": template.paused,
        "shop_ref": template.shop_ref,
        "created_at": template.created_at,
        "last_updated_at": template.last_updated_at,
    }
