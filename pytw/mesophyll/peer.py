"""What both ends of a link share: a channel on a wire, flushed once per loop tick, with heartbeats and deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pytw.errors import InternalError, Overloaded, ProtocolError, PytwError, WorkerLost
from pytw.limits import HEARTBEAT_MS, LINK_BUFFER_BYTES_MAX
from pytw.mesophyll.channel import DEADLINE_STEP_S, NIL, Call, Channel, Done, Handler
from pytw.mesophyll.records import Kind
from pytw.mesophyll.wire import CLOSED_BY_PROTOCOL, CLOSED_NORMALLY, Wire

_encode = msgspec.msgpack.Encoder().encode

log = logging.getLogger("mesophyll")


class Peer:
    """One end of a link. Belongs to one event loop."""

    def __init__(
        self,
        handlers: Mapping[Kind, Handler],
        *,
        masks: bool,
        on_lost: Callable[[str], object],
        stats: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """
        Args:
            on_lost: called once when the link has ended, after everything pending has failed.
            stats: what each heartbeat tells the peer.
        """
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(handlers, on_output=self._schedule_flush)
        self._wire = Wire(masks=masks, on_frame=self._receive, on_lost=self._ended)
        self._on_lost = on_lost
        self._stats = stats
        self._beat_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._receiving = False
        self._flush_due = False
        self._corked = False
        self._busy = False
        self._ended_future: asyncio.Future[str] = self._loop.create_future()

    # Requests

    async def request(self, kind: Kind, tenant: int, body: bytes = NIL, timeout_s: float | None = None) -> bytes:
        """Asks the peer and returns the body of its RESULT.

        Raises:
            DeadlineExceeded: no answer in *timeout_s*; the peer is told to stop.
            WorkerLost: the link ended; the request may have run.
            Overloaded: too much is pending, or the peer does not read.
            PytwError: what the peer answered with FAILED.
        Cancellation: gives up the answer and tells the peer.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(body: bytes, error: PytwError | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(body)
                else:
                    future.set_exception(error)

        number = self.call(kind, tenant, body, done, timeout_s)
        try:
            return await future
        except asyncio.CancelledError:
            self._channel.abandon(number)
            raise

    def call(self, kind: Kind, tenant: int, body: bytes, done: Done, timeout_s: float | None = None) -> int:
        """`request` by callback: *done* gets the body and None, or b"" and the error. Returns a number for `abandon`.

        Raises:
            Overloaded, WorkerLost, LimitExceeded: nothing was sent; *done* is not called.
        """
        if self._wire.waiting_bytes > LINK_BUFFER_BYTES_MAX:
            raise Overloaded("the other side of the link does not read")
        if timeout_s is None:
            return self._channel.request(kind, tenant, body, done)
        number = self._channel.request(kind, tenant, body, done, self._loop.time() + timeout_s)
        if self._deadline_timer is None:
            self._deadline_timer = self._loop.call_later(DEADLINE_STEP_S, self._expire)
        return number

    def abandon(self, number: int) -> None:
        """Gives up a request made by `call` and tells the peer; its callback is not called."""
        self._channel.abandon(number)

    def send(self, kind: Kind, tenant: int, body: bytes = NIL) -> None:
        """Sends what wants no answer. Dropped once the link has ended, or while the peer does not read."""
        if self._wire.waiting_bytes <= LINK_BUFFER_BYTES_MAX:
            self._channel.post(kind, tenant, body)

    # State

    @property
    def lost(self) -> bool:
        """The link has ended."""
        return self._channel.failure is not None

    @property
    def pending(self) -> int:
        """Requests of this side without an answer."""
        return self._channel.pending

    @property
    def serving(self) -> int:
        """Requests of the peer without an answer."""
        return self._channel.serving

    @property
    def ignored(self) -> int:
        """Answers that came late, twice or for nothing."""
        return self._channel.ignored

    async def wait_lost(self) -> str:
        """Returns when the link has ended, with the reason."""
        return await asyncio.shield(self._ended_future)

    async def close(self, reason: str = "closed") -> None:
        """Sends what waits, closes, and returns when the connection is gone."""
        if not self._wire.open:
            self._lose(reason)
        elif not self._ended_future.done():
            self._flush()
            self._wire.close(CLOSED_NORMALLY, reason)
            await self.wait_lost()

    def abort(self, reason: str) -> None:
        """Ends the link at once."""
        self._lose(reason)
        self._wire.abort(reason)

    # Inside

    def _start(self, transport: asyncio.Transport) -> None:
        """Takes the transport over and begins to beat."""
        transport.set_write_buffer_limits(high=LINK_BUFFER_BYTES_MAX)
        self._wire.take_over(transport)
        self._beat_timer = self._loop.call_later(HEARTBEAT_MS / 1e3, self._beat)

    def _schedule_flush(self) -> None:
        """The first record of a quiet tick leaves at once, all others together at the tick's end."""
        self._flush_due = True
        if not self._receiving and not self._corked:
            self._corked = True
            self._loop.call_soon(self._uncork)
            if not self._busy:
                self._flush()

    def _uncork(self) -> None:
        self._corked = False
        waiting = self._channel.waiting
        # Where ticks bring several records, waiting for the tick's end saves a frame; where they bring one, it costs time.
        self._busy = waiting > (1 if self._busy else 0)
        if waiting:
            self._flush()

    def _flush(self) -> None:
        self._flush_due = False
        for frame in self._channel.take():
            self._wire.send(frame)

    def _receive(self, frame: bytes) -> None:
        # What handlers answer at once leaves with this frame's end, without another turn of the loop.
        self._receiving = not self._corked
        try:
            self._channel.receive(frame)
        except ProtocolError as error:
            self._refuse(error)
        finally:
            if self._receiving:
                self._receiving = False
                if self._flush_due:
                    self._flush()

    def _refuse(self, error: ProtocolError) -> None:
        """The peer broke the protocol: nothing more is taken from it."""
        self._lose(error.detail)
        self._wire.close(CLOSED_BY_PROTOCOL, error.detail)

    def _beat(self) -> None:
        if not self._channel.beat(self._loop.time()):
            self.abort("no heartbeat")
            return
        self._beat_timer = self._loop.call_later(HEARTBEAT_MS / 1e3, self._beat)
        self.send(Kind.HEARTBEAT, 0, NIL if self._stats is None else _encode(self._stats()))

    def _expire(self) -> None:
        self._deadline_timer = None
        if self._channel.expire(self._loop.time()):
            self._deadline_timer = self._loop.call_later(DEADLINE_STEP_S, self._expire)

    def _lose(self, reason: str) -> None:
        for timer in (self._beat_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        self._channel.lose(WorkerLost(f"the link ended: {reason}"))

    def _ended(self, reason: str) -> None:
        self._lose(reason)
        if not self._ended_future.done():
            self._ended_future.set_result(reason)
            self._on_lost(reason)


def answering(answer: Callable[[Call], Coroutine[Any, Any, bytes]]) -> Handler:
    """A handler that runs *answer* in a task of its own: its bytes are the RESULT, its PytwError the FAILED.

    The task is cancelled when the peer gives up the request. For hot kinds write a `Handler` instead.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def run(call: Call) -> None:
        try:
            call.answer(await answer(call))
        except PytwError as error:
            call.fail(error)
        except Exception as error:
            log.exception("%s failed", Kind(call.kind).name, extra={"tenant": call.tenant or None})
            call.fail(InternalError(f"{Kind(call.kind).name} failed: {type(error).__name__}"))

    def start(call: Call) -> None:
        task = asyncio.ensure_future(run(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        call.on_cancel = task.cancel

    return start
