"""The template store over HTTP: ``/guilds/{id}/templates`` and ``/users/{id}/templates``, for root users.

PUT takes ``{"files": {path: source}, "entry"?, "events"?, "allowed_caps"?, "error_channel"?, "message"?, "paused"?,
"deploy"?}``, or ``{"shop": "$shop/name#version"}`` in place of files. What does not compile, or whose entry fails, is saved
as a version that does not run: 422 with the version's number and the errors, and what runs stays. ``"deploy": false`` saves
a draft. A PUT, DELETE, pause or resume answers when the owning VM runs the new state, with ``"running": false`` where that
VM's worker is away and will read it when it comes back. PUT's answer has ``warnings``, a list of sentences, where an event or
a capability looks misspelt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.capabilities import capability_warnings
from pytw.api.context import CONTEXT, ApiContext
from pytw.api.evaluation import Evaluated, evaluate
from pytw.api.eventnames import event_warnings
from pytw.api.running import TENANT, owner_of, refresh, told, when_running
from pytw.errors import Unavailable
from pytw.storage.templatechecks import checked_files, checked_name, wanted_of_shop
from pytw.types import ENTRY, Draft, Id

if TYPE_CHECKING:
    from pytw.storage.templates import Template


class PutTemplate(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT. Without ``events`` they are the keys of what the entry returns."""

    files: dict[str, str] = {}
    entry: str = ENTRY
    events: list[str] | None = None
    allowed_caps: list[str] | None = None
    error_channel: str | None = None
    message: str = ""
    paused: bool | None = None
    deploy: bool = True
    shop: str | None = None


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
    template = await request.app[CONTEXT].templates().get(owner_of(request), template_name(request))
    return answer({**_shown(template), "entry": template.entry, "files": template.files or {}})


async def put(request: web.Request) -> web.Response:
    who = await require_root(request)
    context = request.app[CONTEXT]
    asked = await body_of(request, _decoder)
    draft = Draft(
        template_name(request),
        asked.files,
        asked.entry,
        events_override=asked.events,
        allowed_caps=asked.allowed_caps,
        error_channel=asked.error_channel,
        author=who.name,
        message=asked.message,
        paused=asked.paused,
        deploy=asked.deploy,
        shop=asked.shop,
    )
    return await _put(context, owner_of(request), draft)


async def _put(context: ApiContext, owner: Id, draft: Draft) -> web.Response:
    templates = context.templates()
    if templates.keeps_versions and wanted_of_shop(draft) is not None:
        await templates.put(owner, draft)
        return await when_deployed(context, owner, draft.name)
    if not templates.keeps_versions and (draft.shop is not None or not draft.deploy):
        # Refused there, with the reason.
        await templates.put(owner, draft)
    draft = replace(draft, files=checked_files(draft.files, context.limits))
    # Evaluated also where the events are given: an entry that raises would never run.
    try:
        found = await evaluate(context, owner.key, draft.name, draft.files, draft.entry)
    except Unavailable as error:
        if draft.deploy:
            raise type(error)(error.detail, hint="nothing was saved; try again in some seconds") from error
        found = Evaluated()
    if found.error is None:
        version = await templates.put(owner, replace(draft, events=found.events))
    elif templates.keeps_versions:
        version = await templates.put(owner, replace(draft, error=found.error.detail))
        return found.refusal(f"saved as version {version}, which does not run; what runs stays", version=version)
    else:
        return found.refusal("nothing was saved")
    if not draft.deploy:
        return answer({"name": draft.name, "version": version, "deployed": False, "events": found.events or []})
    return await when_deployed(context, owner, draft.name)


async def when_deployed(context: ApiContext, owner: Id, name: str) -> web.Response:
    """`when_running`, with what is told of a template after a change of what it runs.

    The worker hears of it first: what cannot be read any more was saved nonetheless.
    """
    away = await refresh(context, owner)
    return told(await _deployed(context, owner, name), away)


async def _deployed(context: ApiContext, owner: Id, name: str) -> dict[str, Any]:
    saved = await context.templates().get(owner, name)
    shown: dict[str, Any] = {
        "name": name,
        "version": saved.version,
        "events": list(saved.listens),
        "paused": saved.paused,
    }
    if saved.shop_ref is not None:
        shown |= {"shop_ref": saved.shop_ref, "shop_version": saved.shop_version, "allowed_caps": saved.allowed_caps}
    warnings = [*event_warnings(saved.listens), *capability_warnings(saved.allowed_caps)]
    if context.tenants is not None and (await context.tenants.tenant_state(owner.key)).banned:
        warnings.append(f"this {owner.owner_type.value} is banned: nothing of it runs until the ban is lifted")
    if warnings:
        shown["warnings"] = warnings
    return shown


async def delete(request: web.Request) -> web.Response:
    await require_root(request)
    context, owner, name = request.app[CONTEXT], owner_of(request), template_name(request)
    await context.templates().remove(owner, name)
    away = await refresh(context, owner)
    # Whoever makes a template of that name later is not who the secrets were given to.
    if context.secrets is not None:
        await context.secrets.remove_all(owner, name)
    return told({"name": name, "removed": True}, away)


async def pause(request: web.Request) -> web.Response:
    return await _set_paused(request, paused=True)


async def resume(request: web.Request) -> web.Response:
    return await _set_paused(request, paused=False)


async def _set_paused(request: web.Request, *, paused: bool) -> web.Response:
    await require_root(request)
    context, owner, name = request.app[CONTEXT], owner_of(request), template_name(request)
    await context.templates().set_paused(owner, name, paused)
    return await when_running(context, owner, {"name": name, "paused": paused})


def template_name(request: web.Request) -> str:
    """The template of a path. Raises: RequestError: not a name."""
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
        "shop_version": template.shop_version,
        "created_at": template.created_at,
        "last_updated_at": template.last_updated_at,
    }
