"""The REST side: the routes that clients call at start, guild and channel state, and messages.

Every answer carries rate-limit headers. Its type is exactly `application/json`: discord.py reads anything else as text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pytw.fauxpas.mockdiscord.faults import Faults
from pytw.fauxpas.mockdiscord.objects import Json
from pytw.fauxpas.mockdiscord.ratelimits import RateLimits
from pytw.fauxpas.mockdiscord.sessions import IDENTIFIES_A_DAY, Sessions
from pytw.fauxpas.mockdiscord.world import World, dm_channel, encode

BODY_BYTES_MAX = 25 << 20
CONTENT_CHARACTERS_MAX = 2_000
_OPEN_ROUTES = frozenset({"/gateway"})
_VIA = {"Via": "1.1 mock"}

Route = Callable[[web.Request], Awaitable[web.Response]]


class RestError(Exception):
    """Answers a request with Discord's error body."""

    def __init__(self, status: int, code: int, message: str, errors: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"message": message, "code": code} | ({"errors": errors} if errors else {})


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    if status == 204:
        return web.Response(status=204, headers=headers)
    made = web.Response(body=encode(value), status=status, headers=headers)
    made.headers["Content-Type"] = "application/json"
    return made


class Rest:
    def __init__(
        self,
        *,
        token: str,
        world: World,
        sessions: Sessions,
        faults: Faults,
        limits: RateLimits,
        gateway_url: Callable[[], str],
        shards: Callable[[], int],
    ) -> None:
        self._token = token
        self._world = world
        self._sessions = sessions
        self._faults = faults
        self._limits = limits
        self._gateway_url = gateway_url
        self._shards = shards

    def add_routes(self, router: web.UrlDispatcher) -> None:
        table: tuple[tuple[str, str, Route], ...] = (
            ("GET", "/gateway", self._gateway),
            ("GET", "/gateway/bot", self._gateway_bot),
            ("GET", "/users/@me", self._me),
            ("GET", "/users/@me/guilds", self._my_guilds),
            ("POST", "/users/@me/channels", self._open_dm),
            ("GET", "/users/{user}", self._user),
            ("GET", "/oauth2/applications/@me", self._application),
            ("GET", "/applications/@me", self._application),
            ("GET", "/guilds/{guild}", self._guild),
            ("GET", "/guilds/{guild}/channels", self._guild_channels),
            ("GET", "/guilds/{guild}/roles", self._guild_roles),
            ("GET", "/guilds/{guild}/members", self._guild_members),
            ("GET", "/guilds/{guild}/members/{user}", self._guild_member),
            ("GET", "/channels/{channel}", self._channel),
            ("GET", "/channels/{channel}/messages", self._messages),
            ("POST", "/channels/{channel}/messages", self._create_message),
            ("GET", "/channels/{channel}/messages/{message}", self._message),
            ("PATCH", "/channels/{channel}/messages/{message}", self._edit_message),
            ("DELETE", "/channels/{channel}/messages/{message}", self._delete_message),
        )
        for method, path, handler in table:
            router.add_route(method, "/api/{version:v9|v10}" + path, self._guarded(path, handler))
        router.add_route("*", "/api/{rest:.*}", self._guarded("/unknown", self._unknown))

    def _guarded(self, route: str, handler: Route) -> Route:
        """Faults, authorisation and rate limits around a route."""

        async def guarded(request: web.Request) -> web.Response:
            info = request.match_info
            major = info.get("channel") or info.get("guild") or ""
            allowed, left_s, headers = self._limits.take(f"{request.method} {route}", major)
            if self._faults.take("rest_5xx"):
                return web.Response(status=self._faults.rest_5xx_status, text="upstream error", headers=headers)
            if self._faults.take("rest_429"):
                return self._limited(self._faults.retry_after_s, headers, everywhere=self._faults.rest_429_global)
            sent = request.headers.get("Authorization", "").removeprefix("Bot ").removeprefix("Bearer ")
            if sent != self._token and route not in _OPEN_ROUTES:
                return answer({"message": "401: Unauthorized", "code": 0}, 401, headers)
            if not allowed:
                return self._limited(left_s, headers, everywhere=False)
            try:
                made = await handler(request)
            except RestError as error:
                return answer(error.body, error.status, headers)
            made.headers.update(headers)
            return made

        return guarded

    def _limited(self, after_s: float, headers: dict[str, str], *, everywhere: bool) -> web.Response:
        extra = _VIA | {"Retry-After": f"{after_s:.3f}", "X-RateLimit-Scope": "global" if everywhere else "user"}
        if everywhere:
            extra["X-RateLimit-Global"] = "true"
        body = {"message": "You are being rate limited.", "retry_after": after_s, "global": everywhere}
        return answer(body, 429, headers | extra)

    # ---- the bot

    async def _gateway(self, request: web.Request) -> web.Response:
        return answer({"url": self._gateway_url()})

    async def _gateway_bot(self, request: web.Request) -> web.Response:
        start = {
            "total": IDENTIFIES_A_DAY,
            "remaining": self._sessions.identifies_left,
            "reset_after": 86_400_000,
            "max_concurrency": self._sessions.max_concurrency,
        }
        return answer({"url": self._gateway_url(), "shards": self._shards(), "session_start_limit": start})

    async def _me(self, request: web.Request) -> web.Response:
        return answer(self._world.bot)

    async def _my_guilds(self, request: web.Request) -> web.Response:
        found = [self._world.guild(g) or {} for g in list(self._world.guild_ids)[:200]]
        keys = ("id", "name", "icon", "banner", "features")
        return answer([{k: g[k] for k in keys} | {"owner": False, "permissions": "8"} for g in found])

    async def _application(self, request: web.Request) -> web.Response:
        return answer(self._world.application)

    async def _user(self, request: web.Request) -> web.Response:
        return answer(self._world.user(number(request, "user", 10013, "User")))

    async def _open_dm(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        try:
            channel = self._world.channel(dm_channel(int(body["recipient_id"])))
        except (KeyError, TypeError, ValueError):
            channel = None
        if channel is None:
            raise RestError(400, 50033, "Invalid Recipient(s)")
        return answer(channel)

    # ---- guilds and channels

    def _known_guild(self, request: web.Request) -> tuple[int, Json]:
        guild_id = number(request, "guild", 10004, "Guild")
        found = self._world.guild(guild_id)
        if found is None:
            raise RestError(404, 10004, "Unknown Guild")
        return guild_id, found

    async def _guild(self, request: web.Request) -> web.Response:
        guild_id, found = self._known_guild(request)
        if request.query.get("with_counts", "").lower() in ("true", "1"):
            members = len(self._world.members(guild_id))
            found = found | {"approximate_member_count": members, "approximate_presence_count": 1}
        return answer(found)

    async def _guild_channels(self, request: web.Request) -> web.Response:
        return answer(self._world.channels(self._known_guild(request)[0]))

    async def _guild_roles(self, request: web.Request) -> web.Response:
        return answer(self._known_guild(request)[1]["roles"])

    async def _guild_members(self, request: web.Request) -> web.Response:
        return answer(self._world.members(self._known_guild(request)[0]))

    async def _guild_member(self, request: web.Request) -> web.Response:
        guild_id, _ = self._known_guild(request)
        found = self._world.member(guild_id, number(request, "user", 10013, "User"))
        if found is None:
            raise RestError(404, 10007, "Unknown Member")
        return answer(found)

    async def _channel(self, request: web.Request) -> web.Response:
        found = self._world.channel(number(request, "channel", 10003, "Channel"))
        if found is None:
            raise RestError(404, 10003, "Unknown Channel")
        return answer(found)

    # ---- messages

    async def _messages(self, request: web.Request) -> web.Response:
        place = self._world.place(number(request, "channel", 10003, "Channel"))
        if place is None:
            raise RestError(404, 10003, "Unknown Channel")
        limit = min(max(_integer(request.query.get("limit"), 50), 1), 100)
        after = _integer(request.query.get("after"), 0)
        before = _integer(request.query.get("before"), 1 << 63)
        found = [m for i, m in place.messages.items() if after < i < before]
        return answer(found[::-1][:limit] if after == 0 else found[:limit][::-1])

    async def _create_message(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        check_message(body)
        made = self._world.post(number(request, "channel", 10003, "Channel"), int(self._world.bot["id"]), body)
        if made is None:
            raise RestError(404, 10003, "Unknown Channel")
        return answer(made[0])

    async def _message(self, request: web.Request) -> web.Response:
        place = self._world.place(number(request, "channel", 10003, "Channel"))
        found = place and place.messages.get(number(request, "message", 10008, "Message"))
        if not found:
            raise RestError(404, 10008, "Unknown Message")
        return answer(found)

    async def _edit_message(self, request: web.Request) -> web.Response:
        channel, message = number(request, "channel", 10003, "Channel"), number(request, "message", 10008, "Message")
        place = self._world.place(channel)
        found = place and place.messages.get(message)
        if found and found["author"]["id"] != self._world.bot["id"]:
            raise RestError(403, 50005, "Cannot edit a message authored by another user")
        edited = self._world.edit(channel, message, await read_body(request))
        if edited is None:
            raise RestError(404, 10008, "Unknown Message")
        return answer(edited)

    async def _delete_message(self, request: web.Request) -> web.Response:
        channel, message = number(request, "channel", 10003, "Channel"), number(request, "message", 10008, "Message")
        if not self._world.delete(channel, message):
            raise RestError(404, 10008, "Unknown Message")
        return answer(None, 204)

    async def _unknown(self, request: web.Request) -> web.Response:
        raise RestError(404, 0, "404: Not Found")


def number(request: web.Request, name: str, code: int, what: str) -> int:
    """A snowflake of the path."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise RestError(404, code, f"Unknown {what}")
    return int(text)


def _integer(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 20 else default


async def read_body(request: web.Request) -> Json:
    """The JSON object of a request, also out of a multipart form; files become attachments."""
    attachments: list[Json] = []
    if request.content_type == "multipart/form-data":
        raw: bytes | bytearray | str = b"{}"
        form = await request.post()
        for name, part in form.items():
            if name == "payload_json":
                raw = part.file.read() if isinstance(part, web.FileField) else part
            elif isinstance(part, web.FileField):
                size = len(part.file.read())
                index = len(attachments)
                attachments.append(
                    {
                        "id": str(index),
                        "filename": part.filename,
                        "size": size,
                        "url": f"https://cdn.invalid/{index}/{part.filename}",
                        "proxy_url": f"https://cdn.invalid/{index}/{part.filename}",
                        "content_type": part.content_type,
                    }
                )
    else:
        raw = await request.read()
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        raise RestError(400, 50109, "The request body contains invalid JSON.") from None
    if not isinstance(body, dict):
        raise RestError(400, 50035, "Invalid Form Body")
    return body | {"attachments": attachments} if attachments else body


def check_message(body: Json) -> None:
    """What Discord refuses in a new message, as far as the mock looks."""
    content = body.get("content")
    if content is not None and not isinstance(content, str):
        raise RestError(400, 50035, "Invalid Form Body", _errors("content", "STRING_TYPE_CONVERT", "Must be a string."))
    if content is not None and len(content) > CONTENT_CHARACTERS_MAX:
        text = f"Must be {CONTENT_CHARACTERS_MAX} or fewer in length."
        raise RestError(400, 50035, "Invalid Form Body", _errors("content", "BASE_TYPE_BAD_LENGTH", text))
    if not any(body.get(k) for k in ("content", "embeds", "attachments", "components", "sticker_ids", "poll")):
        raise RestError(400, 50006, "Cannot send an empty message")


def _errors(field: str, code: str, message: str) -> Json:
    return {field: {"_errors": [{"code": code, "message": message}]}}
