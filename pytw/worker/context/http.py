"""``http.send``: HTTP for templates (``ctx.HTTPClient``, spec luau-api 4.4, sandbox H01-H06).

There is no capability for it, as in the reference: where requests may go is the operator's to say
(`templates.http_domains`), and how many there are is bounded per tenant.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import msgpack
from aiohttp import HttpVersion10, HttpVersion11

from pytw import values
from pytw.errors import DeadlineExceeded, LimitExceeded, Overloaded, RequestError
from pytw.limits import (
    HTTP_ANSWER_BYTES_MAX,
    HTTP_BACKSTOP_S,
    HTTP_BUFFERED_BYTES_MAX,
    HTTP_HEADER_BYTES_MAX,
    HTTP_HEADERS_MAX,
    HTTP_IN_FLIGHT_MAX,
    HTTP_QUEUE_MAX,
    HTTP_REQUESTS_MAX,
    HTTP_TIMEOUT_S,
)
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.httpfetch import TENANT, HttpFetch, HttpRequest, HttpResponse, Lookup, SystemLookup
from pytw.worker.context.httpguard import HttpGuard
from pytw.worker.context.operation import Bucket, Operation


def _user_agent() -> str:
    try:
        return f"pytw/{metadata.version('pytw')}"
    except metadata.PackageNotFoundError:
        return "pytw/0"


#: Found at import: a worker has no right to read package metadata later.
USER_AGENT = _user_agent()
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: What belongs to the connection, which is ours, or says where a message ends.
_OURS = frozenset(
    [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VERSIONS = {None: HttpVersion11, "HTTP/1.1": HttpVersion11, "HTTP/1.0": HttpVersion10}


class _Lane:
    """A tenant's requests: those under way and those that wait for one of them to end."""

    __slots__ = ("held", "turns")

    def __init__(self) -> None:
        self.held = 0
        self.turns = asyncio.Semaphore(HTTP_IN_FLIGHT_MAX)


class Http:
    """``http.*``.

    Args:
        domains: what templates may reach; see `HttpGuard`.
        lookup: resolves names; by default the system does.
    """

    def __init__(
        self, domains: Iterable[str] = (), *, guard: HttpGuard | None = None, lookup: Lookup | None = None
    ) -> None:
        self._guard = guard or HttpGuard(domains)
        self._system = SystemLookup()
        self._fetch = HttpFetch(self._guard, lookup or self._system)
        self._lanes: dict[int, _Lane] = {}
        self._held = 0
        self._buffered = 0

    def operations(self) -> dict[str, Operation]:
        send = Operation(
            handler=self.send,
            bucket=Bucket("http", "send"),
            timeout_s=HTTP_BACKSTOP_S,
            answer_bytes_max=HTTP_ANSWER_BYTES_MAX,
        )
        return {"http.send": send}

    async def send(self, call: HostCall) -> bytes:
        asked = _argument(call)
        request = HttpRequest(
            method=_method(asked.get("method")),
            url=self._guard.url(_text(asked.get("url"), "url")),
            headers=_headers(asked.get("headers")),
            body=_body(asked.get("body")),
            version=_version(asked.get("version")),
        )
        timeout_s = _timeout_s(asked.get("timeout_ms"))
        TENANT.set(call.tenant)
        held = 0

        def charge(size: int) -> None:
            nonlocal held
            if self._buffered + size > HTTP_BUFFERED_BYTES_MAX:
                raise Overloaded("too many large responses are being read, try again")
            held += size
            self._buffered += size

        try:
            async with asyncio.timeout(timeout_s), self._turn(call.tenant):
                return _answer(await self._fetch.fetch(request, charge))
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not end within {timeout_s:g} s") from None
        finally:
            self._buffered -= held

    @asynccontextmanager
    async def _turn(self, tenant: int) -> AsyncIterator[None]:
        if self._held >= HTTP_REQUESTS_MAX:
            raise Overloaded("too many HTTP requests in this worker, try again")
        lane = self._lanes.setdefault(tenant, _Lane())
        if lane.held >= HTTP_IN_FLIGHT_MAX + HTTP_QUEUE_MAX:
            raise LimitExceeded(
                f"too many HTTP requests: {HTTP_IN_FLIGHT_MAX} may run and {HTTP_QUEUE_MAX} wait", limit="calls"
            )
        lane.held += 1
        self._held += 1
        try:
            async with lane.turns:
                yield
        finally:
            lane.held -= 1
            self._held -= 1
            if not lane.held:
                del self._lanes[tenant]

    def close(self) -> None:
        """Requests under way are ended by whoever makes them."""
        self._system.close()


# ---- what the script says ------------------------------------------------------------------------------


def _extension(code: int, data: bytes) -> bytes:
    if code in (values.RAW_TEXT, values.BUFFER):
        return bytes(data)
    raise RequestError("a request holds only text, numbers, and a body")


def _argument(call: HostCall) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(call.raw(0), strict_map_key=False, ext_hook=_extension)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RequestError(f"the request cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RequestError("the request must be a table")
    return found


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{what} must be text in UTF-8")
    return value


def _method(value: Any) -> str:
    method = _text(value, "method").upper()
    if method not in METHODS:
        raise RequestError(f"method must be one of {', '.join(METHODS)}")
    return method


def _headers(value: Any) -> list[tuple[str, str]]:
    """The headers to be sent, ours among them. Raises: RequestError."""
    if value is None or value == {}:
        value = []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise RequestError("headers must be a list of names and values")
    if len(value) > HTTP_HEADERS_MAX:
        raise RequestError(f"a request may have at most {HTTP_HEADERS_MAX} headers")
    headers = [(_header_name(name), _header_value(name, content)) for name, content in value]
    if (size := sum(len(name) + len(content.encode()) for name, content in headers)) > HTTP_HEADER_BYTES_MAX:
        raise RequestError(f"the headers are too long ({size:,} bytes, at most {HTTP_HEADER_BYTES_MAX:,})")
    # A name that comes again in other letters is the same one, and is not to take the first one's place.
    spelt = {name.lower(): name for name, _ in reversed(headers)}
    headers = [(spelt[name.lower()], content) for name, content in headers]
    ours = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "gzip, deflate"))
    return headers + [(name, content) for name, content in ours if name.lower() not in spelt]


def _header_name(value: Any) -> str:
    name = _text(value, "a header's name")
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name[:64]!r} is not a header's name")
    if name.lower() in _OURS or name.lower().startswith("proxy-"):
        raise RequestError(f"the header {name[:64]} cannot be set: it belongs to the connection")
    return name


def _header_value(name: str, value: Any) -> str:
    content = _text(value, f"the header {name[:64]}")
    if _UNFIT.search(content):
        raise RequestError(f"the header {name[:64]} holds a line break or another control character")
    return content


def _body(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise RequestError("body must be bytes, text or nil")


def _version(value: Any) -> Any:
    try:
        return _VERSIONS[value]
    except (KeyError, TypeError):
        raise RequestError("version must be HTTP/1.1 or HTTP/1.0") from None


def _timeout_s(value: Any) -> float:
    if value is None:
        return HTTP_TIMEOUT_S
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RequestError("timeout_ms must be a number above 0")
    return float(min(value / 1000, HTTP_TIMEOUT_S))


# ---- what the script gets ------------------------------------------------------------------------------


def _answer(response: HttpResponse) -> bytes:
    return answers.one(
        {
            "url": response.url,
            "status": response.status,
            "headers": [[name, _header_text(content)] for name, content in response.headers],
            "content_length": response.content_length,
            "body": msgpack.ExtType(answers.BLOB, response.body),
        }
    )


def _header_text(content: bytes) -> str | msgpack.ExtType:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return msgpack.ExtType(values.RAW_TEXT, content)
