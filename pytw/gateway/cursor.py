"""Which events of a session are done, and telling the master.

A window belongs to one session. Sequence numbers come in growing order; an event is pending from its offer until its
outcome, and everything else up to `received` is done: events that nobody listens for leave no trace here. So the
cursor (the lowest pending number less one, and the done ones above it) follows from the pending numbers alone.

The promise is that at most CURSOR_WINDOW_EVENTS events run twice after a crash. Those can be the pending ones and
those whose end has not been reported yet, so intake waits while the two together fill the window, and a full window is
reported at once. A handler that waits for long must not stop a shard, though: in a full window, an event older than
CURSOR_HOLD_S is released, which is to say counted as done while it runs on, after CURSOR_HOG_HOLD_S where its tenant
holds more than a quarter of the window. The same happens to the lowest one when it falls CURSOR_SPAN_EVENTS behind, so
that a cursor stays small. Released events are never delivered twice.

Which of the replayed events may have run before? Of those that are not done, the first CURSOR_WINDOW_EVENTS, since no
more can have been started; none above the number at which an orderly end closed the intake, which the last cursor
carries as a negative entry.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from pytw.limits import (
    CURSOR_HOG_HOLD_S,
    CURSOR_HOLD_S,
    CURSOR_REPORT_MS,
    CURSOR_SPAN_EVENTS,
    CURSOR_WINDOW_EVENTS,
)
from pytw.types import Cursor, CursorSink

assert CURSOR_WINDOW_EVENTS <= CURSOR_SPAN_EVENTS
_HOG_EVENTS = CURSOR_WINDOW_EVENTS // 4


class _Pending(NamedTuple):
    tenant: int
    since: float


class Window:
    """What of one session is done.

    Args:
        sequence, done_above: the stored cursor; of a fresh session 0 and nothing.
        maybe_run: how many of the next events may have been run by a process that died.
    """

    __slots__ = (
        "_closed_at",
        "_done_before",
        "_ended",
        "_pending",
        "_progress",
        "_reported_ended",
        "_started",
        "changed",
        "closed",
        "maybe_run",
        "received",
        "released",
    )

    def __init__(self, sequence: int = 0, done_above: tuple[int, ...] = (), *, maybe_run: int = 0) -> None:
        self.received = sequence
        self.maybe_run = maybe_run
        self.released = 0
        self.changed = False
        #: Nothing is started any more.
        self.closed = False
        self._closed_at = next((-number for number in done_above if number < 0), None)
        self._done_before = {number for number in done_above if number > sequence}
        self._pending: dict[int, _Pending] = {}
        self._started = 0
        self._ended = 0
        self._reported_ended = 0
        #: Tenant -> when one of its events ended last, while the window is full.
        self._progress: dict[int, float] = {}

    def __len__(self) -> int:
        """Events that are pending."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        return self._started - self._reported_ended >= CURSOR_WINDOW_EVENTS

    def was_done(self, number: int) -> bool:
        """Whether an earlier process reported *number* as done."""
        if self._done_before and number in self._done_before:
            self._done_before.discard(number)
            return True
        return False

    def start(self, number: int, tenant: int, now: float) -> bool:
        """*number* is about to be offered; answers whether it may have run before."""
        self.received = number
        self._pending[number] = _Pending(tenant, now)
        self._started += 1
        while number - next(iter(self._pending)) >= CURSOR_SPAN_EVENTS:
            self._release(next(iter(self._pending)))
        if self.maybe_run > 0:
            self.maybe_run -= 1
            return self._closed_at is None or number <= self._closed_at
        return False

    def end(self, number: int, now: float = 0.0) -> None:
        """*number* has an outcome."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._ended += 1
            self.changed = True
            if self.full:
                self._progress[pending.tenant] = now

    def make_room(self, now: float) -> float | None:
        """Release what a full window need not wait for; answers when to look again, None if nothing is pending."""
        if not self.full:
            return None
        held = Counter(p.tenant for p in self._pending.values())
        progress = {tenant: at for tenant, at in self._progress.items() if tenant in held}
        self._progress = progress
        look_again: float | None = None
        for number, pending in list(self._pending.items()):
            expires = pending.since + CURSOR_HOLD_S
            if held[pending.tenant] > _HOG_EVENTS:
                # Where its events end one after the other, the tenant is busy and does not wait.
                idle_since = max(pending.since, progress.get(pending.tenant, 0.0))
                expires = min(expires, idle_since + CURSOR_HOG_HOLD_S)
            if expires <= now:
                self._release(number)
                held[pending.tenant] -= 1
            elif look_again is None or expires < look_again:
                look_again = expires
        return look_again

    def snapshot(self) -> tuple[int, list[int]]:
        """Everything up to the first number is done, and the listed ones above it."""
        # Numbers that an earlier process finished and that are not replayed yet stand above `received`.
        later = sorted(n for n in self._done_before if n > self.received)
        if self.closed:
            later.append(-self.received)
        if not self._pending:
            return self.received, later
        lowest = next(iter(self._pending))
        return lowest - 1, [n for n in range(lowest, self.received + 1) if n not in self._pending] + later

    def reported(self) -> None:
        """What `snapshot` said is on its way to the master."""
        self._reported_ended = self._ended
        self.changed = False

    def _release(self, number: int) -> None:
        self.released += 1
        self.end(number)


class CursorReporter:
    """Reports one shard's window every CURSOR_REPORT_MS while it changes, and at once where asked."""

    __slots__ = ("_armed", "_clock", "_resume_url", "_room", "_session_id", "_shard", "_shards", "_sink", "window")

    def __init__(self, sink: CursorSink, *, shards: int, shard: int, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._shards = shards
        self._shard = shard
        self._clock = clock
        self._session_id = ""
        self._resume_url = ""
        self._armed: asyncio.TimerHandle | None = None
        self._room: asyncio.Event | None = None
        self.window = Window()

    def follow(self, session_id: str, resume_url: str, window: Window) -> None:
        """Report *window* from now on. An earlier one may end its events; nobody asks about them any more."""
        self.window = window
        self._session_id, self._resume_url = session_id, resume_url
        self.report()

    def forget(self) -> None:
        """The session is gone, and its cursor with it."""
        if self._session_id:
            self._session_id = ""
            self.window = Window()
            self._sink.report(self._shards, self._shard, None)

    def passed(self, number: int) -> None:
        """*number* is done with: nobody listens for it, or it is ours to ignore."""
        self.window.received = number
        if self._armed is None:
            self._arm()

    def end(self, window: Window, number: int) -> None:
        window.end(number, self._clock())
        if self._armed is None:
            self._arm()
        if self._room is not None:
            self._room.set()

    def _arm(self) -> None:
        self._armed = asyncio.get_running_loop().call_later(CURSOR_REPORT_MS / 1000, self.report)

    def report(self) -> None:
        """Tell the master now."""
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        if self._session_id:
            sequence, above = self.window.snapshot()
            self._sink.report(self._shards, self._shard, Cursor(self._session_id, self._resume_url, sequence, above))
        self.window.reported()

    def stop(self) -> None:
        """Nothing is started any more; what is pending may still end."""
        self.window.closed = True
        self.report()

    def close(self) -> None:
        """The last report."""
        self.report()
        if self._room is not None:
            self._room.set()

    async def room(self) -> None:
        """Wait until the window has room. Cancellation: none is lost, none is taken."""
        self.report()
        while self.window.full:
            look_again = self.window.make_room(self._clock())
            if self.window.changed:
                self.report()
                continue
            self._room = asyncio.Event()
            left_s = None if look_again is None else max(look_again - self._clock(), 0.001)
            try:
                await asyncio.wait_for(self._room.wait(), left_s)
            except TimeoutError:
                continue
            finally:
                self._room = None
            self.report()
