"""`MockDiscord`: a whole Discord for one bot, gateway and REST, in one aiohttp application."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from pytw.errors import AddressInUse, RequestError
from pytw.fauxpas.mockdiscord.control import Control
from pytw.fauxpas.mockdiscord.faults import Faults
from pytw.fauxpas.mockdiscord.gateway import Gateway
from pytw.fauxpas.mockdiscord.ids import dm_channel, general_channel, token_for
from pytw.fauxpas.mockdiscord.objects import Json
from pytw.fauxpas.mockdiscord.ratelimits import RateLimits
from pytw.fauxpas.mockdiscord.rest import BODY_BYTES_MAX, Rest
from pytw.fauxpas.mockdiscord.sessions import Sessions
from pytw.fauxpas.mockdiscord.world import VISITOR_ID, World, encode

BOT_ID = 100_000_000_000_000_001
TOKEN = token_for(BOT_ID)


class MockDiscord:
    """A Discord that unmodified client libraries believe in.

    Args:
        shards: what `/gateway/bot` recommends.
        guilds: guilds that exist from the start; others come to be when they are first named.
        rest_limit, rest_window_s: requests a window, route and major parameter; generous unless a test is about limits.
        clock, wall_s: monotonic time and the time of day.
    Source: spec/discord.md 5.
    """

    def __init__(
        self,
        *,
        token: str = TOKEN,
        bot_id: int = BOT_ID,
        shards: int = 1,
        max_concurrency: int = 16,
        guilds: Sequence[int] = (),
        heartbeat_interval_ms: int = 41_250,
        identify_window_s: float = 5.0,
        resumable_s: float = 300.0,
        rest_limit: int = 1_000,
        rest_window_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.token = token
        self.bot_id = bot_id
        self.shards = shards
        self.host = "127.0.0.1"
        self.port = 0
        self.faults = Faults()
        self.sessions = Sessions(
            clock=clock, max_concurrency=max_concurrency, identify_window_s=identify_window_s, resumable_s=resumable_s
        )
        self.world = World(bot_id=bot_id, wall_s=wall_s, publish=self.sessions.publish)
        self.gateway = Gateway(
            token=token,
            world=self.world,
            sessions=self.sessions,
            faults=self.faults,
            clock=clock,
            heartbeat_interval_ms=heartbeat_interval_ms,
            resume_url=lambda: self.gateway_url,
        )
        self._rest = Rest(
            token=token,
            world=self.world,
            sessions=self.sessions,
            faults=self.faults,
            limits=RateLimits(clock=clock, wall_s=wall_s, limit=rest_limit, window_s=rest_window_s),
            gateway_url=lambda: self.gateway_url,
            shards=lambda: self.shards,
        )
        for guild_id in guilds:
            self.world.guild(guild_id)
        self.app = self._application()
        self._runner: web.AppRunner | None = None

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        for path in ("/gateway", "/gateway/", "/"):
            app.router.add_get(path, self.gateway.accept)
        Control(self).add_routes(app.router)
        self._rest.add_routes(app.router)
        return app

    @property
    def gateway_url(self) -> str:
        return f"ws://{self._authority}/gateway"

    @property
    def api_base(self) -> str:
        return f"http://{self._authority}/api/v10"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    # ---- life

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen in the running loop. Raises: AddressInUse."""
        runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise AddressInUse(f"port {port} for the mock Discord is taken", hint="choose another one") from None
            raise
        self._runner = runner
        self.host, self.port = host, runner.addresses[0][1]

    async def close(self) -> None:
        """End every connection, then stop listening."""
        await self.cut(code=1001)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # ---- what people do

    async def say(
        self,
        guild_id: int,
        text: str,
        wait_s: float = 0.0,
        *,
        author_id: int | None = None,
        channel_id: int | None = None,
    ) -> Json:
        """Post *text* as a member, and wait until the bot has written in that channel or *wait_s* has passed.

        Returns:
            `sent` (the message), `replies` (the bot's messages there since), `sessions` (how many heard it).
        Raises:
            RequestError: no guild or channel can have this id.
        """
        where = general_channel(guild_id) if channel_id is None else channel_id
        if self.world.guild(guild_id) is None:
            raise RequestError(f"{guild_id} cannot be the id of a guild")
        return await self._post(where, VISITOR_ID if author_id is None else author_id, text, wait_s)

    async def dm(self, text: str, wait_s: float = 0.0, *, author_id: int | None = None) -> Json:
        """Write *text* to the bot as a direct message; answers as `say` does."""
        author = VISITOR_ID if author_id is None else author_id
        return await self._post(dm_channel(author), author, text, wait_s)

    async def _post(self, channel_id: int, author_id: int, text: str, wait_s: float) -> Json:
        waiter = self.world.next_by_bot(channel_id)
        try:
            posted = self.world.post(channel_id, author_id, {"content": text})
            if posted is None:
                raise RequestError(f"{channel_id} is not a channel")
            sent, heard = posted
            if wait_s > 0:
                await asyncio.wait((waiter,), timeout=wait_s)
        finally:
            self.world.stop_waiting(channel_id, waiter)
        replies = self.world.by_bot(after=int(sent["id"]), channel_id=channel_id)
        return {"sent": sent, "replies": replies, "sessions": heard}

    def dispatch(self, event: str, d: Json | bytes, *, guild_id: int | None = None) -> int:
        """Send any event through the gateway; answers how many sessions got it.

        The guild is read out of *d* unless it is given.
        """
        if isinstance(d, bytes):
            return self.sessions.publish(event, d, guild_id)
        if guild_id is None:
            named = d.get("id") if event in ("GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE") else d.get("guild_id")
            guild_id = None if named is None else int(named)
        return self.sessions.publish(event, encode(d), guild_id)

    def messages(self, *, after: int = 0, channel_id: int | None = None) -> list[Json]:
        """What the bot has written above id *after*, oldest first."""
        return self.world.by_bot(after=after, channel_id=channel_id)

    # ---- what goes wrong

    def reconnect(self, shard: int | None = None) -> int:
        """Op 7 to a shard, or to all."""
        hit = self.gateway.of_shard(shard)
        for connection in hit:
            connection.send(7)
        return len(hit)

    def invalidate(self, shard: int | None = None, *, resumable: bool = False) -> int:
        """Op 9 to a shard, or to all."""
        hit = self.gateway.of_shard(shard)
        for connection in hit:
            if not resumable and connection.session is not None:
                self.sessions.drop(connection.session)
            connection.send(9, b"true" if resumable else b"false")
        return len(hit)

    async def cut(self, shard: int | None = None, *, code: int = 1006) -> int:
        """Close the connections of a shard, or all; 1006 cuts them without a close frame."""
        hit = self.gateway.of_shard(shard)
        await asyncio.gather(*(c.close(code) for c in hit))
        return len(hit)

    def state(self) -> dict[str, Any]:
        """What the mock knows, for people."""
        return {
            "gateway_url": self.gateway_url,
            "api_base": self.api_base,
            "guilds": [str(g) for g in list(self.world.guild_ids)[:1_000]],
            "identifies_left": self.sessions.identifies_left,
            "sessions": [
                {"shard": [s.shard, s.shards], "connected": s.listener is not None, "sequence": s.last}
                for s in self.sessions
            ],
        }
