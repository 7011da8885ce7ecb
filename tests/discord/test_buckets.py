"""Rate-limit buckets with literal headers and a clock that is passed in."""

from __future__ import annotations

import asyncio

import pytest

from pytw.discord.buckets import Buckets, RateLimited
from pytw.discord.routes import CREATE_MESSAGE, GET_CHANNEL, call_of
from pytw.errors import RequestError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def headers(limit: int, left: int, after: float, name: str = "abc") -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset-After": str(after),
        "X-RateLimit-Bucket": name,
    }


CALL = CREATE_MESSAGE.call(channel_id=1)
OTHER = CREATE_MESSAGE.call(channel_id=2)


async def test_unknown_bucket_lets_one_through_until_its_answer():
    buckets = Buckets(clock=Clock())
    first = await buckets.take(CALL, until=200)
    second = asyncio.create_task(buckets.take(CALL, until=200))
    assert not (await asyncio.wait({second}, timeout=0.02))[0]
    buckets.answered(CALL, first, headers(5, 4, 5.0))
    await asyncio.wait_for(second, 5)


async def test_other_major_parameter_has_its_own_bucket():
    buckets = Buckets(clock=Clock())
    await buckets.take(CALL, until=200)
    await asyncio.wait_for(buckets.take(OTHER, until=200), 5)


async def test_used_up_bucket_fails_at_once_if_it_opens_too_late():
    clock = Clock()
    buckets = Buckets(clock=clock)
    buckets.answered(CALL, await buckets.take(CALL, until=200), headers(1, 0, 60.0))
    with pytest.raises(RateLimited) as caught:
        await buckets.take(CALL, until=130)
    assert caught.value.after_s == 60.0
    clock.now = 160.0
    await asyncio.wait_for(buckets.take(CALL, until=200), 5)


async def test_requests_in_flight_count():
    buckets = Buckets(clock=Clock())
    buckets.answered(CALL, await buckets.take(CALL, until=200), headers(3, 2, 60.0))
    first = await buckets.take(CALL, until=200)
    await buckets.take(CALL, until=200)
    buckets.answered(CALL, first, headers(3, 1, 59.0))
    with pytest.raises(RateLimited):
        await buckets.take(CALL, until=101)


async def test_routes_with_one_hash_share_a_bucket():
    buckets = Buckets(clock=Clock())
    get = GET_CHANNEL.call(channel_id=1)
    buckets.answered(CALL, await buckets.take(CALL, until=200), headers(2, 1, 60.0))
    buckets.answered(get, await buckets.take(get, until=200), headers(2, 0, 60.0))
    with pytest.raises(RateLimited):
        await buckets.take(CALL, until=101)


async def test_global_limit_holds_all():
    buckets = Buckets(clock=Clock())
    buckets.refused(CALL, await buckets.take(CALL, until=200), {}, 30.0, everywhere=True)
    with pytest.raises(RateLimited):
        await buckets.take(OTHER, until=110)


async def test_lost_request_gives_its_place_back():
    buckets = Buckets(clock=Clock())
    buckets.lost(await buckets.take(CALL, until=200))
    await asyncio.wait_for(buckets.take(CALL, until=200), 5)


def test_path_without_a_route_has_its_ids_replaced_and_its_major_kept():
    call = call_of("DELETE", "/channels/410000000000000102/messages/1434598123456790529")
    assert (call.route, call.major) == ("DELETE /channels/{id}/messages/{id}", "/channels/410000000000000102")


def test_parts_of_a_path_are_escaped():
    assert GET_CHANNEL.call(channel_id="a/b?c#d").path == "/channels/a%2Fb%3Fc%23d"
    for climbing in ("..", ".", "../users/@me", "%2e%2e"):
        with pytest.raises(RequestError):
            GET_CHANNEL.call(channel_id=climbing)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "guilds/1",
        "//evil.test/x",
        "/guilds/../users/@me",
        "/a b",
        "/a#b",
        "/a\n",
        "@evil.test/",
        "/guilds/%2e%2E/users/@me",
    ],
)
def test_path_that_leads_elsewhere_is_refused(path: str):
    with pytest.raises(RequestError):
        call_of("GET", path)


@pytest.mark.parametrize(
    "path", ["/users/@me", "/guilds/1?with_counts=true", "/channels/1/messages/2/reactions/%F0%9F%91%8D/@me"]
)
def test_ordinary_path_is_taken_as_it_is(path: str):
    assert call_of("GET", path).path == path
