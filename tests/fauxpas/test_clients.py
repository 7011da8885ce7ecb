"""Unmodified client libraries against the mock: they log in, hear, answer, and resume after a cut."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import discord
import hikari
import pytest
import yarl
from discord.gateway import DiscordWebSocket

from pytw.fauxpas.mockdiscord import MockDiscord

GUILD = 5 << 22


@asynccontextmanager
async def mocked(**options: Any):
    mock = MockDiscord(guilds=[GUILD], identify_window_s=0.0, **options)
    await mock.start()
    try:
        yield mock
    finally:
        await mock.close()


class DiscordPy:
    """A discord.py bot that answers and says when it is connected."""

    def __init__(self, mock: MockDiscord, *, shards: int | None) -> None:
        self.connected = asyncio.Event()
        self.resumed = asyncio.Event()
        intents = discord.Intents.all()
        made = (
            discord.Client(intents=intents)
            if shards is None
            else discord.AutoShardedClient(intents=intents, shard_count=shards)
        )
        self.client = made
        self._mock = mock

        async def on_message(message: discord.Message) -> None:
            if made.user is not None and message.author.id != made.user.id:
                await message.channel.send(f"pong {message.content}")

        waiting_for = set(range(shards or 0))

        async def on_shard_connect(shard_id: int) -> None:
            waiting_for.discard(shard_id)
            if not waiting_for:
                self.connected.set()

        async def on_connect() -> None:
            if shards is None:
                self.connected.set()

        async def on_resumed() -> None:
            self.resumed.set()

        async def on_shard_resumed(_: int) -> None:
            self.resumed.set()

        for handler in (on_message, on_shard_connect, on_connect, on_resumed, on_shard_resumed):
            made.event(handler)

    async def __aenter__(self) -> DiscordPy:
        self._task = asyncio.create_task(self.client.start(self._mock.token))
        await asyncio.wait_for(self.connected.wait(), 15)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await asyncio.gather(self._task, return_exceptions=True)


class Hikari:
    """A hikari bot that answers."""

    def __init__(self, mock: MockDiscord) -> None:
        self.connected = asyncio.Event()
        self.resumed = asyncio.Event()
        self.bot = hikari.GatewayBot(
            mock.token,
            banner=None,
            logs=None,
            intents=hikari.Intents.ALL,
            rest_url=mock.api_base,
            suppress_optimization_warning=True,
        )

        async def on_message(event: hikari.MessageCreateEvent) -> None:
            if event.is_human:
                await event.message.respond(f"pong {event.message.content}")

        async def on_ready(_: hikari.ShardReadyEvent) -> None:
            self.connected.set()

        async def on_resumed(_: hikari.ShardResumedEvent) -> None:
            self.resumed.set()

        self.bot.subscribe(hikari.MessageCreateEvent, on_message)
        self.bot.subscribe(hikari.ShardReadyEvent, on_ready)
        self.bot.subscribe(hikari.ShardResumedEvent, on_resumed)

    async def __aenter__(self) -> Hikari:
        await self.bot.start(check_for_updates=False)
        await asyncio.wait_for(self.connected.wait(), 15)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bot.close()


@pytest.fixture
async def mock(monkeypatch: pytest.MonkeyPatch):
    async with mocked() as made:
        monkeypatch.setattr(discord.http.Route, "BASE", made.api_base)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(made.gateway_url))
        yield made


@pytest.fixture(params=["discord.py", "hikari"])
async def bot(request: pytest.FixtureRequest, mock: MockDiscord):
    made: Any = Hikari(mock) if request.param == "hikari" else DiscordPy(mock, shards=None)
    async with made:
        yield mock, made


async def test_sharded_client_hears_its_guilds_on_the_right_shard_and_resumes(mock: MockDiscord):
    """discord.py waits 5 s between two shards."""
    async with DiscordPy(mock, shards=2) as made:
        told = await mock.say(GUILD, "hello", 10)
        assert [m["content"] for m in told["replies"]] == ["pong hello"]
        await mock.cut(code=1006)
        told = await mock.say(GUILD, "meanwhile", 15)
        assert [m["content"] for m in told["replies"]] == ["pong meanwhile"]
        await asyncio.wait_for(made.resumed.wait(), 15)


async def test_client_hears_a_message_and_answers(bot):
    mock, _ = bot
    told = await mock.say(GUILD, "hello", 10)
    assert [m["content"] for m in told["replies"]] == ["pong hello"]


async def test_client_answers_a_direct_message(bot):
    mock, _ = bot
    told = await mock.dm("hello", 10)
    assert [m["content"] for m in told["replies"]] == ["pong hello"]


@pytest.mark.parametrize("cut", ["op 7", "1006", "4000"])
async def test_client_resumes_and_gets_what_it_missed(bot, cut: str):
    mock, made = bot
    sessions = {session.id for session in mock.sessions}
    if cut == "op 7":
        mock.reconnect()
    else:
        await mock.cut(code=int(cut))
    told = await mock.say(GUILD, "meanwhile", 15)
    assert [m["content"] for m in told["replies"]] == ["pong meanwhile"]
    await asyncio.wait_for(made.resumed.wait(), 15)
    assert {session.id for session in mock.sessions} == sessions


async def test_client_sees_a_429_and_tries_again(bot):
    mock, _ = bot
    mock.faults.rest_429 = 1
    told = await mock.say(GUILD, "hello", 10)
    assert [m["content"] for m in told["replies"]] == ["pong hello"]
    assert mock.faults.rest_429 == 0
