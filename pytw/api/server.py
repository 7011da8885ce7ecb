"""The API's listeners: TCP for everyone, and the control socket for the command line."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pytw.api import (
    events,
    globalkv,
    globalstaff,
    health,
    kv,
    mock,
    objects,
    secrets,
    shop,
    templates,
    tenants,
    versions,
)
from pytw.api.answers import envelope, failure
from pytw.api.context import CONTEXT, ApiContext
from pytw.errors import StorageRefused
from pytw.limits import API_BODY_BYTES_MAX, API_HEADER_BYTES_MAX, API_HEADERS_S, API_KEEPALIVE_S, API_REQUESTS_MAX

_http_log = logging.getLogger("api.http")
# What is not HTTP is answered with 400; it is no error of ours that the log would have to show.
_http_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


async def _unsigned(_request: web.Request, response: web.StreamResponse) -> None:
    """Which server this is, and of which version, is nobody's business."""
    response.headers.popall("Server", None)


def application(context: ApiContext, silent: set[Any] | None = None) -> web.Application:
    """The routes over *context*. Connections leave *silent* when they have sent the headers of a request."""
    in_flight = 0

    @web.middleware
    async def bounded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        nonlocal in_flight
        if silent is not None:
            silent.discard(request.protocol)
        if in_flight >= API_REQUESTS_MAX:
            return failure(503, "overloaded", f"{API_REQUESTS_MAX} requests are in flight")
        in_flight += 1
        try:
            return await handler(request)
        finally:
            in_flight -= 1

    app = web.Application(middlewares=[envelope, bounded], client_max_size=API_BODY_BYTES_MAX)
    app[CONTEXT] = context
    app.on_response_prepare.append(_unsigned)
    for room in (events, globalkv, globalstaff, health, kv, mock, objects, secrets, shop, templates, tenants, versions):
        app.add_routes(room.routes())
    return app


class ApiServer:
    """Serves the API from `start` to `close`."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._runner: web.AppRunner | None = None
        self._control: Path | None = None
        self._listening: list[asyncio.Server] = []
        #: Connections that have sent no request yet.
        self._silent: set[Any] = set()

    async def start(self, listener: socket.socket | None, control: Path | None) -> None:
        """Serves on a bound socket and on the control socket at that path, either of them if it is given.

        Raises:
            StorageRefused: the control socket cannot be made.
        """
        self._runner = web.AppRunner(
            application(self._context, self._silent),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            max_field_size=API_HEADER_BYTES_MAX,
            keepalive_timeout=API_KEEPALIVE_S,
            # `bodies.py` unpacks: it bounds what comes out, and its refusals have the envelope.
            auto_decompress=False,
            logger=_http_log,
        )
        await self._runner.setup()
        if control is not None:
            try:
                listening = _control_socket(control)
            except OSError as error:
                await self._runner.cleanup()
                raise StorageRefused(
                    f"{control}: {error.strerror or error}", hint="data_dir names the folder"
                ) from error
            self._control = control
            self._listening.append(
                await asyncio.get_running_loop().create_unix_server(self._connection, sock=listening)
            )
        if listener is not None:
            self._listening.append(await asyncio.get_running_loop().create_server(self._connection, sock=listener))

    def _connection(self) -> asyncio.Protocol:
        """The protocol of a new connection, which is closed if it sends no request."""
        assert self._runner is not None
        assert self._runner.server is not None
        protocol = self._runner.server()
        self._silent.add(protocol)

        def give_up() -> None:
            if protocol in self._silent:
                self._silent.discard(protocol)
                protocol.force_close()

        asyncio.get_running_loop().call_later(API_HEADERS_S, give_up)
        return protocol

    def stop_intake(self) -> None:
        """Runs no new events; what runs may end, and everything else is answered still."""
        self._context.draining = True

    async def close(self) -> None:
        """Stops listening; requests in flight have a second to end."""
        for server in self._listening:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._control is not None:
            self._control.unlink(missing_ok=True)


def _control_socket(path: Path) -> socket.socket:
    """A listening socket that only our own account may open, from its first moment on."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(old)
    return listener
