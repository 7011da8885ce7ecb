"""One side of a Mesophyll link without I/O: frames in, callbacks and frames out.

Each side numbers its own requests from 1. A request waits in ``pending`` until RESULT or FAILED of its number and tenant
comes, its deadline passes, it is abandoned, or the link is lost; whichever is first settles it, once. What answers no
pending request is late, doubled or forged: it is counted and has no other effect. What the peer asks for is a `Call`, and
each call is answered once.

Outgoing records collect until `take`, which the transport calls once per loop tick. Time is what the caller passes in.

Liveness is counted in beats, not in seconds: a beat without anything heard since the beat before is a miss, and the third
miss in a row means that the peer is dead. A side that was itself stopped, so that its beat came late, holds nothing
against its peer.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from pytw.errors import (
    DeadlineExceeded,
    InternalError,
    LimitExceeded,
    Overloaded,
    ProtocolError,
    PytwError,
    from_wire,
    to_wire,
)
from pytw.limits import FRAME_BYTES_MAX, HEARTBEAT_MS, HEARTBEATS_MISSED_MAX, RECORD_BYTES_MAX, REQUESTS_PENDING_MAX
from pytw.mesophyll._framing import HEADER_BYTES, join, split
from pytw.mesophyll.records import Kind

#: Settles a request: its answer and None, or b"" and why there is none.
Done = Callable[[bytes, PytwError | None], None]
#: Starts work on what the peer asked for, and returns at once.
Handler = Callable[["Call"], None]

#: How late a deadline may be noticed.
DEADLINE_STEP_S: Final = 0.1
#: Answered requests that may stand in the lists of deadlines, beside as many as are pending.
DEADLINES_SPARE: Final = 4_096
NIL: Final = b"\xc0"

_RESULT: Final = int(Kind.RESULT)
_FAILED: Final = int(Kind.FAILED)
_CANCEL: Final = int(Kind.CANCEL)
_KINDS: Final = frozenset(int(kind) for kind in Kind)
_encode = msgspec.msgpack.Encoder().encode
_decode_failure = msgspec.msgpack.Decoder(tuple[str, str, str | None]).decode

log = logging.getLogger("mesophyll")


class Call:
    """Something that the peer asked for. ``request`` 0 wants no answer; `answer` and `fail` are then without effect."""

    __slots__ = ("_channel", "body", "kind", "on_cancel", "request", "tenant")

    def __init__(self, channel: Channel | None, kind: int, request: int, tenant: int, body: bytes) -> None:
        self._channel = channel
        self.kind = kind
        self.request = request
        self.tenant = tenant
        self.body = body
        #: Called when the peer gives up the request, or the link is lost, before it was answered.
        self.on_cancel: Callable[[], object] | None = None

    def answer(self, body: bytes = NIL) -> None:
        """Answers with RESULT. The first of `answer` and `fail` counts."""
        if (channel := self._channel) is None:
            return
        if len(body) > RECORD_BYTES_MAX:
            self.fail(LimitExceeded(f"an answer of {len(body)} bytes is over the limit of {RECORD_BYTES_MAX}"))
            return
        self._channel = None
        channel._answered(self.request, _RESULT, self.tenant, body)

    def fail(self, error: PytwError) -> None:
        """Answers with FAILED: code, text and hint are all that crosses."""
        if (channel := self._channel) is not None:
            self._channel = None
            channel._answered(self.request, _FAILED, self.tenant, _encode(to_wire(error)))

    def _cancelled(self) -> None:
        self._channel = None
        if self.on_cancel is not None:
            self.on_cancel()


class Channel:
    """Numbers, pending requests, calls of the peer, outgoing records, heartbeats and deadlines of one link."""

    __slots__ = (
        "_deadlines",
        "_handlers",
        "_heard",
        "_last_beat_s",
        "_listed",
        "_missed",
        "_next",
        "_on_output",
        "_outgoing",
        "_outgoing_bytes",
        "_pending",
        "_requests_max",
        "_serving",
        "failure",
        "ignored",
    )

    def __init__(
        self,
        handlers: Mapping[Kind, Handler],
        *,
        on_output: Callable[[], object],
        requests_max: int = REQUESTS_PENDING_MAX,
    ) -> None:
        """
        Args:
            handlers: what this side serves.
            on_output: called when the first record waits for `take`.
            requests_max: most requests pending, and most calls being served.
        """
        self._handlers: dict[int, Handler] = {int(kind): handler for kind, handler in handlers.items()}
        self._on_output = on_output
        self._requests_max = requests_max
        self._next = 1
        self._pending: dict[int, tuple[int, Done]] = {}
        self._serving: dict[int, Call] = {}
        self._outgoing: list[tuple[int, int, int, bytes]] = []
        self._outgoing_bytes = 0
        self._deadlines: dict[int, deque[int]] = {}
        #: Numbers in all lists of deadlines, answered ones among them.
        self._listed = 0
        self._heard = True
        self._missed = 0
        self._last_beat_s: float | None = None
        #: Why the link ended; None while it lives.
        self.failure: PytwError | None = None
        #: Answers that fitted no pending request.
        self.ignored = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def waiting(self) -> int:
        """Records that wait for `take`."""
        return len(self._outgoing)

    @property
    def serving(self) -> int:
        return len(self._serving)

    def serve(self, handlers: Mapping[Kind, Handler]) -> None:
        """Replaces what this side serves."""
        self._handlers = {int(kind): handler for kind, handler in handlers.items()}

    # Requests of this side

    def request(self, kind: int, tenant: int, body: bytes, done: Done, deadline_s: float | None = None) -> int:
        """Sends a request; *done* settles it, never before this returns.

        Args:
            deadline_s: on the clock that `expire` is told; noticed at most `DEADLINE_STEP_S` late.
        Returns:
            The number for `abandon`.
        Raises:
            Overloaded: too many are pending.
            LimitExceeded: the body is too large.
            PytwError: the link has ended, for the reason in ``failure``.
        """
        if self.failure is not None:
            raise _again(self.failure)
        if len(self._pending) >= self._requests_max:
            raise Overloaded(f"{self._requests_max} requests are pending on this link")
        number = self._next
        self._put(kind, number, tenant, body)
        self._next = number + 1
        self._pending[number] = (tenant, done)
        if deadline_s is not None:
            step = int(deadline_s / DEADLINE_STEP_S) + 1
            if (waiting := self._deadlines.get(step)) is None:
                waiting = self._deadlines[step] = deque()
            waiting.append(number)
            self._listed += 1
        return number

    def post(self, kind: int, tenant: int, body: bytes) -> None:
        """Sends a record that wants no answer. Without effect once the link has ended.

        Raises:
            LimitExceeded: the body is too large.
        """
        if self.failure is None:
            self._put(kind, 0, tenant, body)

    def abandon(self, number: int) -> None:
        """Gives up a request and tells the peer. Its callback is not called; an answer that comes later is ignored."""
        if (entry := self._pending.pop(number, None)) is not None and self.failure is None:
            self._put(_CANCEL, number, entry[0], NIL)

    def expire(self, now_s: float) -> bool:
        """Fails requests whose deadline has passed. False if no request has a deadline to wait for."""
        step = int(now_s / DEADLINE_STEP_S)
        for due in [key for key in self._deadlines if key <= step]:
            waiting = self._deadlines.pop(due)
            self._listed -= len(waiting)
            for number in waiting:
                if (entry := self._pending.get(number)) is not None:
                    self.abandon(number)
                    entry[1](b"", DeadlineExceeded("no answer came in time"))
        if self._listed > 2 * len(self._pending) + DEADLINES_SPARE:
            self._forget_settled()
        return bool(self._deadlines)

    def _forget_settled(self) -> None:
        """Takes what is answered out of the lists of deadlines, which may be a minute ahead."""
        pending = self._pending
        kept = ((step, deque(n for n in waiting if n in pending)) for step, waiting in self._deadlines.items())
        self._deadlines = {step: waiting for step, waiting in kept if waiting}
        self._listed = sum(map(len, self._deadlines.values()))

    # Frames

    def take(self) -> list[bytes]:
        """Everything to send, as frames within their limit; usually one."""
        outgoing = self._outgoing
        if not outgoing:
            return []
        self._outgoing = []
        size, self._outgoing_bytes = self._outgoing_bytes, 0
        if size <= FRAME_BYTES_MAX:
            return [join(outgoing)]
        frames: list[bytes] = []
        run: list[tuple[int, int, int, bytes]] = []
        size = 0
        for record in outgoing:
            record_bytes = HEADER_BYTES + len(record[3])
            if size + record_bytes > FRAME_BYTES_MAX:
                frames.append(join(run))
                run, size = [], 0
            run.append(record)
            size += record_bytes
        frames.append(join(run))
        return frames

    def receive(self, frame: bytes) -> None:
        """Takes a frame of the peer: settles requests and starts calls.

        Raises:
            ProtocolError: a bad record; the caller closes the link. Records before it had their effect.
        """
        self._heard = True
        for kind, request, tenant, body in split(frame):
            if kind == _RESULT:
                entry = self._pending.get(request)
                if entry is None or entry[0] != tenant:
                    self.ignored += 1
                    continue
                del self._pending[request]
                entry[1](body, None)
            elif (handler := self._handlers.get(kind)) is not None:
                self._start(handler, kind, request, tenant, body)
            else:
                self._other(kind, request, tenant, body)

    def lose(self, error: PytwError) -> None:
        """Ends the link: everything pending fails with *error*, calls of the peer are cancelled. Idempotent."""
        if self.failure is not None:
            return
        self.failure = error
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._deadlines.clear()
        self._listed = 0
        pending, self._pending = self._pending, {}
        serving, self._serving = self._serving, {}
        for _, done in pending.values():
            done(b"", _again(error))
        for call in serving.values():
            call._cancelled()

    def beat(self, now_s: float) -> bool:
        """Once per HEARTBEAT_MS: False if the peer has missed its last `HEARTBEATS_MISSED_MAX` beats."""
        late = self._last_beat_s is not None and now_s - self._last_beat_s > HEARTBEAT_MS * 1.5e-3
        self._last_beat_s = now_s
        if self._heard or late:
            self._missed = 0
        else:
            self._missed += 1
        self._heard = False
        return self._missed < HEARTBEATS_MISSED_MAX

    # Inside

    def _put(self, kind: int, request: int, tenant: int, body: bytes) -> None:
        if len(body) > RECORD_BYTES_MAX:
            raise LimitExceeded(f"a record of {len(body)} bytes is over the limit of {RECORD_BYTES_MAX}")
        self._outgoing.append((kind, request, tenant, body))
        self._outgoing_bytes += HEADER_BYTES + len(body)
        if len(self._outgoing) == 1:
            self._on_output()

    def _answered(self, request: int, kind: int, tenant: int, body: bytes) -> None:
        if self._serving.pop(request, None) is not None:
            self._put(kind, request, tenant, body)

    def _start(self, handler: Handler, kind: int, request: int, tenant: int, body: bytes) -> None:
        if request:
            if request in self._serving:
                raise ProtocolError(f"request {request} is in flight already")
            call = Call(self, kind, request, tenant, body)
            self._serving[request] = call
            if len(self._serving) > self._requests_max:
                call.fail(Overloaded(f"{self._requests_max} requests of this link are being served"))
                return
        else:
            call = Call(None, kind, 0, tenant, body)
        try:
            handler(call)
        except ProtocolError:
            raise
        except PytwError as error:
            call.fail(error)
        except Exception as error:
            log.exception("%s failed", _name(kind), extra={"tenant": tenant or None})
            call.fail(InternalError(f"{_name(kind)} failed: {type(error).__name__}"))

    def _other(self, kind: int, request: int, tenant: int, body: bytes) -> None:
        """FAILED, CANCEL, and what this side does not serve."""
        if kind == _FAILED:
            entry = self._pending.get(request)
            if entry is None or entry[0] != tenant:
                self.ignored += 1
                return
            try:
                code, detail, hint = _decode_failure(body)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ProtocolError(f"the body of FAILED is malformed: {error}") from None
            del self._pending[request]
            entry[1](b"", from_wire(code, detail, hint))
        elif kind == _CANCEL:
            call = self._serving.get(request)
            if call is not None and call.tenant == tenant:
                del self._serving[request]
                call._cancelled()
        elif kind not in _KINDS:
            raise ProtocolError(f"there is no record of kind {kind}")
        elif request:
            self._put(_FAILED, request, tenant, _encode(("unavailable", f"{_name(kind)} is not served here", None)))
        else:
            self.ignored += 1


def _again(error: PytwError) -> PytwError:
    """A fresh instance, so that no two tasks share a traceback."""
    return type(error)(error.detail, hint=error.hint)


def _name(kind: int) -> str:
    return Kind(kind).name if kind in _KINDS else str(kind)
