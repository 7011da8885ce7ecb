"""WebSocket frames on a transport whose handshake is done.

aiohttp makes the handshake, with its HTTP parsing and authentication; then a `Wire` takes the transport over, so that a
frame reaches its callback in the same turn of the loop in which its bytes came. (Through aiohttp's queue, a future and a
task each message takes two turns more: 15 us of a 90 us round trip.)

Both ends are ours, which keeps the rules short: binary messages only, no extensions. The client masks, as RFC 6455
demands, with the key 0, which changes no byte: masks protect proxies from scripts in browsers, and here is neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from pytw.errors import ProtocolError
from pytw.limits import FRAME_BYTES_MAX, FRAME_FRAGMENTS_MAX, LINK_CLOSE_S

BINARY: Final = 0x82
CLOSE: Final = 0x88
PONG: Final = 0x8A

CLOSED_NORMALLY: Final = 1000
CLOSED_BY_PROTOCOL: Final = 1002
CLOSED_BY_SIZE: Final = 1009


class _TooLarge(Exception):
    """Over FRAME_BYTES_MAX; noticed before the body was read."""


class Wire(asyncio.Protocol):
    """Sends and receives binary messages. Callbacks run in the loop; nothing here waits."""

    def __init__(
        self,
        *,
        masks: bool,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """
        Args:
            masks: this is the client's end.
            on_frame: takes each message; a ProtocolError from it closes the connection.
            on_lost: called once, with the reason.
        """
        self._masks = masks
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._mask_bit = 0x80 if masks else 0
        self._peer_mask_bit = 0 if masks else 0x80
        self._transport: asyncio.Transport | None = None
        self._below: asyncio.BaseProtocol | None = None
        self._buffer = bytearray()
        self._need = 2
        self._fragments: list[bytes] | None = None
        self._reason: str | None = None
        self._closing = False

    def take_over(self, transport: asyncio.Transport) -> None:
        """Becomes the protocol of *transport*; the one before it hears only of the end."""
        self._transport = transport
        self._below = transport.get_protocol()
        transport.set_protocol(self)

    @property
    def open(self) -> bool:
        """The transport is there, be it closing."""
        return self._transport is not None

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, message: bytes) -> None:
        """Sends one binary message. Without effect once the connection is closing."""
        if self._transport is None or self._closing:
            return
        header = self._header(BINARY, len(message))
        if len(message) < 16_384:
            self._transport.write(header + message)
        else:
            self._transport.writelines((header, message))

    def close(self, code: int, reason: str) -> None:
        """Says why, sends what is buffered, and closes. Idempotent."""
        if self._transport is None or self._closing:
            return
        self._reason = self._reason or reason
        body = code.to_bytes(2, "big") + reason.encode()[:120].decode(errors="ignore").encode()
        self._transport.write(self._header(CLOSE, len(body)) + body)
        self._closing = True
        self._transport.close()
        # A peer that does not read must not keep the connection open.
        asyncio.get_running_loop().call_later(LINK_CLOSE_S, self._transport.abort)

    def abort(self, reason: str) -> None:
        """Closes at once; what is buffered is lost."""
        self._reason = self._reason or reason
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            if self._buffer:
                self._buffer += data
                if len(self._buffer) < self._need:
                    return
                whole, self._buffer = self._buffer, bytearray()
                self._keep_rest(memoryview(whole))
            else:
                self._keep_rest(data)
        except _TooLarge as error:
            self.close(CLOSED_BY_SIZE, str(error))
        except ProtocolError as error:
            self.close(CLOSED_BY_PROTOCOL, error.detail)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        below, self._below = self._below, None
        if below is not None:
            below.connection_lost(exc)
        self._transport = None
        self._buffer.clear()
        self._on_lost(self._reason or (f"connection lost: {exc}" if exc else "connection closed by the peer"))

    def _header(self, opcode: int, size: int) -> bytes:
        mask = b"\0\0\0\0" if self._masks else b""
        if size < 126:
            return bytes((opcode, self._mask_bit | size)) + mask
        if size < 65_536:
            return bytes((opcode, self._mask_bit | 126, size >> 8, size & 0xFF)) + mask
        return bytes((opcode, self._mask_bit | 127)) + size.to_bytes(8, "big") + mask

    def _keep_rest(self, data: bytes | memoryview) -> None:
        if (used := self._messages(data)) < len(data):
            self._buffer += data[used:]

    def _messages(self, data: bytes | memoryview) -> int:
        """Handles the complete messages at the start of *data*; returns how many bytes they took."""
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            if second & 0x80 != self._peer_mask_bit:
                raise ProtocolError("a frame is masked by the server or not by the client")
            size, body = second & 0x7F, at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, body = data[at + 2] << 8 | data[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if size > FRAME_BYTES_MAX:
                raise _TooLarge(f"a message of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
            start = body + (4 if self._peer_mask_bit else 0)
            if end - start < size:
                self._need = start + size - at
                return at
            message = data[start : start + size]
            if not isinstance(message, bytes):
                message = bytes(message)
            if self._peer_mask_bit and (mask := data[body:start]) != b"\0\0\0\0":
                message = _unmasked(message, bytes(mask))
            at = start + size
            if first == BINARY and self._fragments is None:
                self._on_frame(message)
            else:
                self._other(first, message)
            if self._closing:
                return end
        self._need = end - at + 1
        return at

    def _other(self, first: int, message: bytes) -> None:
        """Fragments and control frames."""
        opcode, final = first & 0x0F, bool(first & 0x80)
        if first & 0x70:
            raise ProtocolError("an extension was never agreed on")
        if opcode in (0, 2):
            self._fragment(opcode, final, message)
        elif opcode < 8:
            raise ProtocolError("only binary messages are spoken here")
        elif not final or len(message) > 125:
            raise ProtocolError("a control frame is too long or in fragments")
        elif opcode == 8:
            self._reason = self._reason or _reason(message)
            self.close(CLOSED_NORMALLY, "")
        elif opcode == 9:
            cast(asyncio.Transport, self._transport).write(self._header(PONG, len(message)) + message)
        elif opcode != 10:
            raise ProtocolError("an opcode is unknown")

    def _fragment(self, opcode: int, final: bool, message: bytes) -> None:
        if (opcode == 2) is (self._fragments is not None):
            raise ProtocolError("fragments are out of order")
        if self._fragments is None:
            self._fragments = []
        self._fragments.append(message)
        if len(self._fragments) > FRAME_FRAGMENTS_MAX or sum(map(len, self._fragments)) > FRAME_BYTES_MAX:
            raise _TooLarge(f"a message is over {FRAME_BYTES_MAX} bytes or {FRAME_FRAGMENTS_MAX} fragments")
        if final:
            whole, self._fragments = b"".join(self._fragments), None
            self._on_frame(whole)


def _unmasked(message: bytes, mask: bytes) -> bytes:
    size = len(message)
    keys = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(message, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def _reason(close_body: bytes) -> str:
    if len(close_body) < 2:
        return "closed by the peer"
    code, text = int.from_bytes(close_body[:2], "big"), close_body[2:].decode(errors="replace")
    return text or ("closed by the peer" if code == CLOSED_NORMALLY else f"closed by the peer with code {code}")
