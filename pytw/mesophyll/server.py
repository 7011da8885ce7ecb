"""The master's side: takes the links of worker processes and knows who is at the other end of each."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from pytw.errors import AddressInUse, ConfigError, ProtocolError
from pytw.limits import HELLO_S
from pytw.mesophyll.channel import Call, Handler
from pytw.mesophyll.peer import Peer
from pytw.mesophyll.records import PROTOCOL_VERSION, Kind
from pytw.mesophyll.tokens import Spawn, Tokens

#: Starts work on what a worker asked for, and returns at once.
LinkHandler = Callable[["Link", Call], None]

_WEBSOCKET_KEY: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Wrong tokens in a row that are answered at once; each further one waits, so that guessing is slow.
_GUESSES_FREE: Final = 3
_GUESS_DELAY_S: Final = 0.2
_GUESSES_WAITING_MAX: Final = 16

_encode = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(tuple[int, int, int, str]).decode
_decode_stats = msgspec.msgpack.Decoder(dict[str, float] | None).decode

log = logging.getLogger("mesophyll")


class Link(Peer):
    """The connection of one spawn of a worker. `Peer` has `request`, `call` and `send`."""

    def __init__(self, server: MesophyllServer, spawn: Spawn) -> None:
        super().__init__({Kind.HELLO: self._hello}, masks=False, on_lost=partial(server._lost, self), stats=None)
        self._server = server
        self.worker_id = spawn.worker_id
        self.epoch = spawn.epoch
        #: From HELLO.
        self.pid = 0
        #: From the worker's last heartbeat.
        self.stats: Mapping[str, float] = {}
        #: HELLO was right: the link is in use.
        self.accepted = False
        self._hello_timer = self._loop.call_later(HELLO_S, self._no_hello)

    def __repr__(self) -> str:
        return f"<Link worker={self.worker_id} epoch={self.epoch} {'lost' if self.lost else 'alive'}>"

    def _hello(self, call: Call) -> None:
        try:
            worker_id, epoch, self.pid, version = _decode_hello(call.body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"HELLO is malformed: {error}") from None
        if (worker_id, epoch) != (self.worker_id, self.epoch):
            raise ProtocolError("HELLO names another worker or epoch than the token")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"the worker speaks version {version} of the protocol, this master {PROTOCOL_VERSION}")
        self.accepted = True
        self._hello_timer.cancel()
        self._channel.serve(self._server._handlers_for(self))
        self.send(Kind.WELCOME, 0, _encode(self._server.settings))
        self._server._accept(self)

    def _no_hello(self) -> None:
        self._refuse(ProtocolError("HELLO did not come"))

    def _heartbeat(self, call: Call) -> None:
        try:
            self.stats = _decode_stats(call.body) or {}
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"HEARTBEAT is malformed: {error}") from None

    def _lose(self, reason: str) -> None:
        self._hello_timer.cancel()
        super()._lose(reason)


class MesophyllServer:
    """Listens for workers. All methods and callbacks run in the loop that called `start`."""

    def __init__(
        self,
        handlers: Mapping[Kind, LinkHandler] | None = None,
        *,
        on_link: Callable[[Link], object] = lambda link: None,
        on_lost: Callable[[Link, str], object] = lambda link, reason: None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            handlers: what workers may ask for; `services.Services` makes those for the database, cursors and so on.
            on_link: a worker has said HELLO and may be sent requests.
            on_lost: such a link ended, after everything pending on it has failed with WorkerLost.
            settings: sent to each worker in WELCOME.
        """
        self._handlers = dict(handlers or {})
        self._on_link = on_link
        self._on_lost = on_lost
        self.settings: Mapping[str, Any] = settings or {}
        self._tokens = Tokens()
        self._links: dict[int, Link] = {}
        self._open: set[Link] = set()
        self._guesses = 0
        self._guesses_waiting = 0
        self._runner: web.AppRunner | None = None
        self._path: str | None = None
        self._unix_server: asyncio.Server | None = None
        #: Where workers connect: ``ws://127.0.0.1:PORT/`` or ``unix:PATH``.
        self.address = ""

    @property
    def links(self) -> Mapping[int, Link]:
        """The living, accepted link of each worker that has one."""
        return self._links

    async def start(self, address: str = "") -> str:
        """Listens, and returns the address for workers.

        Args:
            address: ``unix:PATH`` or ``HOST:PORT``; empty for a random port on loopback.
        Raises:
            AddressInUse, ConfigError.
        """
        app = web.Application(client_max_size=1024)
        app.router.add_get("/", self._connect)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            if address.startswith("unix:"):
                self._path = address.removeprefix("unix:")
                listener = _unix_listener(self._path)
                assert self._runner.server is not None
                self._unix_server = await asyncio.get_running_loop().create_unix_server(
                    self._runner.server, sock=listener
                )
                self.address = address
            else:
                host, port = _host_port(address)
                await web.TCPSite(self._runner, host, port).start()
                host, port = self._runner.addresses[0][:2]
                self.address = f"ws://[{host}]:{port}/" if ":" in host else f"ws://{host}:{port}/"
        except OSError as error:
            await self._runner.cleanup()
            raise AddressInUse(
                f"Mesophyll cannot listen on {address or 'loopback'}: {error.strerror or error}",
                hint="addrs.mesophyll_server names the address; leave it out for a random port",
            ) from error
        return self.address

    async def expect(self, worker_id: int, epoch: int, token: str) -> None:
        """Makes *token* good for one connection of this spawn; call before the worker starts. Older spawns' links end."""
        self._tokens.expect(worker_id, epoch, token)
        link = self._links.get(worker_id)
        if link is not None and link.epoch < epoch:
            link.abort("a newer spawn of the worker takes its place")

    def forget(self, worker_id: int, epoch: int) -> None:
        """Takes the unused token of a spawn away: the worker died before it connected."""
        self._tokens.forget(worker_id, epoch)

    async def close(self) -> None:
        """Closes every link and stops listening."""
        await asyncio.gather(*(link.close("the master ends") for link in list(self._open)))
        if self._unix_server is not None:
            self._unix_server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._path is not None:
            _remove_socket(self._path)

    # Inside

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        spawn = self._tokens.spend(request.headers.get("Authorization"))
        if spawn is None:
            await self._slow_down()
            log.warning("a connection without a valid token was refused")
            return web.Response(status=401, text="unknown or used token", headers={"Connection": "close"})
        self._guesses = 0
        response = _switching(request)
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        link = Link(self, spawn)
        self._open.add(link)
        link._start(transport)
        await link.wait_lost()
        return response

    async def _slow_down(self) -> None:
        self._guesses += 1
        if self._guesses > _GUESSES_FREE and self._guesses_waiting < _GUESSES_WAITING_MAX:
            self._guesses_waiting += 1
            try:
                await asyncio.sleep(_GUESS_DELAY_S * self._guesses_waiting)
            finally:
                self._guesses_waiting -= 1

    def _handlers_for(self, link: Link) -> dict[Kind, Handler]:
        handlers: dict[Kind, Handler] = {kind: partial(handler, link) for kind, handler in self._handlers.items()}
        beat = handlers.get(Kind.HEARTBEAT)

        def heartbeat(call: Call) -> None:
            link._heartbeat(call)
            if beat is not None:
                beat(call)

        handlers[Kind.HEARTBEAT] = heartbeat
        return handlers

    def _accept(self, link: Link) -> None:
        if (old := self._links.get(link.worker_id)) is not None:
            old.abort("a newer spawn of the worker takes its place")
        self._links[link.worker_id] = link
        log.info("worker %d connected (pid %d, epoch %d)", link.worker_id, link.pid, link.epoch)
        self._on_link(link)

    def _lost(self, link: Link, reason: str) -> None:
        self._open.discard(link)
        if self._links.get(link.worker_id) is link:
            del self._links[link.worker_id]
        if link.accepted:
            self._on_lost(link, reason)
        else:
            log.warning("worker %d was refused: %s", link.worker_id, reason)


def _switching(request: web.Request) -> web.StreamResponse:
    """The answer that ends the handshake of RFC 6455.

    Raises:
        web.HTTPBadRequest: the request is no such handshake.
    """
    key = request.headers.get("Sec-WebSocket-Key", "")
    if (
        request.headers.get("Upgrade", "").lower() != "websocket"
        or "upgrade" not in request.headers.get("Connection", "").lower()
        or request.headers.get("Sec-WebSocket-Version") != "13"
        or len(key) != 24
        or not key.isascii()
    ):
        raise web.HTTPBadRequest(text="a WebSocket handshake is wanted")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _WEBSOCKET_KEY, usedforsecurity=False).digest()).decode()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
    return web.StreamResponse(status=101, headers=headers)


def _host_port(address: str) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    try:
        return parts.hostname or "127.0.0.1", parts.port or 0
    except ValueError:
        raise ConfigError(f"{address!r} is not HOST:PORT or unix:PATH", hint="addrs.mesophyll_server") from None


def _unix_listener(path: str) -> socket.socket:
    """A UNIX socket at *path*, open to every account as loopback is: workers have accounts of their own, and a token."""
    _remove_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_socket(path: str) -> None:
    target = Path(path)
    try:
        if stat.S_ISSOCK(target.stat().st_mode):
            target.unlink()
    except FileNotFoundError:
        pass
