"""`Inflate`: undoes gzip and deflate in small steps, so that who reads can stop at any size."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Self

from pytw.errors import RequestError
from pytw.limits import HTTP_INFLATE_STEP_BYTES

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Inflate:
    """One body. Feed it, then `end` it."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._stream = zlib.decompressobj(_GZIP) if gzip else None
        #: Whether there was anything at all: an empty body is not cut off.
        self.fed = False

    @classmethod
    def of(cls, encoding: str) -> Self | None:
        """For a Content-Encoding; None for one that is left as it is."""
        name = encoding.strip().lower()
        if name in ("gzip", "x-gzip"):
            return cls(gzip=True)
        return cls(gzip=False) if name == "deflate" else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What *data* unpacks to, at most `HTTP_INFLATE_STEP_BYTES` at a time. Raises: RequestError."""
        self.fed = self.fed or bool(data)
        while data:
            if self._stream is None:
                self._stream = zlib.decompressobj(_ZLIB if data[0] & 0x0F == 8 else _RAW)
            elif self._stream.eof:
                if not self._gzip:
                    return
                # Several gzip files, one behind the other, are one.
                self._stream = zlib.decompressobj(_GZIP)
            try:
                part = self._stream.decompress(data, HTTP_INFLATE_STEP_BYTES)
            except zlib.error:
                raise RequestError("the response is not compressed as it says") from None
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if part:
                yield part

    def end(self) -> None:
        """Raises: RequestError: the body is cut off."""
        if self._stream is None or not self._stream.eof:
            raise RequestError("the compressed response is cut off")
