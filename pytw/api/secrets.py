"""Secrets of a template over HTTP: ``/guilds/{id}/templates/{name}/secrets``, the same for users, for root users.

PUT ``.../secrets/{secret}`` takes ``{"value": text}``; GET ``.../secrets`` gives names, never values, and whether this server
has the key that each was encrypted with; DELETE removes one. A new value is what the template's next read gives. Secrets stay
through deployments and roll-backs, and go when the template is removed.
"""

from __future__ import annotations

import logging

import msgspec
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT, Secrets
from pytw.api.running import TENANT, owner_of
from pytw.errors import NotFound, Unavailable
from pytw.storage.secrets import checked_secret_name
from pytw.storage.templatechecks import checked_name
from pytw.types import BUILTINS


class PutSecret(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT."""

    value: str


log = logging.getLogger("staff")

_decoder = msgspec.json.Decoder(PutSecret)


def routes() -> list[web.RouteDef]:
    place = TENANT + "/templates/{name}/secrets"
    return [
        web.get(place, list_),
        web.put(place + "/{secret}", put),
        web.delete(place + "/{secret}", delete),
    ]


async def list_(request: web.Request) -> web.Response:
    await require_root(request)
    found = await _store(request).list(owner_of(request), _template(request))
    return answer({"secrets": [{"name": s.name, "set_at": s.set_at, "readable": s.readable} for s in found]})


async def put(request: web.Request) -> web.Response:
    who = await require_root(request)
    owner, template, name = owner_of(request), _template(request), _secret(request)
    asked = await body_of(request, _decoder)
    await _store(request).put(owner, template, name, asked.value)
    log.info("secret %s of template %s set by %s", name, template, who.name, extra={"tenant": owner.key})
    told: dict[str, object] = {"template": template, "name": name}
    if template != BUILTINS:
        try:
            await request.app[CONTEXT].templates().get(owner, template)
        except NotFound:
            told["warnings"] = [f"there is no template {template} yet"]
    return answer(told)


async def delete(request: web.Request) -> web.Response:
    who = await require_root(request)
    owner, template, name = owner_of(request), _template(request), _secret(request)
    await _store(request).remove(owner, template, name)
    log.info("secret %s of template %s removed by %s", name, template, who.name, extra={"tenant": owner.key})
    return answer({"template": template, "name": name, "removed": True})


def _template(request: web.Request) -> str:
    """`BUILTINS` has secrets, too: in loop mode it is the one that runs."""
    name = request.match_info["name"]
    return name if name == BUILTINS else checked_name(name)


def _secret(request: web.Request) -> str:
    return checked_secret_name(request.match_info["secret"])


def _store(request: web.Request) -> Secrets:
    secrets = request.app[CONTEXT].secrets
    if secrets is None:
        raise Unavailable("this server keeps no secrets")
    return secrets
