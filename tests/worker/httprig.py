"""Servers on loopback behind a resolver that stands for the internet's, for tests of `http.send`."""

import asyncio
import ipaddress
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from pytw.errors import PytwError
from pytw.worker.context.answers import BLOB
from pytw.worker.context.http import Http
from pytw.worker.context.httpguard import HttpGuard, is_public

from .fakes import call, results

LOOPBACK = ipaddress.ip_address("127.0.0.1")


def loopback_or_public(address) -> bool:
    """The test's own server is allowed, and nothing else that the product refuses."""
    return address == LOOPBACK or is_public(address)


class Internet:
    """Names, what they resolve to (each answer once; the last one for ever), and connections that were made."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: dict[str, list[list[str]]] = {}
        self.lookups: list[str] = []
        self.connections = 0
        self.peers: list[tuple[str, int]] = []
        self.http = Http(guard=HttpGuard(["good.test"], allowed=loopback_or_public), lookup=self.lookup)

    async def lookup(self, host: str, port: int) -> list[tuple[str, int]]:
        self.lookups.append(host)
        answers = self.answers.get(host, [["127.0.0.1"]])
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(address, self.port) for address in addresses]

    async def ask(self, url: str = "http://good.test/", *, tenant: int = 1, **fields) -> dict:
        asked = {"method": "GET", "url": url, **fields}
        (answer,) = await results(self.http.operations(), call("http.send", asked, tenant=tenant))
        assert answer["body"].code == BLOB
        return answer | {"body": answer["body"].data}

    async def refused(self, kind: type[PytwError], *args, **fields) -> str:
        with pytest.raises(kind) as error:
            await self.ask(*args, **fields)
        return error.value.detail


@asynccontextmanager
async def serving(handler):
    """A raw server: *handler* gets reader and writer of each connection, after the request's head was read."""
    internet = Internet()
    tasks = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        internet.connections += 1
        tasks.add(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    internet.port = server.sockets[0].getsockname()[1]
    try:
        yield internet
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        internet.http.close()


def answering(*parts: bytes):
    async def handler(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handler


def ok(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body])


@asynccontextmanager
async def web_site():
    """An ordinary web server, which tells what it was asked."""
    internet = Internet()
    seen: list[tuple[web.Request, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request, await request.read()))
        internet.peers.append(request.transport.get_extra_info("peername"))
        return web.Response(text="h\u00e9llo", status=201, headers={"X-Thing": "a", "Set-Cookie": "k=v"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    internet.port = runner.addresses[0][1]
    internet.seen = seen
    yield internet
    await runner.cleanup()
