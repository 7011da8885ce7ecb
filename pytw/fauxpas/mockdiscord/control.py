"""The mock's own HTTP side: what people and tests do to it (`/mock/...`).

It answers on loopback names only and takes JSON only, so that no page of a browser can reach it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from pytw.fauxpas.mockdiscord.objects import Json
from pytw.fauxpas.mockdiscord.rest import Route, answer

if TYPE_CHECKING:
    from pytw.fauxpas.mockdiscord.server import MockDiscord

WAIT_S_MAX = 60.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


class _Say(msgspec.Struct):
    content: str
    guild_id: str | int
    author_id: str | int | None = None
    channel_id: str | int | None = None
    wait_s: float = 0.0


class _Dm(msgspec.Struct):
    content: str
    author_id: str | int | None = None
    wait_s: float = 0.0


class _Event(msgspec.Struct):
    t: str
    d: dict[str, Any]


class _Fault(msgspec.Struct):
    """`kind`: reconnect, invalid_session, close, or the name of a counter in `Faults`."""

    kind: str
    shard: int | None = None
    resumable: bool = False
    code: int = 4000
    times: int = 1
    retry_after_s: float = 0.2
    everywhere: bool = False


class Control:
    def __init__(self, mock: MockDiscord) -> None:
        self._mock = mock

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/mock/say", self._guarded(self._say))
        router.add_post("/mock/dm", self._guarded(self._dm))
        router.add_post("/mock/events", self._guarded(self._event))
        router.add_post("/mock/faults", self._guarded(self._fault))
        router.add_get("/mock/messages", self._guarded(self._messages))
        router.add_get("/mock/state", self._guarded(self._state))

    def _guarded(self, handler: Route) -> Route:
        async def guarded(request: web.Request) -> web.Response:
            host = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
            if host not in _LOOPBACK:
                return answer({"message": "only reachable as localhost"}, 403)
            if request.method == "POST" and request.content_type != "application/json":
                return answer({"message": "Content-Type must be application/json"}, 415)
            try:
                return await handler(request)
            except (msgspec.DecodeError, ValueError) as error:
                return answer({"message": str(error)}, 400)

        return guarded

    async def _say(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_Say)
        return answer(
            await self._mock.say(
                int(body.guild_id),
                body.content,
                _wait(body.wait_s),
                author_id=_maybe(body.author_id),
                channel_id=_maybe(body.channel_id),
            )
        )

    async def _dm(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_Dm)
        return answer(await self._mock.dm(body.content, _wait(body.wait_s), author_id=_maybe(body.author_id)))

    async def _event(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_Event)
        return answer({"sessions": self._mock.dispatch(body.t, body.d)})

    async def _fault(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=_Fault)
        hit: Json = {}
        if body.kind == "reconnect":
            hit = {"connections": self._mock.reconnect(body.shard)}
        elif body.kind == "invalid_session":
            hit = {"connections": self._mock.invalidate(body.shard, resumable=body.resumable)}
        elif body.kind == "close":
            hit = {"connections": await self._mock.cut(body.shard, code=body.code)}
        elif body.kind == "login_closes":
            self._mock.faults.login_close_code, self._mock.faults.login_closes = body.code, body.times
        elif body.kind in ("rest_429", "rest_5xx", "acks_missing", "identifies_refused", "resumes_refused"):
            self._mock.faults.retry_after_s = body.retry_after_s
            self._mock.faults.rest_429_global = body.everywhere
            setattr(self._mock.faults, body.kind, body.times)
        else:
            raise ValueError(f"unknown fault {body.kind!r}")
        return answer({"ok": True, **hit})

    async def _messages(self, request: web.Request) -> web.Response:
        after = int(request.query.get("after", "0"))
        channel = request.query.get("channel_id")
        return answer(self._mock.messages(after=after, channel_id=_maybe(channel)))

    async def _state(self, request: web.Request) -> web.Response:
        return answer(self._mock.state())


def _maybe(value: str | int | None) -> int | None:
    return None if value is None else int(value)


def _wait(wait_s: float) -> float:
    return min(max(wait_s, 0.0), WAIT_S_MAX)
