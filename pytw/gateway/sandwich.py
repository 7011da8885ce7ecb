"""`Sandwich`: a thin client of the Sandwich proxy's HTTP state API, with Discord itself behind it.

Sandwich (of the reference's deployment) holds gateway connections and a cache of guilds. It answers a miss with 400,
and "not ready" with 429 and Retry-After. What it does not know is asked of Discord; what it knows not to be there is
not there.

Source: spec/http-schema-systems.md 5.15, spec/discord.md 2.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import aiohttp
import msgspec

from pytw.discord import DiscordRest, routes
from pytw.errors import DiscordUnavailable, NotFound
from pytw.limits import SANDWICH_TIMEOUT_S, SANDWICH_TRIES_MAX

_RETRY_AFTER_S_MAX = 30.0


class _Envelope(msgspec.Struct):
    ok: bool = False
    data: Any = None
    error: str = ""


class Sandwich:
    """State of guilds, from the proxy's cache or else from Discord.

    Args:
        base_url: e.g. ``http://127.0.0.1:29334``.
        manager: the identifier in Sandwich's configuration.
    """

    def __init__(self, base_url: str, rest: DiscordRest, *, manager: str = "antiraid") -> None:
        self._base = base_url.rstrip("/")
        self._manager = manager
        self._rest = rest
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def current_user(self) -> Any:
        """The bot's user. Raises: DiscordUnavailable, also while Sandwich does not know it yet."""
        user = _opened(await self._ask("GET", "current-user")).data
        if not isinstance(user, Mapping) or user.get("id") in (None, "0"):
            raise DiscordUnavailable("Sandwich does not know the bot's user yet")
        return user

    async def shard_count(self) -> int:
        """How many shards Sandwich serves. Raises: DiscordUnavailable."""
        status, body = await self._ask("GET", "gateway/bot")
        try:
            shards = msgspec.json.decode(body, type=dict[str, Any])["shards"] if status == 200 else 0
        except (msgspec.DecodeError, KeyError):
            shards = 0
        if not isinstance(shards, int) or shards <= 0:
            raise DiscordUnavailable(f"Sandwich named no shard count (it answered {status})")
        return shards

    async def has_guilds(self, guild_ids: list[int]) -> list[bool]:
        """For each guild, whether the bot is in it. Raises: DiscordUnavailable."""
        asked = msgspec.json.encode([str(guild_id) for guild_id in guild_ids])
        told = _opened(await self._ask("POST", "bulk-has-guild", data=asked)).data
        if not isinstance(told, list) or len(told) != len(guild_ids):
            raise DiscordUnavailable("Sandwich answered for other guilds than were asked for")
        return [bool(has) for has in told]

    async def guild(self, guild_id: int) -> Any:
        """The guild. Raises: NotFound, DiscordUnavailable."""
        found = await self._state(col="guilds", id=str(guild_id))
        return found.data if found is not None and found.data else await self._rest.get_guild(guild_id, counts=True)

    async def member(self, guild_id: int, user_id: int) -> Any | None:
        """The member; None if the user is not in the guild. Raises: DiscordUnavailable."""
        found = await self._state(col="members", id=str(user_id), guild_id=str(guild_id))
        if found is not None:
            return found.data
        try:
            return await self._rest.call(routes.GET_GUILD_MEMBER.call(guild_id=guild_id, user_id=user_id))
        except NotFound:
            return None

    async def roles(self, guild_id: int) -> Any:
        """The guild's roles. Raises: NotFound, DiscordUnavailable."""
        found = await self._state(col="guild_roles", id=str(guild_id))
        if found is not None and found.data is not None:
            return found.data
        return await self._rest.call(routes.GET_GUILD_ROLES.call(guild_id=guild_id))

    async def channels(self, guild_id: int) -> Any:
        """The guild's channels. Raises: NotFound, DiscordUnavailable."""
        found = await self._state(col="guild_channels", id=str(guild_id))
        if found is not None and found.data is not None:
            return found.data
        return await self._rest.call(routes.GET_GUILD_CHANNELS.call(guild_id=guild_id))

    async def channel(self, channel_id: int, *, guild_id: int | None = None) -> Any | None:
        """The channel; None if there is none. Raises: DiscordUnavailable."""
        hint = {} if guild_id is None else {"guild_id": str(guild_id)}
        found = await self._state(col="channels", id=str(channel_id), **hint)
        if found is not None and found.data is not None:
            return found.data
        try:
            return await self._rest.call(routes.GET_CHANNEL.call(channel_id=channel_id))
        except NotFound:
            return None

    async def _state(self, **query: str) -> _Envelope | None:
        """What the cache holds; None on a miss, and where Sandwich cannot be asked."""
        try:
            status, body = await self._ask("GET", "state", query=query, tries=1)
        except DiscordUnavailable:
            return None
        told = _envelope(body)
        return told if status == 200 and told is not None and told.ok else None

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        tries: int = SANDWICH_TRIES_MAX,
    ) -> tuple[int, bytes]:
        """One exchange, again while Sandwich says when to come again."""
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SANDWICH_TIMEOUT_S))
        url = f"{self._base}/{self._manager}/api/{path}"
        for attempt in range(tries):
            try:
                async with self._http.request(method, url, params=query, data=data) as response:
                    status, body = response.status, await response.read()
                    after = response.headers.get("Retry-After")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise DiscordUnavailable(f"Sandwich did not answer: {error or type(error).__name__}") from error
            if 200 <= status < 300 or after is None:
                return status, body
            if attempt + 1 < tries:
                await asyncio.sleep(_seconds(after))
        raise DiscordUnavailable(f"Sandwich is not ready (it answered {status})")


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), _RETRY_AFTER_S_MAX) if retry_after.isascii() and retry_after.isdigit() else 1.0


def _envelope(body: bytes) -> _Envelope | None:
    try:
        return msgspec.json.decode(body, type=_Envelope)
    except msgspec.DecodeError:
        return None


def _opened(answer: tuple[int, bytes]) -> _Envelope:
    status, body = answer
    told = _envelope(body)
    if status != 200 or told is None or not told.ok:
        detail = told.error if told is not None and told.error else f"it answered {status}"
        raise DiscordUnavailable(f"Sandwich refused: {detail}")
    return told
