"""`Shard`: one gateway connection, kept up. Connect, log in, read, and again.

What ended a connection decides how the next begins (`session`); what is read goes through `inflate` to `intake`; the
window of `cursor` says when to stop reading. A fatal close code ends the shard with an alarm, everything else is tried
again with growing, bounded pauses, which shrink after a login and vanish after a while of health.

Source: spec/discord.md 1, DESIGN 4.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from random import random
from typing import Protocol

import aiohttp
from aiohttp import ClientTimeout, ClientWebSocketResponse, ClientWSTimeout, WSMsgType
from yarl import URL

from pytw.errors import ProtocolError, Unavailable
from pytw.gateway.cursor import CursorReporter, Window
from pytw.gateway.inflate import Inflater
from pytw.gateway.intake import Intake
from pytw.gateway.session import HELLO, KEEP_SESSION, Next, Session
from pytw.limits import (
    CURSOR_WINDOW_EVENTS,
    GATEWAY_BACKOFF_FIRST_S,
    GATEWAY_BACKOFF_MAX_S,
    GATEWAY_CONNECT_S,
    GATEWAY_FRAME_BYTES_MAX,
    GATEWAY_HEALTHY_AFTER_S,
    GATEWAY_HELLO_S,
)
from pytw.routing import peek
from pytw.types import Cursor, CursorSink, Forwarder, IdentifySlots, Offer

log = logging.getLogger(__name__)

#: Failed connections to the resume URL before the gateway's own is asked for a fresh session.
_RESUME_TRIES = 2
_QUERY = {"v": "10", "encoding": "json", "compress": "zlib-stream"}


class GatewaySpec(Protocol):
    """What a shard needs to know of Discord (`worker.spec.DiscordSpec`)."""

    @property
    def token(self) -> str: ...
    @property
    def gateway_url(self) -> str: ...
    @property
    def shards(self) -> int: ...
    @property
    def intents(self) -> int: ...
    @property
    def application_id(self) -> int: ...


class Shard:
    """One of the bot's gateway connections.

    Args:
        offer: takes the events of this worker's tenants; calls back once each has an outcome.
        listens: whether a tenant listens for an event.
        slots: the right to IDENTIFY, over all workers.
        cursors: where the shard goes on after a restart of its process.
        forwarder: takes the events of other workers' tenants.
        on_state: told of each change of `state`.
    """

    def __init__(
        self,
        spec: GatewaySpec,
        shard_id: int,
        offer: Offer,
        listens: Callable[[int, str], bool],
        slots: IdentifySlots,
        cursors: CursorSink,
        forwarder: Forwarder,
        worker_id: int,
        workers: int,
        *,
        on_state: Callable[[int, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = shard_id
        self.state = "idle"
        self.identifies = self.resumes = self.connections = 0
        self._spec = spec
        self._slots = slots
        self._cursors = cursors
        self._on_state = on_state
        self._clock = clock
        self._reporter = CursorReporter(cursors, shards=spec.shards, shard=shard_id, clock=clock)
        self._intake = Intake(
            worker_id=worker_id,
            workers=workers,
            aligned=spec.shards % workers == 0 and shard_id % workers == worker_id,
            bot_id=bot_id_of(spec.token) or spec.application_id,
            offer=offer,
            listens=listens,
            forwarder=forwarder,
            reporter=self._reporter,
            clock=clock,
        )
        self._session = Session(
            token=spec.token,
            shard=shard_id,
            shards=spec.shards,
            intents=spec.intents,
            gateway_url=spec.gateway_url,
            clock=clock,
        )
        self._socket: ClientWebSocketResponse | None = None
        self._stopping = asyncio.Event()
        self._closing: asyncio.Task[bool] | None = None
        self._main: asyncio.Task[None] | None = None
        self._paused = False
        self._beat_now = asyncio.Event()
        self._logged_in_at: float | None = None
        self._failures = 0
        self._resume_failures = 0
        self._refused_s = 0.0

    # ---- what others see

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    @property
    def bot_id(self) -> int:
        return self._intake.bot_id

    @property
    def latency_s(self) -> float:
        """From the last heartbeat to its answer."""
        return self._session.latency_s

    @property
    def counts(self) -> dict[str, int]:
        """Totals since the start, for metrics."""
        intake = self._intake
        return {
            "seen": intake.seen,
            "offered": intake.offered,
            "forwarded": intake.forwarded,
            "skipped": intake.skipped,
            "pending": len(self._reporter.window),
            "released": self._reporter.window.released,
            "connections": self.connections,
            "identifies": self.identifies,
            "resumes": self.resumes,
        }

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(self.id, state)

    # ---- life

    async def run(self) -> None:
        """Keep the shard connected until `stop_intake`.

        Raises:
            TokenRefused, ConfigError: Discord will not have us; trying again is pointless.
        Cancellation: like `stop_intake`, without the close frame being waited for.
        """
        self._main = asyncio.get_running_loop().create_task(self._keep_connected())
        try:
            await asyncio.wait((self._main,))
        finally:
            self._main.cancel()
            self._become("stopped")
        if not self._main.cancelled():
            self._main.result()

    async def _keep_connected(self) -> None:
        cursor = await self._load()
        if (
            cursor is not None
            and self._spec.gateway_url.startswith("wss:")
            and not cursor.resume_url.startswith("wss:")
        ):
            # A mock's, from dev mode: whoever listens there now would get the token.
            log.warning("shard %d: its stored session is of a gateway without TLS, beginning a new one", self.id)
            cursor = None
        if cursor is not None:
            self._session.id, self._session.resume_url = cursor.session_id, cursor.resume_url
            self._session.sequence = cursor.sequence
            window = Window(cursor.sequence, tuple(cursor.done_above), maybe_run=CURSOR_WINDOW_EVENTS)
            self._reporter.follow(cursor.session_id, cursor.resume_url, window)
        timeout = ClientTimeout(total=None, sock_connect=GATEWAY_CONNECT_S)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            while not self._stopping.is_set():
                await self._connection(http)
                await self._pause()

    async def _load(self) -> Cursor | None:
        """The stored cursor. Without an answer nothing begins: a fresh session would lose what was missed."""
        wait_s = GATEWAY_BACKOFF_FIRST_S
        while True:
            try:
                return (await self._cursors.load(self._spec.shards)).get(self.id)
            except Unavailable as error:
                log.warning("shard %d: its cursor cannot be read yet: %s", self.id, error)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, GATEWAY_BACKOFF_MAX_S)

    def stop_intake(self) -> None:
        """Take nothing more, and leave the session as it is for whoever resumes it."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._reporter.stop()
        if self._socket is not None:
            self._closing = asyncio.get_running_loop().create_task(self._socket.close(code=KEEP_SESSION))

    async def close(self) -> None:
        """Stop intake, give up what is being forwarded, and report the cursor for the last time."""
        self.stop_intake()
        if self._closing is not None:
            with suppress(ConnectionError):
                await self._closing
        if self._main is not None:
            self._main.cancel()
        await self._intake.close()
        self._reporter.close()

    async def _pause(self) -> None:
        """Wait before the next connection: what the gateway asked for, else what failures make advisable."""
        now = self._clock()
        if self._logged_in_at is not None:
            healthy = now - self._logged_in_at >= GATEWAY_HEALTHY_AFTER_S
            self._failures = 0 if healthy else min(self._failures, 2)
            self._logged_in_at = None
        self._failures += 1
        wait_s = self._refused_s
        if self._failures > 1:
            grown = min(GATEWAY_BACKOFF_FIRST_S * 2 ** (self._failures - 2), GATEWAY_BACKOFF_MAX_S)
            wait_s = max(wait_s, grown * (0.5 + random() / 2))
        self._refused_s = 0.0
        if wait_s and not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    # ---- one connection

    async def _connection(self, http: aiohttp.ClientSession) -> None:
        """From connect to close. Returns whatever happens, unless it is fatal."""
        session = self._session
        self._become("connecting")
        fresh = session.resumable and self._resume_failures >= _RESUME_TRIES
        url = URL(self._spec.gateway_url if fresh else session.url).update_query(_QUERY)
        slot = not session.resumable
        try:
            if slot:
                await self._slots.acquire(self.id)
            async with asyncio.timeout(GATEWAY_CONNECT_S):
                socket = await http.ws_connect(
                    url,
                    max_msg_size=GATEWAY_FRAME_BYTES_MAX,
                    compress=0,
                    timeout=ClientWSTimeout(ws_close=1.0),
                )
        except Unavailable as error:
            log.warning("shard %d: no right to identify yet: %s", self.id, error)
            return
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._resume_failures += session.resumable
            log.warning(
                "shard %d: no connection to %s: %s", self.id, url.with_query(None), error or type(error).__name__
            )
            return
        self.connections += 1
        if fresh:
            log.warning("shard %d: the session's own gateway is gone, beginning a new session", self.id)
            self._lose_session()
        self._resume_failures = 0
        self._socket = socket
        beats: asyncio.Task[None] | None = None
        try:
            if self._stopping.is_set():
                return
            inflater = Inflater()
            await self._hello(socket, inflater)
            beats = asyncio.create_task(self._beat(socket))
            if not session.resumable and not slot:
                await self._slots.acquire(self.id)
            if session.resumable:
                self.resumes += 1
            else:
                self.identifies += 1
            await socket.send_str(session.login().decode())
            await self._read(socket, inflater)
        except ProtocolError as error:
            log.error("shard %d: %s", self.id, error)
        except (ConnectionError, TimeoutError, aiohttp.ClientError, Unavailable) as error:
            log.info("shard %d: connection lost: %s", self.id, error or type(error).__name__)
        finally:
            if beats is not None:
                beats.cancel()
            self._socket = None
            if not socket.closed:
                await socket.close(code=KEEP_SESSION)
            if not self._stopping.is_set():
                self._ended(socket)

    def _ended(self, socket: ClientWebSocketResponse) -> None:
        """Read the meaning of the connection's close code. Raises what is fatal."""
        had_session, code = self._session.resumable, socket.close_code
        fatal = self._session.closed(code)
        if had_session and not self._session.resumable:
            self._lose_session()
        if fatal is not None:
            self._become("refused")
            log.critical("shard %d: %s", self.id, fatal)
            raise fatal
        log.info("shard %d: connection ended with code %s", self.id, code)
        self._become("connecting")

    def _lose_session(self) -> None:
        self._session.forget()
        self._reporter.forget()

    async def _hello(self, socket: ClientWebSocketResponse, inflater: Inflater) -> None:
        async with asyncio.timeout(GATEWAY_HELLO_S):
            while True:
                frame = await self._next(socket, inflater)
                if frame is None:
                    raise ConnectionResetError("closed before HELLO")
                peeked = peek(frame)
                if peeked.op == HELLO:
                    self._session.hello(frame[peeked.start : peeked.end])
                    return
                if self._control(peeked.op, frame[peeked.start : peeked.end]):
                    raise ConnectionResetError("asked to go before HELLO")

    async def _next(self, socket: ClientWebSocketResponse, inflater: Inflater) -> bytes | None:
        """The next frame; None when the connection has ended."""
        while True:
            message = await socket.receive()
            if message.type is WSMsgType.BINARY:
                frame = inflater.feed(message.data)
                if frame is not None:
                    return frame
            elif message.type is WSMsgType.TEXT:
                return bytes(message.data, "utf-8")
            else:
                return None

    async def _read(self, socket: ClientWebSocketResponse, inflater: Inflater) -> None:
        session, intake, reporter = self._session, self._intake, self._reporter
        while (frame := await self._next(socket, inflater)) is not None:
            if self._stopping.is_set():
                return
            try:
                peeked = peek(frame)
            except ProtocolError as error:
                log.error("shard %d: a frame is skipped: %s", self.id, error)
                continue
            number = peeked.s
            if peeked.op == 0 and number is not None:
                if peeked.t == "READY" or peeked.t == "RESUMED":
                    self._logged_in(frame, peeked.t, number)
                session.sequence = number
                intake.take(frame, peeked, number)
                if reporter.window.full:
                    await self._room()
            elif self._control(peeked.op, frame[peeked.start : peeked.end]):
                return

    async def _room(self) -> None:
        """Stop reading until the window has room."""
        self._paused = True
        try:
            room = asyncio.ensure_future(self._reporter.room())
            stop = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait((room, stop), return_when=asyncio.FIRST_COMPLETED)
            finally:
                room.cancel()
                stop.cancel()
        finally:
            self._session.alive()
            self._paused = False

    def _control(self, op: int, d: bytes) -> bool:
        """Act on a frame other than a dispatch; True if the connection must end."""
        had_session = self._session.resumable
        match self._session.receive(op, d):
            case Next.BEAT:
                self._beat_now.set()
            case Next.RECONNECT:
                return True
            case Next.RECONNECT_LATER:
                if had_session and not self._session.resumable:
                    log.warning("shard %d: the session cannot be resumed; what was missed is lost", self.id)
                    self._lose_session()
                self._refused_s = self._session.wait_s
                return True
        return False

    def _logged_in(self, frame: bytes, name: str, number: int) -> None:
        self._logged_in_at = self._clock()
        if name == "READY":
            ready = self._session.ready(frame)
            if ready.user.id.isdigit():
                self._intake.bot_id = int(ready.user.id)
            self._reporter.follow(ready.session_id, ready.resume_gateway_url, Window(number))
            log.info("shard %d: new session", self.id)
        else:
            self._reporter.window.maybe_run = 0
            log.info("shard %d: session resumed", self.id)
        self._become("ready")

    async def _beat(self, socket: ClientWebSocketResponse) -> None:
        """Heartbeats of one connection, and its end when they are not answered."""
        session = self._session
        while True:
            left_s = session.due - self._clock()
            if left_s > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._beat_now.wait(), left_s)
            if self._paused:
                session.alive()
            elif session.zombie:
                log.warning("shard %d: heartbeat not answered", self.id)
                await socket.close(code=KEEP_SESSION)
                return
            frame = session.beat() if self._beat_now.is_set() else session.tick()
            self._beat_now.clear()
            if frame is not None:
                with suppress(ConnectionError):
                    await socket.send_str(frame.decode())


def bot_id_of(token: str) -> int:
    """The bot's user id, which Discord writes into the first part of a token; 0 if it is not there."""
    first = token.removeprefix("Bot ").split(".", 1)[0]
    try:
        text = base64.b64decode(first + "=" * (-len(first) % 4), validate=True)
    except (binascii.Error, ValueError):
        return 0
    return int(text) if text.isdigit() and len(text) <= 20 else 0
