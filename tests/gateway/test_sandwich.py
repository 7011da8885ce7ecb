"""The Sandwich client against a small server that answers as Sandwich does, with the mock Discord behind it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pytw.discord import DiscordRest
from pytw.errors import DiscordUnavailable
from pytw.fauxpas.mockdiscord import BOT_ID, VISITOR_ID, general_channel
from pytw.gateway import Sandwich
from tests.gateway.parts import GUILD, mocked


@asynccontextmanager
async def sandwiched(*answers: web.Response):
    """A client whose Sandwich gives *answers* in turn; yields it and what was asked."""
    left, seen = list(answers), []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.path_qs)
        return left.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
            async with Sandwich(f"http://127.0.0.1:{runner.addresses[0][1]}", rest) as client:
                yield client, seen
    finally:
        await runner.cleanup()


def found(data: Any) -> web.Response:
    return web.json_response({"ok": True, "data": data})


def missed() -> web.Response:
    return web.json_response({"ok": False, "error": "not found"}, status=400)


async def test_cached_state_is_used():
    async with sandwiched(found({"id": "1", "name": "cached"})) as (client, seen):
        assert (await client.guild(1))["name"] == "cached"
        assert seen == ["/antiraid/api/state?col=guilds&id=1"]


async def test_miss_is_asked_of_discord():
    async with sandwiched(*(missed() for _ in range(5))) as (client, _):
        assert (await client.guild(GUILD))["approximate_member_count"] == 2
        assert (await client.member(GUILD, VISITOR_ID))["user"]["id"] == str(VISITOR_ID)
        assert [r["name"] for r in await client.roles(GUILD)] == ["@everyone"]
        assert [c["name"] for c in await client.channels(GUILD)] == ["general"]
        assert (await client.channel(general_channel(GUILD), guild_id=GUILD))["name"] == "general"


async def test_member_known_to_be_absent_is_not_asked_of_discord():
    async with sandwiched(web.json_response({"ok": True})) as (client, _):
        assert await client.member(GUILD, VISITOR_ID) is None


async def test_channel_that_nobody_knows_is_none():
    async with sandwiched(missed()) as (client, _):
        assert await client.channel(7) is None


async def test_sandwich_out_of_reach_falls_back_to_discord():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        async with Sandwich("http://127.0.0.1:1", rest) as client:
            assert (await client.guild(GUILD))["id"] == str(GUILD)
            with pytest.raises(DiscordUnavailable):
                await client.shard_count()


async def test_not_ready_is_waited_for_as_told():
    busy = web.json_response({"error": "not ready"}, status=429, headers={"Retry-After": "0"})
    async with sandwiched(busy, web.json_response({"shards": 4})) as (client, seen):
        assert await client.shard_count() == 4
        assert seen == ["/antiraid/api/gateway/bot"] * 2


async def test_retries_end():
    busy = [web.json_response({}, status=429, headers={"Retry-After": "0"}) for _ in range(12)]
    async with sandwiched(*busy) as (client, seen):
        with pytest.raises(DiscordUnavailable):
            await client.shard_count()
        assert len(seen) == 10


@pytest.mark.parametrize("answer", [{"shards": 0}, {}, {"shards": "x"}])
async def test_shard_count_of_nothing_is_an_error(answer: dict[str, Any]):
    async with sandwiched(web.json_response(answer)) as (client, _):
        with pytest.raises(DiscordUnavailable):
            await client.shard_count()


async def test_current_user_and_guilds():
    async with sandwiched(found({"id": "0"}), found({"id": str(BOT_ID)}), found([1, 0])) as (client, _):
        with pytest.raises(DiscordUnavailable):
            await client.current_user()
        assert (await client.current_user())["id"] == str(BOT_ID)
        assert await client.has_guilds([1, 2]) == [True, False]
