"""The REST client against the mock Discord, over sockets."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pytw.discord import DiscordRest
from pytw.errors import DiscordUnavailable, Forbidden, NotFound, RequestError, TokenRefused
from pytw.fauxpas.mockdiscord import VISITOR_ID, MockDiscord, general_channel

GUILD = 5 << 22
CHANNEL = general_channel(GUILD)


@asynccontextmanager
async def mocked(**options: Any):
    mock = MockDiscord(**options)
    await mock.start()
    try:
        yield mock
    finally:
        await mock.close()


@asynccontextmanager
async def served(*answers: web.Response | Exception):
    """A server that gives *answers* in turn and keeps the requests."""
    left, seen = list(answers), []

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        made = left.pop(0)
        if isinstance(made, Exception):
            assert request.transport is not None
            request.transport.abort()
            raise made
        return made

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v10", seen
    finally:
        await runner.cleanup()


def limited(after: str, **headers: str) -> web.Response:
    return web.Response(
        status=429,
        body=b'{"message":"slow","retry_after":%b,"global":false}' % after.encode(),
        headers={"Retry-After": after, "Via": "1.1 x"} | headers,
    )


async def test_message_is_created_as_the_bot():
    async with mocked() as mock, DiscordRest(mock.api_base, f"Bot {mock.token}") as rest:
        made = await rest.create_message(CHANNEL, {"content": "hello"})
        assert made["content"] == "hello" and made["author"]["id"] == str(mock.bot_id)
        assert [m["id"] for m in mock.messages()] == [made["id"]]


async def test_guild_comes_with_counts_when_asked():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        assert (await rest.get_guild(GUILD))["id"] == str(GUILD)
        assert (await rest.get_guild(GUILD, counts=True))["approximate_member_count"] == 2


async def test_gateway_and_user():
    async with mocked(shards=3) as mock, DiscordRest(mock.api_base, mock.token) as rest:
        assert (await rest.gateway_bot())["shards"] == 3
        assert (await rest.users_me())["id"] == str(mock.bot_id)


async def test_any_request_and_an_empty_answer():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        made = await rest.create_message(CHANNEL, {"content": "x"})
        path = f"/channels/{CHANNEL}/messages/{made['id']}"
        assert (await rest.request("PATCH", path, json={"content": "y"}))["content"] == "y"
        assert await rest.request("delete", path) is None


async def test_discords_message_reaches_the_caller():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        with pytest.raises(NotFound, match=re.escape("Unknown Channel (code 10003)")):
            await rest.create_message(7, {"content": "x"})
        with pytest.raises(RequestError, match=re.escape("content: Must be 2000 or fewer in length. (code 50035)")):
            await rest.request("POST", f"/channels/{CHANNEL}/messages", json={"content": "x" * 2_001})


async def test_forbidden_is_named():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        theirs = mock.world.post(CHANNEL, VISITOR_ID, {"content": "theirs"})
        assert theirs is not None
        with pytest.raises(Forbidden):
            await rest.request("PATCH", f"/channels/{CHANNEL}/messages/{theirs[0]['id']}", json={"content": "y"})


async def test_wrong_token_is_refused_once_and_never_sent_again():
    async with served(web.json_response({"message": "401: Unauthorized", "code": 0}, status=401)) as (base, seen):
        async with DiscordRest(base, "wrong") as rest:
            for _ in range(3):
                with pytest.raises(TokenRefused):
                    await rest.users_me()
        assert len(seen) == 1


async def test_429_is_waited_for():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        mock.faults.rest_429, mock.faults.retry_after_s = 1, 0.15
        began = asyncio.get_running_loop().time()
        await rest.create_message(CHANNEL, {"content": "x"})
        assert asyncio.get_running_loop().time() - began >= 0.15


async def test_429_that_lasts_longer_than_the_call_fails_at_once():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token, total_s=2.0) as rest:
        mock.faults.rest_429, mock.faults.retry_after_s = 1, 3_600.0
        with pytest.raises(DiscordUnavailable, match="3600 s"):
            await asyncio.wait_for(rest.create_message(CHANNEL, {"content": "x"}), 1.5)


async def test_global_429_holds_every_route():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        mock.faults.rest_429, mock.faults.retry_after_s, mock.faults.rest_429_global = 1, 0.3, True
        began = asyncio.get_running_loop().time()
        first = asyncio.create_task(rest.users_me())
        await first
        assert asyncio.get_running_loop().time() - began >= 0.3


async def test_burst_stays_within_the_limit_that_headers_tell():
    async with mocked(rest_limit=5, rest_window_s=0.3) as mock, DiscordRest(mock.api_base, mock.token) as rest:
        await asyncio.gather(*(rest.create_message(CHANNEL, {"content": str(i)}) for i in range(12)))
        assert len(mock.messages()) == 12


async def test_lost_answer_of_a_post_is_not_sent_again():
    async with served(ConnectionResetError()) as (base, seen), DiscordRest(base, "t") as rest:
        with pytest.raises(DiscordUnavailable):
            await rest.create_message(CHANNEL, {"content": "x"})
        assert len(seen) == 1


async def test_lost_answer_of_a_get_is_asked_for_again():
    async with served(ConnectionResetError(), web.json_response({"id": "1"})) as (base, seen):
        async with DiscordRest(base, "t") as rest:
            assert await rest.users_me() == {"id": "1"}
        assert len(seen) == 2


async def test_5xx_is_tried_again_within_bounds():
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        mock.faults.rest_5xx = 2
        assert (await rest.users_me())["id"] == str(mock.bot_id)
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token, total_s=1.0) as rest:
        mock.faults.rest_5xx = 100
        with pytest.raises(DiscordUnavailable, match="502"):
            await rest.users_me()


async def test_5xx_of_a_post_is_not_tried_again():
    """Discord may have done it."""
    async with mocked() as mock, DiscordRest(mock.api_base, mock.token) as rest:
        mock.faults.rest_5xx = 2
        with pytest.raises(DiscordUnavailable, match="502"):
            await rest.create_message(CHANNEL, {"content": "x"})
        assert mock.faults.rest_5xx == 1


async def test_unreachable_discord_is_named():
    async with DiscordRest("http://127.0.0.1:1/api/v10", "t", total_s=0.4) as rest:
        with pytest.raises(DiscordUnavailable, match="cannot be reached"):
            await rest.users_me()


async def test_headers_that_discord_wants():
    async with served(web.json_response({})) as (base, seen), DiscordRest(base, "Bot t") as rest:
        await rest.request("PATCH", "/guilds/1", json={"a": 1}, reason="bad guy ü/")
        method, path, headers, body = seen[0]
        assert (method, path, body) == ("PATCH", "/api/v10/guilds/1", b'{"a":1}')
        assert headers["Authorization"] == "Bot t"
        assert headers["User-Agent"].startswith("DiscordBot (")
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Audit-Log-Reason"] == "bad%20guy%20%C3%BC%2F"


@pytest.mark.parametrize("after", ["nonsense", "-5", "nan", "inf", ""])
async def test_nonsense_in_retry_after_is_bounded(after: str):
    bad = web.Response(status=429, body=b"not json", headers={"Retry-After": after})
    async with served(bad, web.json_response({"id": "1"})) as (base, _), DiscordRest(base, "t") as rest:
        assert await asyncio.wait_for(rest.users_me(), 5) == {"id": "1"}


async def test_shared_limit_is_obeyed_over_the_reset_header():
    shared = limited(
        "0.3",
        **{
            "X-RateLimit-Limit": "5",
            "X-RateLimit-Remaining": "4",
            "X-RateLimit-Reset-After": "0.01",
            "X-RateLimit-Bucket": "b",
            "X-RateLimit-Scope": "shared",
        },
    )
    async with served(shared, web.json_response({"id": "1"})) as (base, _), DiscordRest(base, "t") as rest:
        began = asyncio.get_running_loop().time()
        await rest.users_me()
        assert asyncio.get_running_loop().time() - began >= 0.3
