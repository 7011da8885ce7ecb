"""The right to IDENTIFY at Discord, handed out over all workers.

Discord allows ``max_concurrency`` identifies per 5 s: shard *s* belongs to bucket ``s % max_concurrency``, each bucket
takes one identify per window, and buckets do not wait for each other. Whoever asked first in a bucket goes first. A day
has a budget (Discord resets the token after 1,000): at 500 the rest waits for the next day's window and the log says so.

Discord's rules: spec/discord.md 1.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

WINDOW_S = 5.0
IDENTIFIES_PER_DAY_MAX = 500
DAY_S = 86_400.0


class IdentifySlots:
    """Satisfies types.IdentifySlots for the master's own shards and, through Mesophyll, for those of worker processes."""

    def __init__(
        self,
        max_concurrency: int,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        per_day_max: int = IDENTIFIES_PER_DAY_MAX,
        window_s: float = WINDOW_S,
    ) -> None:
        self._buckets = max(1, max_concurrency)
        self._clock = clock
        self._sleep = sleep
        self._per_day_max = per_day_max
        self._window_s = window_s
        self._turns = [asyncio.Lock() for _ in range(self._buckets)]
        self._free_at = [float("-inf")] * self._buckets
        self._given: deque[float] = deque()

    async def acquire(self, shard: int) -> None:
        """Returns when *shard* may identify, in the order of asking within its bucket.

        Cancellation: gives up the turn; nothing of the budget is spent.
        """
        bucket = shard % self._buckets
        # asyncio's lock is fair, and whoever holds it is the next of its bucket.
        async with self._turns[bucket]:
            while (wait_s := self._wait_s(bucket)) > 0:
                await self._sleep(wait_s)
            now = self._clock()
            self._free_at[bucket] = now + self._window_s
            self._given.append(now)

    def _wait_s(self, bucket: int) -> float:
        now = self._clock()
        while self._given and now - self._given[0] >= DAY_S:
            self._given.popleft()
        if len(self._given) >= self._per_day_max:
            wait_s = self._given[0] + DAY_S - now
            log.error("all %d identifies of today are used up; the next may go in %.0f s", len(self._given), wait_s)
            return wait_s
        return self._free_at[bucket] - now
