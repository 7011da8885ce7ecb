"""The circuit breaker: what knows that PostgreSQL is away, so that nobody waits to find out.

Closed, calls go through. After `BREAKER_FAILURES` failures in a row, with no success between, it opens: calls fail at once and
say when the next try is. When that time has come one call goes through as the probe, and its end decides: closed again, or
open for twice as long. No I/O and no tasks here: `pool.Database` tells it how calls ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

from pytw.errors import StorageUnavailable
from pytw.limits import BREAKER_FAILURES, BREAKER_PROBE_S_MAX, BREAKER_WAIT_FIRST_S, BREAKER_WAIT_S_MAX

Clock = Callable[[], float]


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    #: One call finds out, the others fail as if it were open.
    PROBING = "probing"


class Breaker:
    """`admit` each call, then say `answered` or `failed`, or neither where nothing was learned."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._wait_s = BREAKER_WAIT_FIRST_S
        self._next_try_at = 0.0
        self._reason = ""
        self.state = State.CLOSED
        #: Since the start: failures told of, times it opened, calls it refused.
        self.failures = 0
        self.opened = 0
        self.refused = 0

    def admit(self) -> None:
        """Lets the call through, as the probe if it is time for one.

        Raises:
            StorageUnavailable: the database is known to be away.
        """
        if self.state is State.CLOSED:
            return
        left_s = self._next_try_at - self._clock()
        if left_s <= 0:
            # A probe that learned nothing, because its caller gave up, gives way to the next one.
            self.state = State.PROBING
            self._next_try_at = self._clock() + BREAKER_PROBE_S_MAX
            return
        self.refused += 1
        tries = "is being tried now" if self.state is State.PROBING else f"is tried again in {left_s:.1f} s"
        raise StorageUnavailable(f"the database is away and {tries}", hint=self._reason or None)

    def answered(self) -> None:
        """The database has answered, be it with an error."""
        self._in_a_row = 0
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._wait_s = BREAKER_WAIT_FIRST_S

    def try_now(self) -> None:
        """The database is said to be back: the next call finds out."""
        self._next_try_at = self._clock()

    def failed(self, reason: str) -> None:
        """The database could not be reached, or a connection did not answer any more."""
        self.failures += 1
        self._in_a_row += 1
        self._reason = reason
        if self.state is State.PROBING:
            self._wait_s = min(self._wait_s * 2, BREAKER_WAIT_S_MAX)
            self._open()
        elif self.state is State.CLOSED and self._in_a_row >= BREAKER_FAILURES:
            self.opened += 1
            self._open()

    def _open(self) -> None:
        self.state = State.OPEN
        self._next_try_at = self._clock() + self._wait_s

    def counts(self) -> dict[str, float]:
        """For metrics and heartbeats."""
        return {
            "breaker_open": float(self.state is not State.CLOSED),
            "breaker_opened": float(self.opened),
            "breaker_failures": float(self.failures),
            "breaker_refused": float(self.refused),
        }


__all__ = ["Breaker", "State"]
