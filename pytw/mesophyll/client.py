"""The worker's side: one link to the master. Its end is the worker's end; nothing here connects again."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from pytw.errors import ProtocolError, TokenRefused, Unavailable
from pytw.limits import HELLO_S
from pytw.mesophyll.channel import Call, Handler
from pytw.mesophyll.peer import Peer
from pytw.mesophyll.records import PROTOCOL_VERSION, Kind

_encode = msgspec.msgpack.Encoder().encode
_decode_settings = msgspec.msgpack.Decoder(dict[str, Any]).decode


class MesophyllClient(Peer):
    """A worker's link. `Peer` has `request`, `call` and `send`; `proxies` has the database, cursors and so on over it."""

    def __init__(
        self,
        worker_id: int,
        epoch: int,
        handlers: Mapping[Kind, Handler],
        *,
        on_lost: Callable[[str], object],
        stats: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """
        Args:
            handlers: what the master may ask for. A handler starts work and returns at once (`peer.answering` wraps a
                coroutine function); DISPATCH wants one that answers by callback.
            on_lost: called once when the link has ended, for whatever reason: the worker process ends itself.
            stats: sent with each heartbeat.
        """
        super().__init__({}, masks=True, on_lost=on_lost, stats=stats)
        self.serve(handlers)
        self._hello = _encode((worker_id, epoch, os.getpid(), PROTOCOL_VERSION))
        self._welcomed: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._session: aiohttp.ClientSession | None = None
        self._response: aiohttp.ClientResponse | None = None

    def serve(self, handlers: Mapping[Kind, Handler]) -> None:
        """Replaces what the master may ask for."""
        self._channel.serve({**handlers, Kind.WELCOME: self._welcome, Kind.HEARTBEAT: _ignore})

    async def connect(self, address: str, token: str) -> dict[str, Any]:
        """Opens the link, and returns the master's settings (WELCOME).

        Args:
            address: ``ws://HOST:PORT/`` or ``unix:PATH``.
        Raises:
            TokenRefused: the master does not know the token, or it was used before.
            Unavailable: nobody answers there.
            ProtocolError: what answers is no Mesophyll server, or refused HELLO.
        """
        connector: aiohttp.BaseConnector
        if address.startswith("unix:"):
            connector, url = aiohttp.UnixConnector(address.removeprefix("unix:")), "http://mesophyll/"
        else:
            connector, url = aiohttp.TCPConnector(), "http" + address.removeprefix("ws")
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=HELLO_S, sock_read=HELLO_S)
        )
        try:
            self._start(await self._handshake(url, token))
            self.send(Kind.HELLO, 0, self._hello)
            lost = asyncio.ensure_future(self.wait_lost())
            await asyncio.wait((self._welcomed, lost), timeout=HELLO_S, return_when=asyncio.FIRST_COMPLETED)
            if self._welcomed.done():
                lost.cancel()
                return self._welcomed.result()
            raise ProtocolError(lost.result() if lost.done() else "WELCOME did not come")
        except BaseException:
            self.abort("the link was not accepted")
            await self._session.close()
            raise

    async def close(self, reason: str = "closed") -> None:
        await super().close(reason)
        if self._session is not None:
            await self._session.close()

    async def _handshake(self, url: str, token: str) -> asyncio.Transport:
        assert self._session is not None
        headers = {
            "Authorization": f"Bearer {token}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        }
        try:
            # Held until the end: a response that is collected closes its connection.
            self._response = response = await self._session.get(url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"the master does not answer: {type(error).__name__}") from error
        if response.status == 401:
            raise TokenRefused(
                "the master refused the token of this worker",
                hint="MESOPHYLL_CLIENT_TOKEN is good for one connection; the master makes a new one for each spawn",
            )
        connection = response.connection
        if response.status != 101 or connection is None or connection.transport is None:
            raise ProtocolError(f"what listens there is no Mesophyll server (HTTP {response.status})")
        return connection.transport

    def _ended(self, reason: str) -> None:
        if self._response is not None:
            self._response.close()
        super()._ended(reason)

    def _welcome(self, call: Call) -> None:
        try:
            settings = _decode_settings(call.body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ProtocolError(f"WELCOME is malformed: {error}") from None
        if not self._welcomed.done():
            self._welcomed.set_result(settings)


def _ignore(call: Call) -> None:
    """A heartbeat has been heard by being received."""
