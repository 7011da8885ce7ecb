"""Server and client over real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytw.errors import (
    AddressInUse,
    ConfigError,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    ProtocolError,
    TokenRefused,
    Unavailable,
    WorkerLost,
)
from pytw.limits import FRAME_BYTES_MAX
from pytw.mesophyll import Call, Kind, Link, answering, new_token
from pytw.mesophyll._framing import join
from pytw.mesophyll.records import PROTOCOL_VERSION
from pytw.mesophyll.wire import BINARY
from tests.mesophyll.conftest import Pair

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: {auth}\r\n\r\n"
)


def echo(call: Call) -> None:
    call.answer(call.body)


def never(call: Call) -> None:
    """Takes a request and does not answer it."""


def message(payload: bytes, first: int = BINARY, mask: bytes = b"\0\0\0\0") -> bytes:
    """A client's WebSocket frame."""
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if any(mask) else payload
    return bytes((first, 0xFF)) + struct.pack(">Q", len(payload)) + mask + masked


class Raw:
    """A peer that speaks bytes, past every rule of the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str, authorization: str) -> tuple[Raw, str]:
        port = int(address.rsplit(":", 1)[1].rstrip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE.format(auth=authorization).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer), head.decode()

    def hello(self, worker_id: int = 0, epoch: int = 1, version: str = PROTOCOL_VERSION) -> None:
        self.writer.write(message(join([(1, 0, 0, msgspec.msgpack.encode((worker_id, epoch, 1, version)))])))

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the close frame, after whatever else comes."""
        while True:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            body = await self.reader.readexactly(size)
            if first == 0x88:
                return int.from_bytes(body[:2], "big"), body[2:].decode()

    async def end(self) -> None:
        self.writer.close()


async def raw_worker(pair: Pair, worker_id: int = 0, epoch: int = 1) -> Raw:
    token = new_token()
    await pair.server.expect(worker_id, epoch, token)
    raw, head = await Raw.open(pair.server.address, f"Bearer {token}")
    assert head.startswith("HTTP/1.1 101")
    return raw


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "" if request.param == "tcp" else f"unix:{tmp_path}/m.sock"


async def test_both_sides_ask_and_answer(pair: Pair, address: str) -> None:
    asked: list[tuple[int, int, bytes]] = []

    def on_log(link: Link, call: Call) -> None:
        asked.append((link.worker_id, call.tenant, call.body))

    def on_db(link: Link, call: Call) -> None:
        raise NotFound("nothing there")

    await pair.start({Kind.LOG: on_log, Kind.DB: on_db}, address)
    link, client = await pair.connect(3, handlers={Kind.DISPATCH: echo})
    assert (link.worker_id, link.epoch, link.pid) == (3, 1, os.getpid())
    bodies = [os.urandom(n) for n in (0, 1, 99, 125, 126, 65_535, 65_536, 4 << 20)]
    assert await asyncio.gather(*(link.request(Kind.DISPATCH, n, body, 5.0) for n, body in enumerate(bodies))) == bodies
    client.send(Kind.LOG, 9, b"line")
    with pytest.raises(NotFound, match="nothing there"):
        await client.request(Kind.DB, 1, b"", 5.0)
    assert asked == [(3, 9, b"line")]


async def test_welcome_carries_the_settings(pair: Pair) -> None:
    address = await pair.start()
    token = new_token()
    await pair.server.expect(0, 1, token)
    assert await pair.client().connect(address, token) == {"name": "test"}


async def test_a_unix_socket_is_open_to_workers_of_other_accounts_and_removed(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    await pair.start(address=f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o666
    await pair.server.close()
    assert not path.exists()


async def test_an_address_in_use_says_so(pair: Pair) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressInUse, match="cannot listen"):
            await pair.start(address=f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(ConfigError):
        await pair.start(address="127.0.0.1:port")


async def test_a_wrong_token_is_refused(pair: Pair) -> None:
    address = await pair.start()
    await pair.server.expect(0, 1, new_token())
    with pytest.raises(TokenRefused):
        await pair.client().connect(address, new_token())
    for authorization in ("", "Bearer", "Bearer ", "Basic x", "Bearer " + "x" * 4000):
        raw, head = await Raw.open(address, authorization)
        assert head.startswith("HTTP/1.1 401")
        await raw.end()


async def test_a_token_in_the_url_is_no_token(pair: Pair) -> None:
    address = await pair.start()
    token = new_token()
    await pair.server.expect(0, 1, token)
    async with aiohttp.ClientSession() as session:
        async with session.get(address.replace("ws:", "http:") + f"?token={token}") as response:
            assert response.status == 401


async def test_a_token_works_once_and_the_first_link_lives_on(pair: Pair) -> None:
    address = await pair.start()
    token = new_token()
    await pair.server.expect(0, 1, token)
    first = pair.client(handlers={Kind.DISPATCH: echo})
    await first.connect(address, token)
    link = await pair.links.get()
    with pytest.raises(TokenRefused):
        await pair.client().connect(address, token)
    assert await link.request(Kind.DISPATCH, 1, b"alive", 5.0) == b"alive"
    await first.close()
    with pytest.raises(TokenRefused):
        await pair.client().connect(address, token)


@pytest.mark.parametrize(("worker_id", "epoch"), [(0, 2), (0, 0), (1, 1), (-1, 1), (1 << 63, 1)])
async def test_hello_of_another_worker_or_epoch_is_refused(pair: Pair, worker_id: int, epoch: int) -> None:
    address = await pair.start()
    token = new_token()
    await pair.server.expect(0, 1, token)
    with pytest.raises(ProtocolError, match="another worker or epoch"):
        await pair.client(worker_id, epoch).connect(address, token)
    assert pair.links.empty()
    assert pair.lost == []


async def test_another_version_of_the_protocol_is_refused(pair: Pair) -> None:
    await pair.start()
    raw = await raw_worker(pair)
    raw.hello(version="0")
    assert (await raw.closed())[1].startswith("the worker speaks version 0")
    await raw.end()


async def test_a_newer_spawn_takes_the_place_of_an_older(pair: Pair, until: Callable[..., Any]) -> None:
    await pair.start()
    old, _ = await pair.connect(epoch=1)
    new, _ = await pair.connect(epoch=2, handlers={Kind.DISPATCH: echo})
    await until(lambda: old.lost and pair.lost)
    assert pair.server.links == {0: new}
    assert await new.request(Kind.DISPATCH, 1, b"x", 5.0) == b"x"
    with pytest.raises(ValueError, match="at epoch 3"):
        await pair.server.expect(0, 3, new_token())
        await pair.server.expect(0, 2, new_token())


async def test_a_forgotten_token_is_refused(pair: Pair) -> None:
    address = await pair.start()
    token = new_token()
    await pair.server.expect(0, 1, token)
    pair.server.forget(0, 1)
    with pytest.raises(TokenRefused):
        await pair.client().connect(address, token)


async def test_nobody_there_is_unavailable(pair: Pair, tmp_path: Path) -> None:
    await pair.start()
    for address in ("ws://127.0.0.1:1/", f"unix:{tmp_path}/nothing"):
        with pytest.raises(Unavailable):
            await pair.client().connect(address, "x")


async def test_records_before_hello_are_refused(pair: Pair) -> None:
    await pair.start({Kind.DB: lambda link, call: call.answer()})
    raw = await raw_worker(pair)
    raw.writer.write(message(join([(Kind.DB, 1, 1, b"")])))
    raw.hello(epoch=7)
    assert (await raw.closed())[0] == 1002
    await raw.end()


@pytest.mark.parametrize(
    ("sent", "code", "why"),
    [
        (bytes((BINARY, 0xFF)) + struct.pack(">Q", FRAME_BYTES_MAX + 1), 1009, "over the limit"),
        (bytes((BINARY, 0xFF)) + b"\xff" * 8, 1009, "over the limit"),
        (bytes((0x02, 0xFF)) + struct.pack(">Q", FRAME_BYTES_MAX + 1), 1009, "over the limit"),
        (message(b""), 1002, "empty"),
        (message(b"\x94\xcc\x06"), 1002, "cut off"),
        (message(join([(99, 1, 1, b"")])), 1002, "no record of kind"),
        (message(join([(1, 0, 0, b"")])[:-4] + b"\xff\xff\xff\xff"), 1002, "over the limit"),
        (message(b"text", first=0x81), 1002, "binary"),
        (message(b"x", first=0xC2), 1002, "extension"),
        (message(b"x", first=0x80), 1002, "order"),
        (message(b"x", first=0x8B), 1002, "opcode"),
        (message(b"x" * 126, first=0x89), 1002, "control"),
        (bytes((BINARY, 0x01)) + b"x", 1002, "masked"),
        (message(b"x", first=0x02) + message(b"x", first=0x00) * 65, 1009, "fragments"),
    ],
)
async def test_a_bad_frame_closes_the_link_with_a_reason(pair: Pair, sent: bytes, code: int, why: str) -> None:
    await pair.start()
    raw = await raw_worker(pair)
    raw.hello()
    link = await pair.links.get()
    waiting = asyncio.ensure_future(link.request(Kind.DISPATCH, 1, b"", 5.0))
    await asyncio.sleep(0)
    raw.writer.write(sent)
    got, reason = await raw.closed()
    assert (got, why in reason) == (code, True), reason
    with pytest.raises(WorkerLost):
        await waiting
    await raw.end()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6))
def test_random_bytes_end_a_link_or_are_waited_on_and_others_live(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        pair = Pair()
        await pair.start()
        link, _ = await pair.connect(1, handlers={Kind.DISPATCH: echo})
        raw = await raw_worker(pair)
        raw.hello()
        for chunk in chunks:
            raw.writer.write(chunk)
        assert await link.request(Kind.DISPATCH, 1, b"alive", 5.0) == b"alive"
        await raw.end()
        await pair.close()

    asyncio.run(scenario())


async def test_a_message_may_come_byte_by_byte_masked_and_in_fragments(pair: Pair, until: Callable[..., Any]) -> None:
    got: list[bytes] = []
    await pair.start({Kind.LOG: lambda link, call: got.append(call.body)})
    raw = await raw_worker(pair)
    raw.hello()
    await pair.links.get()
    frame = join([(Kind.LOG, 0, 0, b"hello")])
    pieces = (
        message(frame[:5], 0x02, b"abcd") + message(b"", 0x89) + message(frame[5:20], 0x00) + message(frame[20:], 0x80)
    )
    for byte in pieces + message(frame, mask=b"wxyz"):
        raw.writer.write(bytes((byte,)))
        await raw.writer.drain()
    await until(lambda: len(got) == 2)
    assert got == [b"hello", b"hello"]
    await raw.end()


async def test_late_doubled_and_forged_answers_are_ignored(pair: Pair, until: Callable[..., Any]) -> None:
    await pair.start()
    raw = await raw_worker(pair)
    raw.hello()
    link = await pair.links.get()
    task = asyncio.ensure_future(link.request(Kind.DISPATCH, 7, b"", 5.0))
    await asyncio.sleep(0)
    forged = [(Kind.RESULT, 999, 7, b"f"), (Kind.RESULT, 1, 8, b"f"), (Kind.RESULT, 2**64 - 1, 7, b"f")]
    raw.writer.write(message(join([*forged, (Kind.RESULT, 1, 7, b"right"), (Kind.RESULT, 1, 7, b"again")])))
    assert await task == b"right"
    with pytest.raises(DeadlineExceeded):
        await link.request(Kind.DISPATCH, 7, b"", 0.01)
    raw.writer.write(message(join([(Kind.RESULT, 2, 7, b"late")])))
    await until(lambda: link.ignored == 5)
    assert not link.lost
    await raw.end()


async def test_a_deadline_tells_the_worker(pair: Pair, until: Callable[..., Any]) -> None:
    cancelled: list[int] = []

    def start(call: Call) -> None:
        call.on_cancel = lambda: cancelled.append(call.tenant)

    await pair.start()
    link, client = await pair.connect(handlers={Kind.DISPATCH: start})
    with pytest.raises(DeadlineExceeded):
        await link.request(Kind.DISPATCH, 5, b"", 0.01)
    await until(lambda: cancelled == [5])
    task = asyncio.ensure_future(link.request(Kind.DISPATCH, 6, b""))
    await until(lambda: client.serving == 1)
    task.cancel()
    await until(lambda: cancelled == [5, 6])
    assert (link.pending, client.serving) == (0, 0)


async def test_answering_runs_coroutines_and_cancels_them(pair: Pair, until: Callable[..., Any]) -> None:
    ended: list[str] = []

    async def work(call: Call) -> bytes:
        if call.body == b"fail":
            raise NotFound("no")
        try:
            await asyncio.sleep(60 if call.body == b"long" else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b"done"

    await pair.start()
    link, client = await pair.connect(handlers={Kind.CHECK: answering(work)})
    assert await link.request(Kind.CHECK, 1, b"", 5.0) == b"done"
    with pytest.raises(NotFound):
        await link.request(Kind.CHECK, 1, b"fail", 5.0)
    task = asyncio.ensure_future(link.request(Kind.CHECK, 1, b"long", 5.0))
    await until(lambda: client.serving == 1)
    task.cancel()
    await until(lambda: ended == ["cancelled"])


async def test_a_closed_link_fails_what_is_pending_on_both_sides(pair: Pair, until: Callable[..., Any]) -> None:
    await pair.start({Kind.DB: lambda link, call: None})
    link, client = await pair.connect(handlers={Kind.DISPATCH: never})
    waiting = [
        asyncio.ensure_future(link.request(Kind.DISPATCH, 1, b"", 60.0)),
        asyncio.ensure_future(client.request(Kind.DB, 1, b"", 60.0)),
    ]
    await until(lambda: client.serving == link.serving == 1)
    await client.close("bye")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [WorkerLost, WorkerLost]
    assert await pair.client_lost.get() == "bye"
    await link.wait_lost()
    assert pair.lost == [(0, "bye")]
    assert pair.server.links == {}
    with pytest.raises(WorkerLost):
        await link.request(Kind.DISPATCH, 1, b"", 1.0)


async def test_heartbeats_carry_statistics(pair: Pair, until: Callable[..., Any]) -> None:
    await pair.start()
    link, _ = await pair.connect(stats=lambda: {"vms": 3.0})
    await until(lambda: link.stats == {"vms": 3.0})


async def test_a_peer_that_says_nothing_is_lost_after_three_beats(pair: Pair) -> None:
    await pair.start()
    raw = await raw_worker(pair)
    raw.hello()
    link = await pair.links.get()
    task = asyncio.ensure_future(link.request(Kind.DISPATCH, 1, b"", 60.0))
    started = time.monotonic()
    with pytest.raises(WorkerLost, match="no heartbeat"):
        await task
    assert 1.0 < time.monotonic() - started < 4.0
    await link.wait_lost()
    assert pair.lost == [(0, "no heartbeat")]
    await raw.end()


async def test_a_peer_that_does_not_read_cannot_fill_memory(pair: Pair) -> None:
    await pair.start()
    raw = await raw_worker(pair)
    raw.hello()
    link = await pair.links.get()
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    body = bytes(1 << 20)
    with pytest.raises(Overloaded):
        for _ in range(100):
            link.call(Kind.DISPATCH, 1, body, lambda answer, error: None)
            await asyncio.sleep(0)
    assert link._wire.waiting_bytes < 40 << 20
    link.abort("enough")
    await raw.end()


WORKER = """
import asyncio, sys
from pytw.mesophyll import Kind, MesophyllClient

async def main():
    ended = asyncio.get_running_loop().create_future()
    handlers = {Kind.DISPATCH: lambda call: None, Kind.CHECK: lambda call: call.answer(call.body)}
    client = MesophyllClient(0, 1, handlers, on_lost=ended.set_result)
    await client.connect(sys.argv[1], sys.stdin.readline().strip())
    print(await ended, flush=True)

asyncio.run(main())
"""


async def spawned(pair: Pair) -> tuple[asyncio.subprocess.Process, Link]:
    token = new_token()
    await pair.server.expect(0, 1, token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, pair.server.address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(token.encode() + b"\n")
    return process, await pair.links.get()


async def test_a_killed_process_fails_its_callers_within_50_ms(pair: Pair, address: str) -> None:
    await pair.start(address=address)
    process, link = await spawned(pair)
    assert await link.request(Kind.CHECK, 1, b"ready", 5.0) == b"ready"
    callers = [asyncio.ensure_future(link.request(Kind.DISPATCH, n, b"x", 60.0)) for n in range(256)]
    # What was sent after the dispatches is answered after they arrived.
    assert await link.request(Kind.CHECK, 1, b"all", 5.0) == b"all"
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    results = await asyncio.gather(*callers, return_exceptions=True)
    took = time.monotonic() - killed
    await process.wait()
    assert {type(result) for result in results} == {WorkerLost}
    assert took < 0.05


async def test_a_stopped_process_is_lost_and_hears_so_when_it_goes_on(pair: Pair) -> None:
    await pair.start()
    process, link = await spawned(pair)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(WorkerLost, match="no heartbeat"):
        await link.request(Kind.DISPATCH, 1, b"x", 60.0)
    process.send_signal(signal.SIGCONT)
    assert process.stdout is not None
    assert await process.stdout.readline()
    assert await process.wait() == 0


async def test_a_worker_hears_that_its_master_closed(pair: Pair) -> None:
    await pair.start()
    process, _ = await spawned(pair)
    await pair.server.close()
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"the master ends"
    assert await process.wait() == 0
