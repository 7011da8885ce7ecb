"""The mock's protocol, frame by frame, and its control surface."""

from __future__ import annotations

import asyncio
import json
import zlib
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from pytw.errors import AddressInUse, RequestError
from pytw.fauxpas.mockdiscord import BOT_ID, VISITOR_ID, MockDiscord, dm_channel, general_channel

GUILD = 5 << 22
ALL = 53_608_447


@asynccontextmanager
async def mocked(**options: Any):
    options.setdefault("identify_window_s", 0.0)
    mock = MockDiscord(**options)
    await mock.start()
    try:
        yield mock
    finally:
        await mock.close()


class Client:
    """A bare gateway client without compression."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def send(self, op: int, d: Any = None) -> None:
        await self.socket.send_str(json.dumps({"op": op, "d": d}))

    async def frame(self) -> dict[str, Any]:
        return json.loads(await self.socket.receive_str(timeout=5))

    async def until(self, *, op: int = 0, t: str | None = None) -> dict[str, Any]:
        while True:
            frame = await self.frame()
            if frame["op"] == op and (t is None or frame["t"] == t):
                return frame

    async def identify(self, token: str, **more: Any) -> dict[str, Any]:
        await self.send(2, {"token": token, "intents": ALL, "properties": {}} | more)
        return await self.until(t="READY")

    async def close_code(self) -> int | None:
        async with asyncio.timeout(5):
            async for _ in self.socket:
                pass
        return self.socket.close_code


@asynccontextmanager
async def client(mock: MockDiscord, query: str = "?v=10&encoding=json", path: str = "/gateway"):
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://{mock.host}:{mock.port}{path}{query}") as socket,
    ):
        yield Client(socket)


@asynccontextmanager
async def rest(mock: MockDiscord, token: str | None = None):
    headers = {"Authorization": f"Bot {token or mock.token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        yield http


@pytest.mark.parametrize("path", ["/gateway", "/gateway/", "/"])
async def test_hello_comes_first_with_and_without_a_trailing_slash(path: str):
    async with mocked() as mock, client(mock, path=path) as peer:
        assert (await peer.frame())["d"]["heartbeat_interval"] == 41_250


async def test_envelope_keys_stand_in_discords_order():
    async with mocked() as mock, client(mock) as peer:
        assert list(await peer.frame()) == ["t", "s", "op", "d"]
        assert list(await peer.identify(mock.token)) == ["t", "s", "op", "d"]


async def test_heartbeat_before_identify_and_binary_json_are_accepted():
    async with mocked() as mock, client(mock) as peer:
        await peer.socket.send_bytes(b'{"op":1,"d":null}')
        assert (await peer.until(op=11))["s"] is None


@pytest.mark.parametrize("prefix", ["", "Bot "])
async def test_ready_is_the_first_sequence_and_guilds_follow(prefix: str):
    async with mocked(guilds=[GUILD]) as mock, client(mock) as peer:
        ready = await peer.identify(prefix + mock.token)
        guild = await peer.frame()
        assert (ready["s"], guild["s"], guild["t"]) == (1, 2, "GUILD_CREATE")
        assert ready["d"]["guilds"] == [{"unavailable": True, "id": str(GUILD)}]
        assert ready["d"]["resume_gateway_url"] == mock.gateway_url
        assert guild["d"]["id"] == str(GUILD)


async def test_events_go_to_the_shard_of_their_guild_and_direct_messages_to_shard_0():
    async with mocked(guilds=[4 << 22, 5 << 22]) as mock, client(mock) as zero, client(mock) as one:
        await zero.identify(mock.token, shard=[0, 2])
        await one.identify(mock.token, shard=[1, 2])
        await mock.say(5 << 22, "odd")
        await mock.dm("private")
        await mock.say(4 << 22, "even")
        assert (await one.until(t="MESSAGE_CREATE"))["d"]["content"] == "odd"
        assert (await zero.until(t="MESSAGE_CREATE"))["d"]["content"] == "private"
        assert (await zero.until(t="MESSAGE_CREATE"))["d"]["content"] == "even"


async def test_intents_decide_what_a_session_gets():
    async with mocked(guilds=[GUILD]) as mock, client(mock) as peer:
        await peer.identify(mock.token, intents=1)
        assert (await mock.say(GUILD, "unheard"))["sessions"] == 0
        assert mock.dispatch("CHANNEL_CREATE", {"guild_id": str(GUILD)}) == 1


async def test_missed_events_are_replayed_before_resumed():
    async with mocked(guilds=[GUILD]) as mock:
        async with client(mock) as peer:
            ready = await peer.identify(mock.token)
            await mock.cut(code=1006)
        for text in "abc":
            await mock.say(GUILD, text)
        async with client(mock) as peer:
            await peer.send(6, {"token": mock.token, "session_id": ready["d"]["session_id"], "seq": 2})
            frames = [await peer.frame() for _ in range(5)][1:]
            assert [f["d"].get("content") for f in frames] == ["a", "b", "c", None]
            assert [f["s"] for f in frames] == [3, 4, 5, 6]
            assert frames[-1]["t"] == "RESUMED"


async def test_closing_with_1000_ends_the_session():
    async with mocked() as mock:
        async with client(mock) as peer:
            ready = await peer.identify(mock.token)
            await peer.socket.close(code=1000)
        # The close is answered before the mock's own end of the connection has run.
        async with asyncio.timeout(5):
            while mock.state()["sessions"]:
                await asyncio.sleep(0)
        async with client(mock) as peer:
            await peer.send(6, {"token": mock.token, "session_id": ready["d"]["session_id"], "seq": 1})
            assert (await peer.until(op=9))["d"] is False


async def test_session_is_forgotten_after_a_while():
    now = 0.0
    async with mocked(clock=lambda: now, resumable_s=100.0) as mock:
        async with client(mock) as peer:
            ready = await peer.identify(mock.token)
            await mock.cut(code=1006)
            await peer.close_code()
        now = 101.0
        async with client(mock) as peer:
            await peer.send(6, {"token": mock.token, "session_id": ready["d"]["session_id"], "seq": 1})
            assert (await peer.until(op=9))["d"] is False


async def test_bucket_allows_one_identify_a_window():
    now = 0.0
    async with mocked(clock=lambda: now, identify_window_s=5.0, max_concurrency=16) as mock:
        async with client(mock) as peer:
            await peer.identify(mock.token, shard=[0, 32])
        async with client(mock) as peer:
            await peer.send(2, {"token": mock.token, "intents": 1, "shard": [16, 32]})
            assert (await peer.until(op=9))["d"] is False
            now = 5.0
            assert (await peer.identify(mock.token, shard=[16, 32]))["d"]["shard"] == [16, 32]
        async with client(mock) as peer:
            await peer.identify(mock.token, shard=[1, 32])


@pytest.mark.parametrize(
    ("op", "d", "code"),
    [
        (2, {"token": "wrong", "intents": 1}, 4004),
        (2, {"token": "TOKEN", "intents": 1, "shard": [2, 2]}, 4010),
        (2, {"token": "TOKEN", "intents": -1}, 4013),
        (2, {"token": "TOKEN", "intents": 1 << 40}, 4013),
        (3, {}, 4003),
        (99, {}, 4001),
        (2, "text", 4002),
        (1, "x" * 5_000, 4002),
    ],
)
async def test_bad_frame_closes_with_its_code(op: int, d: Any, code: int):
    async with mocked() as mock, client(mock) as peer:
        if isinstance(d, dict) and d.get("token") == "TOKEN":
            d = d | {"token": mock.token}
        await peer.send(op, d)
        assert await peer.close_code() == code


async def test_second_identify_closes_with_4005():
    async with mocked() as mock, client(mock) as peer:
        await peer.identify(mock.token)
        await peer.send(2, {"token": mock.token, "intents": 1})
        assert await peer.close_code() == 4005


async def test_unknown_version_closes_with_4012():
    async with mocked() as mock, client(mock, "?v=3") as peer:
        assert await peer.close_code() == 4012


async def test_more_than_120_frames_a_minute_close_with_4008():
    now = 0.0
    async with mocked(clock=lambda: now) as mock, client(mock) as peer:
        for _ in range(121):
            await peer.send(1)
        assert await peer.close_code() == 4008


async def test_sequence_from_the_future_closes_with_4007():
    async with mocked() as mock:
        async with client(mock) as peer:
            ready = await peer.identify(mock.token)
            await mock.cut(code=1006)
        async with client(mock) as peer:
            await peer.send(6, {"token": mock.token, "session_id": ready["d"]["session_id"], "seq": 99})
            assert await peer.close_code() == 4007


async def test_zlib_stream_keeps_one_context_and_ends_each_message_with_a_flush():
    async with mocked() as mock, client(mock, "?v=10&encoding=json&compress=zlib-stream") as peer:
        context = zlib.decompressobj()
        hello = await peer.socket.receive_bytes(timeout=5)
        await peer.send(2, {"token": mock.token, "intents": 1})
        ready = await peer.socket.receive_bytes(timeout=5)
        assert hello.endswith(b"\x00\x00\xff\xff")
        assert ready.endswith(b"\x00\x00\xff\xff")
        assert [json.loads(context.decompress(data))["op"] for data in (hello, ready)] == [10, 0]


async def test_payload_compression_packs_each_large_frame_alone():
    async with mocked() as mock, client(mock) as peer:
        await peer.frame()
        await peer.send(2, {"token": mock.token, "intents": 1, "compress": True})
        assert json.loads(zlib.decompress(await peer.socket.receive_bytes(timeout=5)))["t"] == "READY"


async def test_resuming_connection_takes_the_session_over():
    async with mocked() as mock, client(mock) as old, client(mock) as new:
        ready = await old.identify(mock.token)
        await new.send(6, {"token": mock.token, "session_id": ready["d"]["session_id"], "seq": 1})
        await new.until(t="RESUMED")
        assert await old.close_code() == 4000
        assert (await mock.say(GUILD, "x"))["sessions"] == 1
        assert (await new.until(t="MESSAGE_CREATE"))["d"]["content"] == "x"


# ---- REST


@pytest.mark.parametrize("version", ["v9", "v10"])
@pytest.mark.parametrize(
    "path",
    [
        "/gateway",
        "/gateway/bot",
        "/users/@me",
        "/oauth2/applications/@me",
        "/applications/@me",
        f"/guilds/{GUILD}?with_counts=true",
        f"/guilds/{GUILD}/channels",
        f"/guilds/{GUILD}/roles",
        f"/guilds/{GUILD}/members/{VISITOR_ID}",
        f"/channels/{general_channel(GUILD)}",
        f"/channels/{general_channel(GUILD)}/messages",
    ],
)
async def test_route_answers_plain_json_with_rate_limit_headers(version: str, path: str):
    async with (
        mocked() as mock,
        rest(mock) as http,
        http.get(f"http://{mock.host}:{mock.port}/api/{version}{path}") as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset-After"} <= set(answer.headers)
        assert isinstance(await answer.json(), dict | list)


async def test_wrong_token_is_401_except_for_the_gateways_url():
    async with mocked() as mock, rest(mock, "wrong") as http:
        for path, status in (("/users/@me", 401), ("/gateway/bot", 401), ("/gateway", 200)):
            async with http.get(mock.api_base + path) as answer:
                assert answer.status == status


async def test_message_can_be_posted_read_edited_and_deleted():
    async with mocked() as mock, rest(mock) as http:
        base = f"{mock.api_base}/channels/{general_channel(GUILD)}/messages"
        async with http.post(base, json={"content": "one", "embeds": [{"title": "t"}]}) as answer:
            made = await answer.json()
        assert made["author"]["id"] == str(BOT_ID)
        assert made["embeds"] == [{"title": "t"}]
        async with http.patch(f"{base}/{made['id']}", json={"content": "two"}) as answer:
            assert (await answer.json())["content"] == "two"
        async with http.get(base) as answer:
            assert [m["content"] for m in await answer.json()] == ["two"]
        async with http.delete(f"{base}/{made['id']}") as answer:
            assert answer.status == 204
        async with http.get(f"{base}/{made['id']}") as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, 10008)


async def test_multipart_message_has_its_attachments():
    async with mocked() as mock, rest(mock) as http:
        form = aiohttp.FormData()
        form.add_field("files[0]", b"bytes", filename="a.txt", content_type="text/plain")
        form.add_field("payload_json", '{"content":"with a file"}', content_type="text/plain")
        async with http.post(f"{mock.api_base}/channels/{general_channel(GUILD)}/messages", data=form) as answer:
            made = await answer.json()
        assert made["content"] == "with a file"
        assert made["attachments"][0]["filename"] == "a.txt"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (f"/channels/{general_channel(GUILD)}/messages", b"{}", 400, 50006),
        (f"/channels/{general_channel(GUILD)}/messages", b"nonsense", 400, 50109),
        (f"/channels/{general_channel(GUILD)}/messages", b'{"content":"%b"}' % (b"x" * 2_001), 400, 50035),
        ("/channels/7/messages", b'{"content":"x"}', 404, 10003),
        ("/channels/..%2f7/messages", b'{"content":"x"}', 404, 10003),
        ("/nothing/here", b"{}", 404, 0),
    ],
)
async def test_bad_request_has_discords_error(path: str, body: bytes, status: int, code: int):
    async with mocked() as mock, rest(mock) as http, http.post(mock.api_base + path, data=body) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (status, code)


async def test_used_up_limit_is_429_with_via_and_retry_after():
    async with mocked(rest_limit=1, rest_window_s=60.0) as mock, rest(mock) as http:
        url = f"{mock.api_base}/channels/{general_channel(GUILD)}"
        async with http.get(url) as answer:
            assert answer.headers["X-RateLimit-Remaining"] == "0"
        async with http.get(url) as answer:
            assert answer.status == 429
            assert "Via" in answer.headers
            assert float(answer.headers["Retry-After"]) > 0
            assert (await answer.json())["global"] is False
        async with http.get(f"{mock.api_base}/channels/{general_channel(GUILD + 1)}") as answer:
            assert answer.status == 200


# ---- control


async def test_say_returns_when_the_bot_has_answered():
    async with mocked(guilds=[GUILD]) as mock, client(mock) as peer, rest(mock) as http:
        await peer.identify(mock.token)
        saying = asyncio.create_task(mock.say(GUILD, "ping", 30.0))
        heard = await peer.until(t="MESSAGE_CREATE")
        url = f"{mock.api_base}/channels/{heard['d']['channel_id']}/messages"
        async with http.post(url, json={"content": "pong"}) as answer:
            assert answer.status == 200
        told = await asyncio.wait_for(saying, 5)
        assert told["sent"]["content"] == "ping"
        assert [m["content"] for m in told["replies"]] == ["pong"]
        assert (await peer.until(t="MESSAGE_CREATE"))["d"]["author"]["id"] == str(BOT_ID)


async def test_say_gives_up_after_its_wait():
    async with mocked() as mock:
        assert (await mock.say(GUILD, "anyone?", 0.05))["replies"] == []


async def test_impossible_guild_is_refused():
    async with mocked() as mock:
        with pytest.raises(RequestError):
            await mock.say(1 << 62, "x")


async def test_control_over_http():
    async with mocked() as mock, aiohttp.ClientSession(f"http://{mock.host}:{mock.port}") as http, client(mock) as peer:
        await peer.identify(mock.token)
        async with http.post("/mock/say", json={"guild_id": str(GUILD), "content": "hi", "author_id": "77"}) as answer:
            assert (await answer.json())["sent"]["author"]["id"] == "77"
        async with http.post("/mock/dm", json={"content": "hi", "author_id": 77}) as answer:
            assert (await answer.json())["sent"]["channel_id"] == str(dm_channel(77))
        event = {"t": "GUILD_BAN_ADD", "d": {"guild_id": str(GUILD), "user": {"id": "1"}}}
        async with http.post("/mock/events", json=event) as answer:
            assert await answer.json() == {"sessions": 1}
        assert (await peer.until(t="GUILD_BAN_ADD"))["d"]["user"]["id"] == "1"
        mock.world.post(general_channel(GUILD), BOT_ID, {"content": "seen"})
        async with http.get("/mock/messages?after=0") as answer:
            assert [m["content"] for m in await answer.json()] == ["seen"]
        async with http.post("/mock/faults", json={"kind": "reconnect"}) as answer:
            assert (await answer.json())["connections"] == 1
        assert await peer.until(op=7)
        for body in ({"kind": "nonsense"}, {"content": 5}, {}):
            async with http.post("/mock/faults", json=body) as answer:
                assert answer.status == 400


async def test_control_is_out_of_reach_for_a_page_of_a_browser():
    async with mocked() as mock, aiohttp.ClientSession() as http:
        url = f"http://{mock.host}:{mock.port}/mock/say"
        async with http.post(
            url, data='{"guild_id":"1","content":"x"}', headers={"Content-Type": "text/plain"}
        ) as answer:
            assert answer.status == 415
        async with http.post(url, json={}, headers={"Host": "evil.test"}) as answer:
            assert answer.status == 403


async def test_taken_port_is_named():
    async with mocked() as mock:
        with pytest.raises(AddressInUse, match=str(mock.port)):
            await MockDiscord().start(port=mock.port)
