"""How a gateway connection's frames are packed: plain text, payload compression, zlib-stream or zstd-stream.

Keys stand in the order `t, s, op, d`, since several clients look for the first three by scanning from the front.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Protocol

#: With payload compression, frames from this size on are packed; smaller ones stay text, as clients must expect both.
_PACK_FROM_BYTES = 512


def dispatch_frame(event: str, sequence: int, d: bytes) -> bytes:
    return b'{"t":"%b","s":%d,"op":0,"d":%b}' % (event.encode(), sequence, d)


def control_frame(op: int, d: bytes = b"null") -> bytes:
    return b'{"t":null,"s":null,"op":%d,"d":%b}' % (op, d)


class Encoder(Protocol):
    """Packs the frames of one connection, in order. The second answer is whether the frame is binary."""

    def encode(self, frame: bytes) -> tuple[bytes, bool]: ...


class Plain:
    """Text frames; `pack_payloads` is turned on by an IDENTIFY that asks for payload compression."""

    def __init__(self) -> None:
        self.pack_payloads = False

    def encode(self, frame: bytes) -> tuple[bytes, bool]:
        if self.pack_payloads and len(frame) >= _PACK_FROM_BYTES:
            return zlib.compress(frame), True
        return frame, False


class ZlibStream:
    """One zlib context a connection, flushed after each frame."""

    def __init__(self) -> None:
        self._context = zlib.compressobj()

    def encode(self, frame: bytes) -> tuple[bytes, bool]:
        return self._context.compress(frame) + self._context.flush(zlib.Z_SYNC_FLUSH), True


class ZstdStream:
    """One zstd frame a connection: a block is flushed after each gateway frame, the zstd frame never ends."""

    def __init__(self, module: Any) -> None:
        self._context = module.ZstdCompressor()
        self._flush = module.ZstdCompressor.FLUSH_BLOCK

    def encode(self, frame: bytes) -> tuple[bytes, bool]:
        return self._context.compress(frame, self._flush), True


def zstd_module() -> Any | None:
    """The standard library's zstd or its backport, if there is one."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def encoder(compress: str) -> Encoder | None:
    """The encoder for the `compress` query of a connection; None if this server has none."""
    if compress == "":
        return Plain()
    if compress == "zlib-stream":
        return ZlibStream()
    if compress == "zstd-stream" and (module := zstd_module()) is not None:
        return ZstdStream(module)
    return None
