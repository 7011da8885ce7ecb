"""One place for one worker process: when it starts, restarts, is given up for dead. No I/O; time comes in as an argument.

The theory. A worker that exits is started again after ``3 s x min(failures, 5)``, where failures counts its earlier
exits without a healthy minute between them: at once the first time, then 3, 6, 9, 12, 15 s. Health resets the count, a
spawn does not. Ten failures in a row are a crash loop: an alarm, and from then on one try a minute, for this slot only.
A worker that was told to leave (replacement, drain) is no failure. At most one process lives per slot: SPAWN is asked
for only after EXIT of the one before was seen.

Liveness is the link's affair (mesophyll.channel counts heartbeats): a worker whose link is lost is killed, for what it
still does reaches nobody. A tick that comes late itself says nothing about a worker that starts: its deadline moves too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pytw import limits

START_TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = limits.DRAIN_S + 1.0
TICK_S = 0.1
TICK_LATE_S = 0.25


class State(enum.Enum):
    """What is known of the slot's process."""

    WAITING = "waiting"  # none lives; one is due at `due`
    STARTING = "starting"  # asked for or running, not ready; given up at `due`
    READY = "ready"
    LEAVING = "leaving"  # asked to end, or ends by itself; killed at `due`
    KILLED = "killed"  # its exit is due any moment
    CLOSED = "closed"  # none lives and none will


class Do(enum.Enum):
    """What the shell is to do."""

    SPAWN = "spawn"
    KILL = "kill"
    LEAVE = "leave"
    ALARM = "alarm"


@dataclass(slots=True)
class SlotMachine:
    """The state of one slot."""

    worker_id: int
    state: State = State.WAITING
    due: float = 0.0
    failures: int = 0
    restarts: int = 0
    epoch: int = 0
    ready_at: float = 0.0
    deaf: bool = False
    #: It is killed because the slot closes before it was ready, and for no fault of its own.
    unstarted: bool = False
    _closing: bool = False
    _replacing: bool = False

    @property
    def lives(self) -> bool:
        return self.state in (State.STARTING, State.READY, State.LEAVING, State.KILLED)

    @property
    def crash_loop(self) -> bool:
        return self.failures >= limits.CRASH_LOOP_FAILURES

    def tick(self, now: float, late_s: float = 0.0) -> list[Do]:
        """What time alone brings. *late_s*: how much later than promised this tick comes."""
        if late_s > TICK_LATE_S and self.state is State.STARTING:
            self.due += late_s
        if self.state is State.WAITING and now >= self.due:
            return self._spawn(now)
        if self.state is State.READY and self.failures and now - self.ready_at >= limits.HEALTHY_AFTER_S:
            self.failures = 0
        if self.state in (State.STARTING, State.LEAVING) and now >= self.due:
            self.deaf = self.state is State.STARTING
            return self._kill()
        return []

    def _spawn(self, now: float) -> list[Do]:
        self.state = State.STARTING
        self.due = now + START_TIMEOUT_S
        self.epoch += 1
        self.deaf = False
        self._replacing = False
        return [Do.SPAWN]

    def _kill(self) -> list[Do]:
        self.state = State.KILLED
        return [Do.KILL]

    def ready(self, now: float) -> None:
        """The worker takes events."""
        if self.state is State.STARTING:
            self.state = State.READY
            self.ready_at = now

    def lost(self, *, deaf: bool = False) -> list[Do]:
        """Its link broke. *deaf*: it had stopped to answer heartbeats, so whatever ran may be the cause."""
        if self.state not in (State.STARTING, State.READY):
            return []
        self.deaf = deaf
        return self._kill()

    def ends(self, now: float) -> bool:
        """It ends by itself before it was ready, a failure like any other. Returns whether that was news."""
        if self.state is not State.STARTING:
            return False
        self.state = State.LEAVING
        self.due = now + LEAVE_TIMEOUT_S
        return True

    def leave(self, now: float) -> list[Do]:
        """Replace it: it finishes what runs, then a new one starts at once."""
        if self.state is State.READY:
            self.state = State.LEAVING
            self.due = now + LEAVE_TIMEOUT_S
            self._replacing = True
            return [Do.LEAVE]
        return []

    def close(self, now: float) -> list[Do]:
        """No more workers in this slot; the present one finishes what runs."""
        self._closing = True
        if self.state is State.WAITING:
            self.state = State.CLOSED
        elif self.state is State.STARTING:
            self.unstarted = True
            return self._kill()
        elif self.state is State.READY:
            self.state = State.LEAVING
            self.due = now + LEAVE_TIMEOUT_S
            return [Do.LEAVE]
        return []

    def exited(self, now: float) -> list[Do]:
        """No process lives in this slot any more, or none could be made."""
        if self._closing:
            self.state = State.CLOSED
            return []
        was_healthy = self.ready_at > 0 and now - self.ready_at >= limits.HEALTHY_AFTER_S
        self.ready_at = 0.0
        self.restarts += 1
        self.state = State.WAITING
        if self._replacing:
            self.due = now
            return self._spawn(now)
        if was_healthy:
            self.failures = 0
        self.due = now + self.backoff_s()
        self.failures += 1
        did = [Do.ALARM] if self.failures == limits.CRASH_LOOP_FAILURES else []
        return did + (self._spawn(now) if now >= self.due else [])

    def backoff_s(self) -> float:
        """The wait before the next try, with the failures so far."""
        if self.failures >= limits.CRASH_LOOP_FAILURES - 1:
            return limits.CRASH_LOOP_INTERVAL_S
        return limits.RESTART_STEP_S * min(self.failures, limits.RESTART_STEPS_MAX)
