"""Discord's rate limits, from the client's side.

Discord counts requests in buckets. Which bucket a route uses is not written down: an answer names it
(`X-RateLimit-Bucket`, an opaque hash), several routes may share one, and each value of a route's major parameter
(channel, guild or webhook id) has a bucket of its own. So a bucket is known by (hash, major parameter), and until the
first answer by (route, major parameter): such an unknown bucket lets one request through at a time, so that a burst
does not run into a limit nobody has heard of.

A bucket knows how many requests are left and when it is full again (`X-RateLimit-Reset-After`: seconds, so that the
two clocks need not agree). A request takes one of what is left, or waits for the reset. An answer only ever corrects
downwards within a window, since requests in flight are counted here and not yet there. A 429 closes the bucket, or
with `global` all of them, for `Retry-After`. Every wait has a bound, given by the caller; what would wait longer fails
at once, since the answer would come too late to be of use.

Source: spec/discord.md 3.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pytw.discord.routes import Call
from pytw.limits import REST_BUCKETS_MAX

#: Added to waits for a reset, for Discord's clock ticks differently.
_MARGIN_S = 0.02


class RateLimited(Exception):
    """The wait for a free place would exceed the bound. `after_s`: when to come again."""

    def __init__(self, after_s: float) -> None:
        super().__init__(f"rate limited for {after_s:.2f} s")
        self.after_s = after_s


class Bucket:
    """One bucket: `remaining` requests until `resets_at`."""

    __slots__ = ("in_flight", "known", "limit", "remaining", "resets_at", "turn")

    def __init__(self) -> None:
        self.known = False
        self.limit = 1
        self.remaining = 1
        self.resets_at = 0.0
        self.in_flight = 0
        self.turn = asyncio.Event()

    def opens_at(self, now: float) -> float:
        """When the next request may go: now or earlier is at once, infinity is when one in flight has come back."""
        if not self.known:
            return float("inf") if self.in_flight else self.resets_at
        if now >= self.resets_at:
            self.remaining = max(self.limit - self.in_flight, 0)
            if self.remaining == 0:
                return float("inf")
        return self.resets_at if self.remaining <= 0 else 0.0


class Buckets:
    """All buckets of one token."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hashes: dict[str, str] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._global_until = 0.0

    def _bucket(self, call: Call) -> Bucket:
        key = self._hashes.get(call.route, call.route), call.major
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= REST_BUCKETS_MAX:
                self._forget_idle()
            bucket = self._buckets[key] = Bucket()
        return bucket

    def _forget_idle(self) -> None:
        now = self._clock()
        self._buckets = {k: b for k, b in self._buckets.items() if b.in_flight or b.resets_at > now}

    async def take(self, call: Call, *, until: float) -> Bucket:
        """A place for one request; give it back with `answered` or `lost`.

        Args:
            until: the clock's time after which nobody wants the place any more.
        Raises:
            RateLimited: there will be none before.
        """
        while True:
            now = self._clock()
            bucket = self._bucket(call)
            opens = max(self._global_until, bucket.opens_at(now))
            if opens <= now:
                bucket.in_flight += 1
                bucket.remaining -= 1
                return bucket
            if opens != float("inf") and opens > until:
                raise RateLimited(opens - now)
            bucket.turn.clear()
            try:
                await asyncio.wait_for(bucket.turn.wait(), min(opens + _MARGIN_S, until) - now)
            except TimeoutError:
                if self._clock() >= until:
                    raise RateLimited(max(opens - until, 1.0) if opens != float("inf") else 1.0) from None

    def answered(self, call: Call, bucket: Bucket, headers: Mapping[str, str]) -> None:
        """Learn from an answer's headers."""
        self._back(bucket)
        name = headers.get("X-RateLimit-Bucket")
        if name is None:
            return
        if self._hashes.get(call.route) != name:
            self._hashes[call.route] = name
            bucket = self._adopt(name, call.major, bucket)
        try:
            limit, left = int(headers["X-RateLimit-Limit"]), int(headers["X-RateLimit-Remaining"])
            resets_at = self._clock() + float(headers["X-RateLimit-Reset-After"])
        except (KeyError, ValueError):
            return
        fresh = not bucket.known or self._clock() >= bucket.resets_at
        bucket.known, bucket.limit = True, max(limit, 1)
        bucket.remaining = left if fresh else min(bucket.remaining, left)
        bucket.resets_at = resets_at

    def _adopt(self, name: str, major: str, unnamed: Bucket) -> Bucket:
        """Move a bucket that was known by its route to where its name says."""
        found = self._buckets.setdefault((name, major), unnamed)
        if found is not unnamed:
            # Whoever waits at the old place looks again and finds the new one.
            unnamed.turn.set()
        return found

    def refused(
        self, call: Call, bucket: Bucket, headers: Mapping[str, str], after_s: float, *, everywhere: bool
    ) -> None:
        """A 429: nothing of this bucket, or of any, for *after_s*."""
        self.answered(call, bucket, headers)
        until = self._clock() + after_s
        if everywhere:
            self._global_until = max(self._global_until, until)
            return
        current = self._bucket(call)
        current.remaining = 0
        current.resets_at = until

    def lost(self, bucket: Bucket) -> None:
        """The request had no answer."""
        self._back(bucket)

    def _back(self, bucket: Bucket) -> None:
        bucket.in_flight -= 1
        bucket.turn.set()
