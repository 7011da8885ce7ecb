"""The body of a request: received within a bound of time and size, unpacked, and checked by type.

Only media types that a page of another site cannot send unasked are taken (forms and plain text are refused), besides none.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from pytw.errors import RequestError
from pytw.limits import API_BODY_BYTES_MAX, API_BODY_S, VALUE_DEPTH_MAX

T = TypeVar("T")

#: No ``Content-Type`` reads as the second.
MEDIA_TYPES: Final = frozenset({"application/json", "application/octet-stream"})
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ZLIB_OR_GZIP: Final = 32 + zlib.MAX_WBITS
#: Half of a surrogate pair: a first half without its second, or a second half.
_HALF_PAIR = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F])")


async def body_of(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The request's body, checked by type.

    Raises:
        RequestError: not JSON, nested too deep, or not of this form; says where.
        web.HTTPException: of another media type or encoding, over ``API_BODY_BYTES_MAX``, or slower than ``API_BODY_S``.
    """
    if request.content_type not in MEDIA_TYPES:
        raise web.HTTPUnsupportedMediaType(
            reason=f"the body is {request.content_type}; send JSON with the header Content-Type: application/json"
        )
    data = await _inflated(await _received(request), request.headers.get("Content-Encoding", "identity"))
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise RequestError(f"the body is not as expected: {error}") from None
    except UnicodeDecodeError:
        raise RequestError("the body is not JSON: it is not UTF-8") from None
    except msgspec.DecodeError as error:
        if _HALF_PAIR.search(data):
            raise RequestError("the body is not JSON: a \\u escape in it is half of a surrogate pair") from None
        raise RequestError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise RequestError(
            "the body is nested too deep to be read", hint=f"values may have {VALUE_DEPTH_MAX} levels"
        ) from None


async def bytes_of(request: web.Request, bytes_max: int) -> bytes:
    """The request's body as it is, received no further than *bytes_max*.

    Raises:
        RequestError: it breaks off.
        web.HTTPException: of a media type that a page of another site may send, encoded, longer, or slower than ``API_BODY_S``.
    """
    if request.content_type not in MEDIA_TYPES:
        raise web.HTTPUnsupportedMediaType(
            reason=f"the body is {request.content_type}; send bytes with Content-Type: application/octet-stream"
        )
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise web.HTTPUnsupportedMediaType(reason="the body is kept as it is: send it without Content-Encoding")
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    found = bytearray()
    try:
        async with asyncio.timeout(API_BODY_S):
            while chunk := await request.content.readany():
                found += chunk
                if len(found) > bytes_max:
                    raise _too_large(bytes_max)
    except TimeoutError:
        raise _too_slow() from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise RequestError(f"the body broke off or is framed wrongly: {error}") from None
    return bytes(found)


async def _received(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(API_BODY_S):
            return await request.read()
    except TimeoutError:
        raise _too_slow() from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except (web.RequestPayloadError, ConnectionError) as error:
        # Mostly nobody is left to read this.
        raise RequestError(f"the body broke off or is framed wrongly: {error}") from None


async def _inflated(data: bytes, encoding: str) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("identity", ""):
        return data
    if encoding not in _INFLATED:
        raise web.HTTPUnsupportedMediaType(reason="the Content-Encoding is not known; gzip, deflate or none are")
    inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        # In a thread: the bound's worth takes longer than others should wait for the loop.
        found = await asyncio.to_thread(inflater.decompress, data, API_BODY_BYTES_MAX + 1)
    except zlib.error:
        raise RequestError(f"the body is not {encoding}, as its Content-Encoding says") from None
    if len(found) > API_BODY_BYTES_MAX:
        raise _too_large()
    if not inflater.eof:
        raise RequestError(f"the {encoding} body breaks off")
    return found


def _too_slow() -> web.HTTPRequestTimeout:
    return web.HTTPRequestTimeout(reason=f"the body did not come within {API_BODY_S:g} s")


def _too_large(bytes_max: int = API_BODY_BYTES_MAX) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(bytes_max, reason=f"the body is over the bound of {bytes_max} bytes")
