"""`Background`: work that the worker starts by itself (start-up, expiry) goes behind live events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pytw.types import CreateEvent, Outcome
from pytw.worker.dispatch import WorkerDispatch, settle

IN_FLIGHT_MAX = 16
#: While more live events than this are in flight, nothing new is started here.
LIVE_MAX = 256
LOOK_AGAIN_S = 0.02
#: Even a worker that is always busy starts one after this time.
PATIENCE_S = 5.0


class Background:
    """Dispatches a bounded number of events at a time, and only when live ones leave room."""

    def __init__(self, dispatch: WorkerDispatch, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._dispatch = dispatch
        self._sleep = sleep
        self._turns = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def run(self, tenant: int, event: CreateEvent) -> Outcome:
        """Run the event when it is its turn, and return how it ended."""
        async with self._turns:
            waited_s = 0.0
            while self._dispatch.in_flight > LIVE_MAX and waited_s < PATIENCE_S:
                await self._sleep(LOOK_AGAIN_S)
                waited_s += LOOK_AGAIN_S
            ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            request = self._dispatch.dispatch(tenant, event, settle(ended))
            try:
                return Outcome((await ended)[1])
            except asyncio.CancelledError:
                self._dispatch.cancel(tenant, request)
                raise
