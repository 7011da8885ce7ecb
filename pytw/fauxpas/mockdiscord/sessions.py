"""Gateway sessions and what they missed. No I/O: connections read frames out of a session at their own pace.

A session's buffer is queue and replay store at once: an event gets its sequence number and its bytes when it happens,
a connection remembers how far it has read, and a connection that resumes starts where its client stopped. While nobody
is connected the buffer fills. What grows too old or too much is dropped, and a RESUME from before that is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pytw.fauxpas.mockdiscord import intents
from pytw.fauxpas.mockdiscord.encoding import dispatch_frame

BUFFER_EVENTS_MAX = 20_000
BUFFER_S = 300.0
SESSIONS_MAX = 1_024
IDENTIFIES_A_DAY = 1_000


class Listener(Protocol):
    """A connection, seen from its session."""

    def wake(self) -> None:
        """There is something new to read. Never blocks."""

    def taken_over(self) -> None:
        """Another connection resumed the session."""


@dataclass(slots=True, eq=False)
class Session:
    id: str
    shard: int
    shards: int
    intents: int
    listener: Listener | None = None
    #: Highest sequence number given out, and the lowest that can still be read.
    last: int = 0
    first: int = 1
    detached_at: float = 0.0
    _frames: dict[int, tuple[float, bytes]] = field(default_factory=dict)
    _resumed: int = 0

    def wants(self, event: str, guild_id: int | None) -> bool:
        shard = 0 if guild_id is None else (guild_id >> 22) % self.shards
        bit = intents.needed(event, in_guild=guild_id is not None)
        return shard == self.shard and (bit == 0 or bool(self.intents & bit))

    def push(self, event: str, d: bytes, now: float) -> None:
        """Give *d* the next sequence number."""
        self.last += 1
        self._frames[self.last] = now, dispatch_frame(event, self.last, d)
        if len(self._frames) > BUFFER_EVENTS_MAX:
            self._forget(self.first)
        if self.listener is not None:
            self.listener.wake()

    def after(self, sequence: int) -> tuple[int, bytes] | None:
        """The first frame above *sequence*."""
        for number in range(max(sequence + 1, self.first), self.last + 1):
            if (kept := self._frames.get(number)) is not None:
                return number, kept[1]
        return None

    def can_resume(self, sequence: int) -> bool:
        return self.first - 1 <= sequence

    def resumed(self, now: float) -> None:
        """Queue RESUMED behind what was missed; an earlier one is not replayed."""
        self._frames.pop(self._resumed, None)
        self.push("RESUMED", b'{"_trace":["mock"]}', now)
        self._resumed = self.last

    def expire(self, now: float) -> None:
        """Forget what is too old to be replayed."""
        while self.first < self.last:
            kept = self._frames.get(self.first)
            if kept is not None and now - kept[0] < BUFFER_S:
                return
            self._forget(self.first)

    def _forget(self, sequence: int) -> None:
        self._frames.pop(sequence, None)
        self.first = sequence + 1


class Sessions:
    """All sessions of the bot, and the budget of identifies."""

    def __init__(
        self, *, clock: Callable[[], float], max_concurrency: int, identify_window_s: float, resumable_s: float
    ) -> None:
        self._clock = clock
        self._max_concurrency = max_concurrency
        self._window_s = identify_window_s
        self._resumable_s = resumable_s
        self._sessions: dict[str, Session] = {}
        self._identified: dict[int, float] = {}
        self._day_started = clock()
        self._identifies = 0

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def max_concurrency(self) -> int:
        return self._max_concurrency

    @property
    def identifies_left(self) -> int:
        if self._clock() - self._day_started > 86_400:
            self._day_started, self._identifies = self._clock(), 0
        return IDENTIFIES_A_DAY - self._identifies

    def may_identify(self, shard: int) -> bool:
        """Take a place in the shard's bucket; False if the bucket was used within the window."""
        now, bucket = self._clock(), shard % self._max_concurrency
        last = self._identified.get(bucket)
        if self.identifies_left <= 0 or (last is not None and now - last < self._window_s):
            return False
        self._identified[bucket] = now
        self._identifies += 1
        return True

    def create(self, shard: int, shards: int, intent_bits: int) -> Session:
        self.expire()
        if len(self._sessions) >= SESSIONS_MAX:
            self.drop(next((s for s in self if s.listener is None), next(iter(self))))
        session = Session(secrets.token_hex(16), shard, shards, intent_bits)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str) -> Session | None:
        self.expire()
        return self._sessions.get(session_id)

    def attach(self, session: Session, listener: Listener) -> None:
        if session.listener is not None and session.listener is not listener:
            session.listener.taken_over()
        session.listener = listener

    def detach(self, session: Session, listener: Listener) -> None:
        """The connection is gone; the session stays for a while."""
        if session.listener is listener:
            session.listener = None
            session.detached_at = self._clock()

    def drop(self, session: Session) -> None:
        self._sessions.pop(session.id, None)

    def drop_all(self) -> None:
        self._sessions.clear()

    def publish(self, event: str, d: bytes, guild_id: int | None) -> int:
        """Give an event to every session that wants it; answers how many those are."""
        now, reached = self._clock(), 0
        for session in self._sessions.values():
            if session.wants(event, guild_id):
                session.push(event, d, now)
                reached += 1
        return reached

    def expire(self) -> None:
        now = self._clock()
        for session in list(self._sessions.values()):
            if session.listener is None and now - session.detached_at > self._resumable_s:
                self.drop(session)
            else:
                session.expire(now)
