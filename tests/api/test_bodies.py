"""What clients send wrong is theirs: an answer with the envelope, and nothing in our log."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from pathlib import Path

import msgpack
import pytest

from pytw.api import answers, bodies, server
from pytw.limits import API_BODY_BYTES_MAX
from tests.api.conftest import Api

GOOD = b'{"type":"MESSAGE","guild_id":"5"}'
HEAD = b"POST /test/event HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


async def send(api: Api, data: bytes, **headers: str) -> tuple[int, str, str]:
    headers = {name.replace("_", "-"): value for name, value in {"Content_Type": "application/json", **headers}.items()}
    async with api.tcp.post("/test/event", data=data, headers=headers) as response:
        body = await response.json()
        return response.status, body.get("code", ""), body.get("message", "")


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
        ("identity", GOOD),
        ("GZIP", gzip.compress(GOOD)),
    ],
)
async def test_compressed_bodies_are_unpacked(api: Api, encoding: str, data: bytes) -> None:
    assert (await send(api, data, Content_Encoding=encoding))[0] == 200
    assert len(api.workers.events) == 1


@pytest.mark.parametrize("data", [GOOD, gzip.compress(GOOD)[:-9], b"\x1f\x8b"])
async def test_bodies_that_are_not_what_their_encoding_says(
    api: Api, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, code, message = await send(api, data, Content_Encoding="gzip")
    assert (status, code) == (400, "bad_request")
    assert "gzip" in message
    assert not caplog.records


@pytest.mark.parametrize("encoding", ["br", "zstd", "nonsense", "gzip, gzip"])
async def test_unknown_encodings_have_the_envelope(api: Api, encoding: str) -> None:
    assert (await send(api, GOOD, Content_Encoding=encoding))[:2] == (415, "unsupported_media_type")


async def test_what_comes_out_of_a_compressed_body_is_bounded(api: Api) -> None:
    status, code, message = await send(api, gzip.compress(b" " * (API_BODY_BYTES_MAX + 1)), Content_Encoding="gzip")
    assert (status, code) == (413, "too_large")
    assert str(API_BODY_BYTES_MAX) in message


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_what_pages_can_send_unasked_is_refused(api: Api, kind: str) -> None:
    status, code, message = await send(api, GOOD, Content_Type=kind)
    assert (status, code) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in message
    assert api.workers.events == []


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00 and more than enough"', b'"\\ud83d\\u0041"'])
async def test_half_a_surrogate_pair_is_named_as_the_cause(api: Api, text: bytes) -> None:
    status, _, message = await send(api, b'{"guild_id":"5","type":' + text + b"}")
    assert status == 400
    assert "surrogate pair" in message


async def test_a_client_that_leaves_within_its_body_is_no_error_of_ours(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    reading = asyncio.Event()
    before = bodies._received

    async def received(request: object) -> bytes:
        reading.set()
        try:
            return await before(request)  # type: ignore[arg-type]
        finally:
            left.set()

    left = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "_received", received)
        _, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(HEAD + b'{"type"')
        await reading.wait()
        writer.close()
        await asyncio.wait_for(left.wait(), 5)
        assert (await send(api, GOOD))[0] == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_body_that_does_not_come_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "API_BODY_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(HEAD + b'{"type"')
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"too_slow"' in answer


@pytest.mark.parametrize("sent", [b"", b"GET /readyz HTTP/1.1\r\nHost: x\r\n"])
async def test_headers_that_do_not_come_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """A connection that has asked for something is not closed with those."""
    monkeypatch.setattr(server, "API_HEADERS_S", 0.1)
    api = Api(tmp_path)
    await api.start()
    try:
        asked, asker = await asyncio.open_connection("127.0.0.1", api.port)
        asker.write(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.readuntil(b"null")
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        asker.write(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(asked.readuntil(b"null"), 5)
        writer.close()
        asker.close()
    finally:
        await api.close()


async def test_what_is_not_http_is_answered_and_not_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.0 400 ")
    writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_answers_do_not_say_which_server_they_come_from(api: Api) -> None:
    async with api.tcp.get("/readyz") as response:
        assert "Server" not in response.headers


def test_times_to_the_nanosecond_are_text() -> None:
    """What a script makes of ``now()`` is finer than Python's times."""
    assert answers.plain(msgpack.Timestamp(1, 2)) == "1970-01-01T00:00:01.000000002+00:00"
