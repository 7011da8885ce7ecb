"""`HttpFetch`: one HTTP exchange for a template: a connection of its own to a checked address, read within bounds.

Nothing is shared between two exchanges: no connection, no cookie, no cached address. Nothing is followed or tried
again. What is read is counted as it comes, after decompression, so what a server sends costs no more than the cap.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from pytw.errors import PytwError, RequestError, Unavailable
from pytw.limits import (
    HTTP_BODY_BYTES_MAX,
    HTTP_DNS_TENANT_MAX,
    HTTP_DNS_THREADS_MAX,
    HTTP_HEADER_BYTES_MAX,
    HTTP_HEADER_FIELD_BYTES_MAX,
    HTTP_HEADERS_MAX,
)
from pytw.worker.context.httpguard import HttpGuard
from pytw.worker.context.inflate import Inflate

#: The tenant whose request the running task makes.
TENANT: ContextVar[int] = ContextVar("tenant", default=0)
#: Host and port -> the addresses and ports behind it.
Lookup = Callable[[str, int], Awaitable[Sequence[tuple[str, int]]]]
#: Told how many more bytes are held, or fewer; raises where there is no room.
Charge = Callable[[int], None]


class HttpRequest(NamedTuple):
    method: str
    url: URL
    headers: list[tuple[str, str]]
    body: bytes | None
    version: aiohttp.HttpVersion


class HttpResponse(NamedTuple):
    """*headers* have lower-case names and the values' bytes; those of a compression that was undone are left out."""

    url: str
    status: int
    headers: list[tuple[str, bytes]]
    content_length: int | None
    body: bytes


class _Share:
    """One tenant's part of the threads, and how many lookups run or wait for it."""

    __slots__ = ("held", "turns")

    def __init__(self) -> None:
        self.held = 0
        self.turns = asyncio.Semaphore(HTTP_DNS_TENANT_MAX)


class SystemLookup:
    """The system's resolver, in threads of its own: names that resolve slowly hold up no other work.

    A thread is busy until the system answers, however long ago its request has ended. So each tenant has a few of them:
    who asks for names that never resolve holds up nobody else.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._shares: dict[int, _Share] = {}

    async def __call__(self, host: str, port: int) -> Sequence[tuple[str, int]]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(HTTP_DNS_THREADS_MAX, "dns")
        # As bytes: for text Python would load a codec, and a worker reads no more files.
        name = host.encode("ascii")
        tenant = TENANT.get()
        share = self._shares.setdefault(tenant, _Share())
        share.held += 1
        try:
            await share.turns.acquire()
        except asyncio.CancelledError:
            self._leave(tenant, share)
            raise
        loop = asyncio.get_running_loop()
        lookup = self._threads.submit(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)

        def end(_: object) -> None:
            # The loop may be closed before the system has answered.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, tenant, share)

        lookup.add_done_callback(end)
        found = await asyncio.wrap_future(lookup)
        return [(str(sockaddr[0]), port) for *_, sockaddr in found]

    def _ended(self, tenant: int, share: _Share) -> None:
        share.turns.release()
        self._leave(tenant, share)

    def _leave(self, tenant: int, share: _Share) -> None:
        share.held -= 1
        if not share.held:
            del self._shares[tenant]

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


class _Resolver(AbstractResolver):
    """Resolves a name once, and gives its addresses only if every one of them may be connected to."""

    def __init__(self, lookup: Lookup, guard: HttpGuard) -> None:
        self._lookup = lookup
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._lookup(host, port)
        for address, _ in found:
            self._guard.address(address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=to_port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address, to_port in found
        ]

    async def close(self) -> None:
        pass


class HttpFetch:
    """Makes requests whose URL has passed *guard*."""

    def __init__(self, guard: HttpGuard, lookup: Lookup) -> None:
        self._guard = guard
        self._resolver = _Resolver(lookup, guard)

    async def fetch(self, request: HttpRequest, charge: Charge) -> HttpResponse:
        """The answer, read to its end. The caller bounds the time.

        Raises: Forbidden: the name leads where templates may not go. RequestError: the answer breaks a bound, or HTTP.
            Unavailable: there is no answer.
        """
        try:
            async with (
                self._session(request) as session,
                session.request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=CIMultiDict(request.headers),
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(request.method, response, charge)
        except PytwError:
            raise
        except aiohttp.ClientConnectorDNSError:
            raise Unavailable(f"the name {request.url.host} does not resolve") from None
        except aiohttp.ClientSSLError:
            raise Unavailable(f"{request.url.host} cannot be reached: its TLS certificate or handshake fails") from None
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"{request.url.host} cannot be reached: {_reason(error.os_error)}") from None
        except aiohttp.ClientResponseError as error:
            raise RequestError(f"{request.url.host} did not answer in HTTP: {_first_line(error.message)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{request.url.host} broke off its answer: {_first_line(str(error))}") from None

    def _session(self, request: HttpRequest) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, force_close=True, limit=1, socket_factory=self._socket
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            version=request.version,
            skip_auto_headers=("Content-Type",),
            max_line_size=HTTP_HEADER_FIELD_BYTES_MAX,
            max_field_size=HTTP_HEADER_FIELD_BYTES_MAX,
            max_headers=HTTP_HEADERS_MAX,
        )

    def _socket(self, to: tuple[Any, ...]) -> socket.socket:
        """The last gate: every connection of the client begins here, also to an address that stands in the URL."""
        family, kind, protocol, _, sockaddr = to
        self._guard.address(str(sockaddr[0]))
        return socket.socket(family=family, type=kind, proto=protocol)


async def _read(method: str, response: aiohttp.ClientResponse, charge: Charge) -> HttpResponse:
    headers = [(bytes(name).decode("latin-1").lower(), bytes(value)) for name, value in response.raw_headers]
    if (size := sum(len(name) + len(value) for name, value in headers)) > HTTP_HEADER_BYTES_MAX:
        raise RequestError(f"Response headers exceed the limit ({size:,} bytes, at most {HTTP_HEADER_BYTES_MAX:,})")
    length = response.content_length
    if method != "HEAD" and length is not None and length > HTTP_BODY_BYTES_MAX:
        raise _too_long()
    inflate = Inflate.of(response.headers.get("Content-Encoding", ""))
    body = bytearray()

    def keep(part: bytes) -> None:
        if len(body) + len(part) > HTTP_BODY_BYTES_MAX:
            raise _too_long()
        charge(len(part))
        body.extend(part)

    async for chunk in response.content.iter_any():
        if inflate is None:
            keep(chunk)
            continue
        for part in inflate.feed(chunk):
            keep(part)
            # What unpacks to a hundred times its size shares the loop with everybody.
            await asyncio.sleep(0)
    if inflate is not None and inflate.fed:
        inflate.end()
        length = None
        headers = [(name, value) for name, value in headers if name not in ("content-encoding", "content-length")]
    return HttpResponse(str(response.url), response.status, headers, length, bytes(body))


def _too_long() -> RequestError:
    return RequestError(f"Response body size exceeds the limit ({HTTP_BODY_BYTES_MAX:,} bytes)")


def _reason(error: OSError) -> str:
    """What the system says, without the address that some messages hold."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else "the connection broke off"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
