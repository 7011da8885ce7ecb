"""`http.send`: what goes out, what comes back, and how much of it."""

import asyncio
import gzip
import re
import zlib

import msgpack
import pytest

from pytw import values
from pytw.errors import DeadlineExceeded, Overloaded, RequestError, Unavailable
from pytw.limits import HTTP_BODY_BYTES_MAX
from pytw.worker.context import http
from pytw.worker.context.http import USER_AGENT, Http
from pytw.worker.context.httpguard import HttpGuard

from .fakes import call, results
from .httprig import Internet, answering, ok, serving, web_site


@pytest.fixture
async def site():
    async with web_site() as found:
        yield found


async def test_request_reaches_the_server_as_it_was_made(site: Internet):
    answer = await site.ask(
        "http://a.good.test/x%20y?q=%C3%A9#part",
        method="post",
        headers=[["X-One", "1"], ["x-one", "2"], ["Authorization", "t\u00e9"], ["Content-Type", "text/plain"]],
        body=msgpack.ExtType(2, b"\x00\xff"),
    )
    assert (answer["status"], answer["body"], answer["content_length"]) == (201, "h\u00e9llo".encode(), 6)
    assert answer["url"] == "http://a.good.test/x%20y?q=%C3%A9"
    assert ["x-thing", "a"] in answer["headers"]
    ((request, body),) = site.seen
    assert (request.method, request.raw_path, request.host, body) == (
        "POST",
        "/x%20y?q=%C3%A9",
        "a.good.test",
        b"\x00\xff",
    )
    assert request.headers.getall("X-One") == ["1", "2"]
    assert request.headers["Authorization"] == "t\u00e9"
    assert request.headers["User-Agent"] == USER_AGENT
    assert re.fullmatch(r"pytw/\d+(\.\d+)*\S*", USER_AGENT)


async def test_nothing_of_one_request_is_in_the_next(site: Internet):
    """No cookie, no connection: they could be another tenant's."""
    for _ in range(2):
        await site.ask()
    assert "Cookie" not in site.seen[1][0].headers
    assert site.peers[0] != site.peers[1]
    assert len(site.lookups) == 2


@pytest.mark.parametrize("body", [None, "text", b"bin", msgpack.ExtType(1, b"\xff")])
async def test_bodies(site: Internet, body: object):
    await site.ask(method="PUT", body=body)
    expected = {None: b"", "text": b"text", b"bin": b"bin"}.get(body, b"\xff")
    assert site.seen[0][1] == expected
    assert "Content-Type" not in site.seen[0][0].headers or body is None


async def test_own_user_agent_and_http_1_0(site: Internet):
    await site.ask(headers=[["user-agent", "mine"]], version="HTTP/1.0")
    request = site.seen[0][0]
    assert (request.headers.getall("User-Agent"), request.version) == (["mine"], (1, 0))


async def test_head_has_no_body_whatever_its_length_says(site: Internet):
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")) as internet:
        assert (await internet.ask(method="HEAD"))["body"] == b""


# ---- what comes back (H04) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"data" * 100)),
        ("x-gzip", gzip.compress(b"data" * 60) + gzip.compress(b"data" * 40)),
        ("deflate", zlib.compress(b"data" * 100)),
        ("deflate", zlib.compress(b"data" * 100, wbits=-15)),
        ("identity", b"data" * 100),
    ],
)
async def test_compression_is_undone(encoding: str, packed: bytes):
    async with serving(answering(ok(packed, b"Content-Encoding: " + encoding.encode(), b"X: y"))) as internet:
        answer = await internet.ask()
    assert answer["body"] == b"data" * 100
    if encoding != "identity":
        assert answer["content_length"] is None
        assert answer["headers"] == [["x", "y"]]


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (gzip.compress(b"data" * 1000)[:-9], "cut off"),
        (b"not gzip at all", "not compressed as it says"),
        (gzip.compress(b"data")[:-8] + b"\0" * 8, "not compressed as it says"),
    ],
)
async def test_broken_compression_is_an_error(packed: bytes, text: str):
    async with serving(answering(ok(packed, b"Content-Encoding: gzip"))) as internet:
        assert text in await internet.refused(RequestError)


async def test_bomb_ends_at_the_cap():
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(200)) + bomb.flush()
    async with serving(answering(ok(packed, b"Content-Encoding: gzip"))) as internet:
        assert await internet.refused(RequestError) == "Response body size exceeds the limit (10,485,760 bytes)"
        assert internet.http._buffered == 0


async def test_endless_chunks_end_at_the_cap():
    async def handler(head, reader, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"20000\r\n" + bytes(0x20000) + b"\r\n")
            await writer.drain()

    async with serving(handler) as internet:
        assert "exceeds the limit" in await internet.refused(RequestError)


async def test_length_over_the_cap_is_refused_before_anything_is_read():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (HTTP_BODY_BYTES_MAX + 1)
    async with serving(answering(head)) as internet:
        assert "exceeds the limit" in await internet.refused(RequestError)


async def test_body_as_long_as_may_be_arrives():
    async with serving(answering(ok(bytes(HTTP_BODY_BYTES_MAX)))) as internet:
        operation = internet.http.operations()["http.send"]
        answer = await operation.handler(call("http.send", {"method": "GET", "url": "http://good.test/"}))
        assert HTTP_BODY_BYTES_MAX < len(answer) <= operation.answer_bytes_max


async def test_large_answers_share_a_bound(monkeypatch):
    monkeypatch.setattr(http, "HTTP_BUFFERED_BYTES_MAX", 100)
    async with serving(answering(ok(bytes(101)))) as internet:
        assert "try again" in await internet.refused(Overloaded)
    async with serving(answering(ok(bytes(99)))) as internet:
        for _ in range(3):
            await internet.ask()


async def test_slow_body_ends_at_the_deadline():
    async def handler(head, reader, writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            # The server's pace, not a wait: bytes keep coming long before the deadline, which none of them moves.
            await asyncio.sleep(0.02)

    async with serving(handler) as internet:
        assert await internet.refused(DeadlineExceeded, timeout_ms=150) == "the request did not end within 0.15 s"


async def test_longest_deadline_is_five_seconds(monkeypatch):
    monkeypatch.setattr(http, "HTTP_TIMEOUT_S", 0.1)

    async def handler(head, reader, writer) -> None:
        await asyncio.Event().wait()

    async with serving(handler) as internet:
        for fields in ({}, {"timeout_ms": 60_000}, {"timeout_ms": float("inf")}):
            assert await internet.refused(DeadlineExceeded, **fields) == "the request did not end within 0.1 s"


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"a" * 1_000_000,
        b"\r\n".join(b"X%d: y" % number for number in range(5_000)),
        b"\r\n".join(b"X%d: %s" % (number, b"y" * 8_000) for number in range(20)),
    ],
    ids=["one", "many", "sum"],
)
async def test_huge_headers_are_refused(headers: bytes):
    async with serving(answering(ok(b"", headers))) as internet:
        with pytest.raises((RequestError, Unavailable)):
            await internet.ask()


async def test_headers_that_are_not_text_are_bytes_to_the_script():
    async with serving(answering(ok(b"", b"A: \xff\xfe", b"B: \xc3\xa9"))) as internet:
        headers = (await internet.ask())["headers"]
    assert ["a", msgpack.ExtType(values.RAW_TEXT, b"\xff\xfe")] in headers
    assert ["b", "\u00e9"] in headers


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", b"HTTP/9 x\r\n\r\n"]
)
async def test_what_is_no_answer_is_an_error(answer: bytes):
    async with serving(answering(answer)) as internet:
        with pytest.raises((RequestError, Unavailable), match=r"good\.test"):
            await internet.ask()


async def test_nobody_listens_or_no_such_name(site: Internet):
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    assert "good.test cannot be reached" in await site.refused(Unavailable)

    async def no_name(host: str, port: int):
        raise OSError("no such name")

    site.http = Http(guard=HttpGuard(["good.test"]), lookup=no_name)
    assert await site.refused(Unavailable) == "the name good.test does not resolve"


# ---- what goes out (H05) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([["X\r\nHost", "evil"]], "is not a header's name"),
        ([["X:", "evil"]], "is not a header's name"),
        ([["", "x"]], "is not a header's name"),
        ([["X Y", "x"]], "is not a header's name"),
        ([["\u00e9", "x"]], "is not a header's name"),
        ([["X", "a\r\nHost: evil"]], "control character"),
        ([["X", "a\nb"]], "control character"),
        ([["X", "a\0b"]], "control character"),
        *(
            ([[name, "x"]], "belongs to the connection")
            for name in (
                "Host",
                "HOST",
                "Content-Length",
                "Transfer-Encoding",
                "Connection",
                "Keep-Alive",
                "Proxy-Authorization",
                "proxy-connection",
                "TE",
                "Trailer",
                "Upgrade",
                "Expect",
            )
        ),
        ([["X", msgpack.ExtType(1, b"\xff")]], "UTF-8"),
        ([["X", 1]], "must be text"),
        ([["X"]], "list of names and values"),
        ({"X": "y"}, "list of names and values"),
        ([["X", "y"]] * 129, "at most 128 headers"),
        ([["X", "y" * 8_000]] * 5, "too long"),
    ],
)
async def test_headers_that_could_change_the_message_are_refused(site: Internet, headers: object, text: str):
    assert text in await site.refused(RequestError, headers=headers)
    assert site.seen == [] and site.lookups == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"method": "CONNECT"}, "method must be one of GET"),
        ({"method": "GET /x HTTP/1.1\r\nX: y"}, "method must be one of"),
        ({"method": None}, "method must be text"),
        ({"version": "HTTP/2.0"}, "version must be"),
        ({"version": []}, "version must be"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": float("nan")}, "timeout_ms"),
        ({"timeout_ms": True}, "timeout_ms"),
        ({"body": 5}, "body must be"),
        ({"body": msgpack.ExtType(3, b"123456789012")}, "only text"),
    ],
)
async def test_bad_requests_say_what_is_wrong(site: Internet, fields: dict, text: str):
    assert text in await site.refused(RequestError, **fields)
    assert site.lookups == []


async def test_request_is_a_table(site: Internet):
    for bad in (None, [], "x"):
        with pytest.raises(RequestError, match="must be a table"):
            await results(site.http.operations(), call("http.send", bad))
