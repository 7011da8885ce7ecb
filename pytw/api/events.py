"""`POST /test/event`: runs an event by hand and says what became of it.

The body is ``{"type", "guild_id" or "user_id", "data"?, "wait"?}``, and with `wait` (the default) the answer is
``{"worker_id", "request_id", "outcome", "limit", "templates": [{"template", "outcome", "value", "error", "limit"}], "time_ms"}``;
`request_id` is what the log calls ``request``, null where nothing was started.
Without it the event is handed over and the answer is 202 with `outcome` null.

The status says how it ended (DESIGN 4): 200 ran or nobody listens, 403 banned, 502 the worker died, 503 quarantined, shed or
not ready, 504 the deadline passed.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import orjson
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import require_root_or_developer
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT, Principal
from pytw.api.eventnames import event_name
from pytw.api.numbers import snowflake
from pytw.errors import LimitExceeded, NotReady, RequestError
from pytw.eventnames import LOOP_EVENTS, ON_STARTUP, WEB_PREFIX
from pytw.limits import API_RETRY_AFTER_S
from pytw.routing import worker_of
from pytw.types import CreateEvent, DispatchResult, Id, Outcome

STATUS = {
    Outcome.BANNED: 403,
    Outcome.WORKER_LOST: 502,
    Outcome.QUARANTINED: 503,
    Outcome.SHED: 503,
    Outcome.NOT_READY: 503,
    Outcome.TIMEOUT: 504,
}

#: An author for events that were not given one: nobody's id.
SAMPLE_USER = {"id": "1", "username": "tester", "discriminator": "0", "global_name": "Tester", "avatar": None}
SAMPLE_TIME = "2015-01-01T00:00:00.000000+00:00"


class TestEvent(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the request. ``data`` stays bytes: only the template reads it."""

    __test__ = False

    type: str
    guild_id: str | int | None = None
    user_id: str | int | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    wait: bool = True


_decoder = msgspec.json.Decoder(TestEvent)


def routes() -> list[web.RouteDef]:
    return [web.post("/test/event", fire)]


async def fire(request: web.Request) -> web.Response:
    who = await require_root_or_developer(request)
    context = request.app[CONTEXT]
    asked = await body_of(request, _decoder)
    tenant = _tenant(asked)
    name = event_name(asked.type)
    payload = _payload(asked, name, tenant)
    if len(payload) > context.limits.event_bytes_max:
        raise LimitExceeded(
            f"data is over the limit of {context.limits.event_bytes_max} bytes", hint="the key limits.event_bytes_max"
        )
    if context.draining:
        raise NotReady("the server is ending")
    event = CreateEvent(name, payload, _author(who, name))
    told: dict[str, Any] = {"worker_id": worker_of(tenant.key, len(context.workers))}
    if not asked.wait:
        context.workers.dispatch_event_nowait(tenant.key, event)
        return answer({**told, "outcome": None, "limit": None, "templates": [], "time_ms": 0.0}, status=202)
    started = time.monotonic()
    result = await context.workers.dispatch_event(tenant.key, event)
    told["time_ms"] = round((time.monotonic() - started) * 1e3, 3)
    told["request_id"] = result.request
    return _told(told, result)


def _told(told: dict[str, Any], result: DispatchResult) -> web.Response:
    templates = [
        {"template": t.template, "outcome": t.outcome.slug, "value": t.value, "error": t.error, "limit": t.limit}
        for t in result.templates
    ]
    status = STATUS.get(result.outcome, 200)
    body = {**told, "outcome": result.outcome.slug, "limit": result.limit, "templates": templates}
    if status != 200:
        body["code"] = result.outcome.slug
        body["message"] = result.limit or f"the event ended with {result.outcome.slug}"
    return answer(body, status=status, headers={"Retry-After": str(API_RETRY_AFTER_S)} if status == 503 else None)


def _author(who: Principal, name: str) -> str | None:
    """The user that an event of the website comes from, by id: the caller, or nobody where the caller is no user.

    Discord's events say in their data who caused them (spec luau-api 7).
    """
    if not name.startswith(WEB_PREFIX) and name not in LOOP_EVENTS:
        return None
    return who.name if who.name.isdigit() else SAMPLE_USER["id"]


def _tenant(asked: TestEvent) -> Id:
    if (asked.guild_id is None) is (asked.user_id is None):
        raise RequestError("exactly one of guild_id and user_id is needed")
    if asked.guild_id is not None:
        return Id.guild(snowflake(str(asked.guild_id), "guild_id"))
    return Id.user(snowflake(str(asked.user_id), "user_id"))


def _payload(asked: TestEvent, name: str, tenant: Id) -> bytes:
    data = bytes(asked.data)
    if data.strip() != b"null":
        try:
            data.decode()
        except UnicodeDecodeError:
            raise RequestError("data is not UTF-8") from None
        return data
    return orjson.dumps(_sample(name, tenant))


def _sample(name: str, tenant: Id) -> dict[str, Any]:
    """The least that a handler of this event can work with."""
    place: dict[str, Any] = {"channel_id": tenant.owner_id}
    if tenant.owner_type == "guild":
        place["guild_id"] = tenant.owner_id
    if name == "MESSAGE":
        return {
            "id": tenant.owner_id,
            **place,
            "author": SAMPLE_USER,
            "content": "test",
            "timestamp": SAMPLE_TIME,
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": [],
            "pinned": False,
            "type": 0,
        }
    if name == ON_STARTUP:
        return {"reason": "test"}
    return {"id": tenant.owner_id, **place, "user_id": SAMPLE_USER["id"], "user": SAMPLE_USER}
