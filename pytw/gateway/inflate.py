"""zlib-stream: one zlib context a connection, a frame is complete when its bytes end in the flush marker."""

from __future__ import annotations

import zlib

from pytw.errors import ProtocolError
from pytw.limits import GATEWAY_FRAME_BYTES_MAX

_FLUSH = b"\x00\x00\xff\xff"


class Inflater:
    """Turns the binary WebSocket messages of one connection into frames. A new connection needs a new one."""

    __slots__ = ("_context", "_frame_bytes_max", "_held")

    def __init__(self, *, frame_bytes_max: int = GATEWAY_FRAME_BYTES_MAX) -> None:
        self._context = zlib.decompressobj()
        self._frame_bytes_max = frame_bytes_max
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """The frame that *data* completes, or None if more is to come.

        Raises:
            ProtocolError: not zlib, or a frame above the bound; nothing more can be read from this connection.
        """
        if self._held or data[-4:] != _FLUSH:
            self._held += data
            if len(self._held) > self._frame_bytes_max:
                raise ProtocolError(f"the gateway sent more than {self._frame_bytes_max} bytes without an end")
            if data[-4:] != _FLUSH and self._held[-4:] != _FLUSH:
                return None
            data = bytes(self._held)
            self._held.clear()
        try:
            frame = self._context.decompress(data, self._frame_bytes_max)
        except zlib.error as error:
            raise ProtocolError(f"the gateway sent what is not zlib: {error}") from error
        if self._context.unconsumed_tail:
            raise ProtocolError(f"the gateway sent a frame above {self._frame_bytes_max} bytes")
        return frame
