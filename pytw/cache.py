"""`Cache`: what was asked for lately, bounded in number and life.

Several that ask at once for what is not there wait for one load. What is forgotten while it is loaded is not kept: who
asked before may get the old value, nobody who asks afterwards does. Lives are checked when something is asked for, so
that an idle cache costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Values by key, the least recently asked for dropped first. For one event loop."""

    def __init__(
        self,
        entries_max: int,
        life_s: float | Callable[[V], float],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            life_s: how long a value is kept from its load on, or how long a given one is; 0 or less: not at all.
        """
        self._entries_max = entries_max
        self._life_s = life_s
        self._clock = clock
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._loading: dict[K, asyncio.Task[V]] = {}
        self.hits = 0
        self.misses = 0
        #: Dropped for want of room; what was over its life is not counted.
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """The value, which *load* reads if it is not known. What *load* raises, all that wait for it get; it is not kept.

        Cancellation: the load goes on for the others.
        """
        entry = self._entries.get(key)
        if entry is not None:
            if entry[0] > self._clock():
                self._entries.move_to_end(key)
                self.hits += 1
                return entry[1]
            del self._entries[key]
        self.misses += 1
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.ensure_future(self._load(key, load))
            # Everybody that waits may have been cancelled: nobody is left to hear of its error.
            loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(loading)

    async def _load(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        mine = asyncio.current_task()
        try:
            value = await load()
            if self._loading.get(key) is mine:
                self._keep(key, value)
            return value
        finally:
            if self._loading.get(key) is mine:
                del self._loading[key]

    def _keep(self, key: K, value: V) -> None:
        life_s = self._life_s(value) if callable(self._life_s) else self._life_s
        if life_s <= 0:
            return
        self._entries[key] = self._clock() + life_s, value
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
            self.evictions += 1

    def forget(self, key: K) -> None:
        """Have the key read anew."""
        self._entries.pop(key, None)
        self._loading.pop(key, None)

    def forget_where(self, doomed: Callable[[V], bool]) -> None:
        """Have all keys read anew whose value is *doomed*, and those that are being read, whatever comes of it."""
        for key in [key for key, (_, value) in self._entries.items() if doomed(value)]:
            del self._entries[key]
        self._loading.clear()

    def counts(self) -> dict[str, int]:
        """For metrics."""
        return {"entries": len(self), "hits": self.hits, "misses": self.misses, "evictions": self.evictions}


__all__ = ["Cache"]
