"""`KeyResume`: tenants hear of the keys that they marked with ``resume`` when their VM begins anew.

At the start of the worker these are the keys of all its tenants; later those of a tenant whose templates changed, whose VM
ended by a fault or for want of memory, or whose VM thread was replaced. Not after the eviction of an idle VM: what runs next
finds its keys. A tenant hears of each key once for each of these occasions, and no more often than every `AGAIN_S`, so that a
handler that ends its own VM cannot keep it busy. Source: reference (spec 5.3).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial

from pytw.errors import PytwError
from pytw.eventnames import KEY_RESUME
from pytw.types import CreateEvent, KvPlace, Outcome
from pytw.worker.background import Background
from pytw.worker.filter import WorkerFilter
from pytw.worker.keyexpiry import POLL_MAX_S, POLL_S, Sleep, heard_names, payload_of
from pytw.worker.state import WorkerState
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)

#: Keys of one page.
PAGE = 100
#: Keys of one occasion that are told at a time; `Background` bounds all together.
TOLD_MAX = 4
#: Tenants whose pages are read at a time.
TENANTS_MAX = 4
AGAIN_S = 30.0
#: At the start all tenants are told in one row. One whose handler takes longer is told the rest on its own.
SLOW_S = 5.0

Page = Callable[[str], Awaitable[list[KvPlace]]]


class _Row:
    """Places for several to take from, and the id of the last one that was taken."""

    def __init__(self, places: list[KvPlace]) -> None:
        self._places = iter(places)
        self.at = ""

    def __iter__(self) -> Iterator[KvPlace]:
        return self

    def __next__(self) -> KvPlace:
        place = next(self._places)
        self.at = place.id
        return place


class KeyResume:
    """Dispatches ``KeyResume`` behind live events."""

    def __init__(
        self,
        db: WorkerDb,
        mine: WorkerFilter,
        state: WorkerState,
        background: Background,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        slow_s: float = SLOW_S,
    ) -> None:
        self._db = db
        self._mine = mine
        self._state = state
        self._background = background
        self._sleep = sleep
        self._clock = clock
        self._slow_s = slow_s
        self._reads = asyncio.Semaphore(TENANTS_MAX)
        self._group: asyncio.TaskGroup
        #: Tenants whose keys are to be told, in order, and those that wait for `AGAIN_S` to pass.
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._waiting: set[int] = set()
        #: Tenants that are told on their own.
        self._telling: dict[int, asyncio.Task[None]] = {}
        #: When each tenant was told last, while that matters.
        self._told_at: dict[int, float] = {}
        self.told = 0

    async def run(self) -> None:
        """Until cancelled: tell the keys of all tenants, then of each that `again` names."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._tell_everybody())
            while True:
                tenant = await self._wanted.get()
                self._on_its_own(tenant, self._begin_anew(tenant, self._telling.get(tenant)))

    def _on_its_own(self, tenant: int, telling: Coroutine[None, None, None]) -> None:
        """Nobody else waits for how long a tenant's handlers take; its own next occasion does."""

        def ended(task: asyncio.Task[None]) -> None:
            if self._telling.get(tenant) is task:
                del self._telling[tenant]

        self._telling[tenant] = self._group.create_task(telling)
        self._telling[tenant].add_done_callback(ended)

    def again(self, tenant: int) -> None:
        """The tenant's VM begins anew."""
        if tenant not in self._waiting and self._listens(tenant) and self._mine(tenant):
            self._waiting.add(tenant)
            self._wanted.put_nowait(tenant)

    def _listens(self, tenant: int) -> bool:
        return any(name.partition("[")[0] == KEY_RESUME for name in self._state.events(tenant))

    async def _begin_anew(self, tenant: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        if (wait_s := self._told_at.get(tenant, -math.inf) + AGAIN_S - self._clock()) > 0:
            await self._sleep(wait_s)
        # What happens from now on is another occasion.
        self._waiting.discard(tenant)
        now = self._clock()
        self._told_at = {other: at for other, at in self._told_at.items() if at + AGAIN_S > now} | {tenant: now}
        await self._tell_all(tenant)

    def _page_of(self, tenant: int, after: str) -> Awaitable[list[KvPlace]]:
        return self._db.tenant_resume_keys(tenant, after, PAGE)

    def _page_of_all(self, after: str) -> Awaitable[list[KvPlace]]:
        return self._db.resume_keys(self._mine.worker_id, self._mine.workers, after, PAGE)

    async def _pages(self, page: Page, after: str = "") -> AsyncIterator[list[KvPlace]]:
        """Storage that fails is asked again, more and more slowly; the next page is read when this one is told."""
        pause_s = POLL_S
        while True:
            try:
                async with self._reads:
                    places = await page(after)
            except PytwError as error:
                log.warning("keys to resume cannot be read: %s", error)
                await self._sleep(pause_s)
                pause_s = min(pause_s * 2, POLL_MAX_S)
                continue
            if not places:
                return
            yield places
            after = places[-1].id

    async def _tell_all(self, tenant: int, after: str = "") -> None:
        async for places in self._pages(partial(self._page_of, tenant), after):
            waiting = iter(places)
            await asyncio.gather(*(self._tell_some(waiting) for _ in range(TOLD_MAX)))

    async def _tell_some(self, waiting: Iterator[KvPlace]) -> None:
        """One of several that share a page."""
        for place in waiting:
            await self._tell(place)

    async def _tell_everybody(self) -> None:
        slow: set[int] = set()
        async for places in self._pages(self._page_of_all):
            waiting = _Row(places)
            await asyncio.gather(*(self._tell_row(waiting, slow) for _ in range(TOLD_MAX)))

    async def _tell_row(self, waiting: _Row, slow: set[int]) -> None:
        """As `_tell_some`, but whoever is slow leaves the row: its keys up to where the row is then have begun."""
        for place in waiting:
            tenant = place.tenant
            if tenant in slow:
                continue
            telling = self._group.create_task(self._tell(place))
            await asyncio.wait([telling], timeout=self._slow_s)
            if not telling.done() and tenant not in slow:
                slow.add(tenant)
                self._on_its_own(tenant, self._tell_all(tenant, waiting.at))

    async def _tell(self, place: KvPlace) -> None:
        payload = payload_of(place)
        for name in heard_names(KEY_RESUME, place, lambda name: self._state.listens(place.tenant, name)):
            outcome = await self._background.run(place.tenant, CreateEvent(name, payload))
            self.told += 1
            if outcome is not Outcome.OK:
                log.info("%s of key %r: %s", name, place.key, outcome.slug, extra={"tenant": place.tenant})
