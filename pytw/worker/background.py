"""`Background`: work that the worker starts by itself (start-up, expiry) goes behind live events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from pytw.types import CreateEvent, Outcome
from pytw.worker.dispatch import WorkerDispatch, settle

IN_FLIGHT_MAX = 16
#: While more live events than this are in flight, nothing new is started here.
LIVE_MAX = 256
LOOK_AGAIN_S = 0.02
#: Even a worker that is always busy starts one after this time.
PATIENCE_S = 5.0
#: What takes longer mostly waits: it runs on without its turn, so that handlers that never end stop nobody else's.
TURN_S = 1.0


class Background:
    """Dispatches a bounded number of events at a time, and only when live ones leave room."""

    def __init__(
        self,
        dispatch: WorkerDispatch,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        turn_s: float = TURN_S,
    ) -> None:
        self._dispatch = dispatch
        self._sleep = sleep
        self._turn_s = turn_s
        self._turns = asyncio.Semaphore(IN_FLIGHT_MAX)
        #: Events that run, with a turn or without one.
        self._running = 0

    async def run(self, tenant: int, event: CreateEvent) -> Outcome:
        """Run the event when it is its turn, and return how it ended."""
        async with self._turns:
            waited_s = 0.0
            while self._dispatch.in_flight - self._running > LIVE_MAX and waited_s < PATIENCE_S:
                await self._sleep(LOOK_AGAIN_S)
                waited_s += LOOK_AGAIN_S
            ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            request = self._dispatch.dispatch(tenant, event, settle(ended))
            self._running += 1
            ended.add_done_callback(self._ended)
            with self._cancelling(tenant, request):
                await asyncio.wait([ended], timeout=self._turn_s)
        with self._cancelling(tenant, request):
            return Outcome((await ended)[1])

    def _ended(self, _: asyncio.Future[bytes]) -> None:
        self._running -= 1

    @contextmanager
    def _cancelling(self, tenant: int, request: int) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            self._dispatch.cancel(tenant, request)
            raise
