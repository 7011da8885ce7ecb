"""`DiscordRest`: requests to Discord, within its rate limits, with failures named by who should act."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import msgspec

from pytw.discord import routes
from pytw.discord.buckets import Bucket, Buckets, RateLimited
from pytw.discord.routes import Call
from pytw.discord.safety import check_message
from pytw.errors import DiscordUnavailable, Forbidden, NotFound, PytwError, RequestError, TokenRefused
from pytw.limits import REST_ANSWER_BYTES_MAX, REST_CONNECT_S, REST_TOTAL_S, REST_TRIES_MAX

log = logging.getLogger(__name__)


def _user_agent() -> str:
    try:
        version = metadata.version("pytw")
    except metadata.PackageNotFoundError:
        version = "0"
    return f"DiscordBot (pytw, {version})"


#: Found at import: a forked worker has neither the right nor the memory to read package metadata.
USER_AGENT = _user_agent()


_REASON_CHARACTERS_MAX = 512
_RETRY_FIRST_S = 0.25
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})


class _Failure(msgspec.Struct):
    message: str = ""
    code: int = 0
    errors: Any = None
    retry_after: float | None = None
    is_global: bool = msgspec.field(default=False, name="global")


class DiscordRest:
    """A client of Discord's REST API, or of a proxy or mock in its place.

    Args:
        base_url: with version, e.g. ``https://discord.com/api/v10``.
        token: the bot's, with or without ``Bot ``.
        total_s: from call to answer, all waits and tries included.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        total_s: float = REST_TOTAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._token = token.removeprefix("Bot ")
        self._total_s = total_s
        self._clock = clock
        self._buckets = Buckets(clock=clock)
        self._http: aiohttp.ClientSession | None = None
        self._refused: PytwError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    # ---- what callers ask for

    async def create_message(self, channel_id: int | str, body: Mapping[str, Any], *, reason: str | None = None) -> Any:
        """Post a message; answers it as Discord does.

        Mentions ping as the body's ``allowed_mentions`` says, which is passed on as it is.

        Raises:
            RequestError: the message breaks a rule of ours or of Discord's; the template's author acts.
            DiscordUnavailable: rate limited for longer than a call may last, or Discord is out of reach.
        """
        check_message(body)
        return await self.call(routes.CREATE_MESSAGE.call(channel_id=channel_id), json=body, reason=reason)

    async def get_guild(self, guild_id: int | str, *, counts: bool = False) -> Any:
        """The guild as Discord has it. Raises: as `create_message`; NotFound."""
        query = {"with_counts": "true"} if counts else None
        return await self.call(routes.GET_GUILD.call(guild_id=guild_id), query=query)

    async def gateway_bot(self) -> Any:
        """URL, recommended shards and identify budget of the gateway."""
        return await self.call(routes.GATEWAY_BOT.call())

    async def users_me(self) -> Any:
        """The bot's own user."""
        return await self.call(routes.USERS_ME.call())

    async def request(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> Any:
        """Any request; *path* begins below the API's version. Answers decoded JSON, None for an empty answer.

        Raises: as `create_message`; Forbidden, NotFound, TokenRefused.
        """
        return await self.call(routes.call_of(method.upper(), path), json=json, reason=reason)

    async def request_raw(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> bytes:
        """As `request`, with the answer's body as Discord sent it: JSON, or empty. Nothing here reads it."""
        return await self.call_raw(routes.call_of(method.upper(), path), json=json, reason=reason)

    # ---- how it is done

    async def call(
        self, call: Call, *, json: Any = None, query: Mapping[str, str] | None = None, reason: str | None = None
    ) -> Any:
        """As `call_raw`, with the body decoded."""
        return _decoded(await self.call_raw(call, json=json, query=query, reason=reason))

    async def call_raw(
        self, call: Call, *, json: Any = None, query: Mapping[str, str] | None = None, reason: str | None = None
    ) -> bytes:
        """Make *call*, waiting for its rate limit and trying again where that is safe. Answers the body.

        What reached Discord and had no answer is tried again only if doing it twice is the same as once.
        """
        if self._refused is not None:
            # Another one each time: an error that is raised again and again keeps the frames of all its callers.
            raise TokenRefused(self._refused.detail, hint=self._refused.hint)
        until = self._clock() + self._total_s
        data = None if json is None else msgspec.json.encode(json)
        headers = self._headers(reason)
        problem: PytwError = DiscordUnavailable("Discord did not answer")
        pause = False
        for attempt in range(REST_TRIES_MAX):
            if pause and not await self._rest(until, attempt):
                break
            pause = True
            try:
                bucket = await self._buckets.take(call, until=until)
            except RateLimited as limited:
                seconds = math.ceil(limited.after_s)
                raise DiscordUnavailable(f"Discord's rate limit is used up, try again in {seconds} s") from None
            try:
                status, answer_headers, body = await self._exchange(call, bucket, data, query, headers, until)
            except aiohttp.ClientConnectorError as error:
                problem = DiscordUnavailable(f"Discord cannot be reached: {error.os_error.strerror or error.os_error}")
                continue
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = DiscordUnavailable(f"Discord did not answer: {error or type(error).__name__}")
                if call.method in _IDEMPOTENT:
                    continue
                break
            if 200 <= status < 300:
                return body
            if status == 429:
                problem = self._rate_limited(call, bucket, answer_headers, body, until)
                pause = False
                continue
            if status >= 500:
                problem = DiscordUnavailable(f"Discord answered {status}")
                if call.method in _IDEMPOTENT:
                    continue
                break
            raise self._failure(status, body)
        raise problem

    async def _exchange(
        self,
        call: Call,
        bucket: Bucket,
        data: bytes | None,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        until: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its answer. The bucket learns of it, unless it is a 429."""
        back = False
        try:
            async with asyncio.timeout(max(until - self._clock(), 0.001)):
                async with self._session().request(
                    call.method, self._base + call.path, data=data, params=query, headers=headers, allow_redirects=False
                ) as response:
                    body = await response.content.read(REST_ANSWER_BYTES_MAX + 1)
                    while not response.content.at_eof() and len(body) <= REST_ANSWER_BYTES_MAX:
                        body += await response.content.read(REST_ANSWER_BYTES_MAX + 1 - len(body))
                    if len(body) > REST_ANSWER_BYTES_MAX:
                        raise RequestError(f"Discord's answer exceeds {REST_ANSWER_BYTES_MAX} bytes")
                    back = True
                    if response.status != 429:
                        self._buckets.answered(call, bucket, response.headers)
                    return response.status, response.headers, body
        finally:
            if not back:
                self._buckets.lost(bucket)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=self._total_s, connect=None, sock_connect=REST_CONNECT_S)
            self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64))
        return self._http

    def _headers(self, reason: str | None) -> dict[str, str]:
        headers = {
            "Authorization": f"Bot {self._token}",
            "User-Agent": USER_AGENT,
            "Content-Type": "application/json",
        }
        if reason:
            headers["X-Audit-Log-Reason"] = quote(reason[:_REASON_CHARACTERS_MAX], safe="")
        return headers

    async def _rest(self, until: float, attempt: int) -> bool:
        """Pause before another attempt; False if there is no time for it."""
        wait_s: float = _RETRY_FIRST_S * 2 ** (attempt - 1)
        if self._clock() + wait_s >= until:
            return False
        await asyncio.sleep(wait_s)
        return True

    def _rate_limited(
        self, call: Call, bucket: Bucket, headers: Mapping[str, str], body: bytes, until: float
    ) -> PytwError:
        """Learn from a 429. Raises DiscordUnavailable if it lasts longer than the call may."""
        told = _told(body)
        try:
            after_s = float(headers.get("Retry-After") or told.retry_after or 1.0)
        except ValueError:
            after_s = 1.0
        if told.retry_after is not None:
            after_s = max(after_s, told.retry_after)
        after_s = after_s if math.isfinite(after_s) and after_s >= 0 else 1.0
        everywhere = told.is_global or headers.get("X-RateLimit-Global", "").lower() == "true"
        self._buckets.refused(call, bucket, headers, after_s, everywhere=everywhere)
        problem = DiscordUnavailable(f"Discord's rate limit is used up, try again in {math.ceil(after_s)} s")
        if self._clock() + after_s > until:
            raise problem
        return problem

    def _failure(self, status: int, body: bytes) -> PytwError:
        """The error for a 4xx. A 401 ends this client: further tries would get the address banned."""
        told = _told(body)
        text = told.message or f"Discord answered {status}"
        if told.errors:
            text += ": " + "; ".join(_flat(told.errors))[:1_000]
        if told.code:
            text += f" (code {told.code})"
        if status == 401:
            self._refused = TokenRefused("Discord refused the bot's token", hint="check discord_auth.token")
            log.critical("%s", self._refused)
            return self._refused
        if status == 403:
            return Forbidden(text)
        if status == 404:
            return NotFound(text)
        return RequestError(text)


def _decoded(body: bytes) -> Any:
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise DiscordUnavailable(f"Discord's answer is not JSON: {error}") from error


def _told(body: bytes) -> _Failure:
    try:
        return msgspec.json.decode(body, type=_Failure)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Failure()


def _flat(errors: Any, path: str = "", depth: int = 0) -> list[str]:
    """Discord's nested form errors as lines: ``embeds.0.title: Must be 256 or fewer in length.``"""
    if not isinstance(errors, dict) or depth > 16:
        return []
    lines: list[str] = []
    for name, inner in errors.items():
        if name == "_errors" and isinstance(inner, list):
            lines += [f"{path}: {e.get('message')}" for e in inner if isinstance(e, dict)]
        else:
            lines += _flat(inner, f"{path}.{name}" if path else str(name), depth + 1)
    return lines
