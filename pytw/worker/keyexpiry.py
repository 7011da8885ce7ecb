"""`KeyExpiry` and `KeyExpiryChannel`: keys whose time has come become ``KeyExpiry`` events.

A due key is claimed in the database for a while, its event is dispatched behind live ones, and the key is deleted only
if its handlers ran without error and it was not written meanwhile. Otherwise the claim lapses and the key is due again,
later each time, as often as the database's cap says (`KV_EXPIRY_ATTEMPTS_MAX`): at least once, and never for ever.
Source: reference (spec 5.3), without its weaknesses 1 to 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from pytw.errors import PytwError
from pytw.eventnames import KEY_EXPIRY
from pytw.types import CreateEvent, KvRecord, Outcome
from pytw.worker.background import Background
from pytw.worker.filter import WorkerFilter
from pytw.worker.state import WorkerState
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)

POLL_S = 1.0
POLL_MAX_S = 15.0
CLAIMED_MAX = 16

Sleep = Callable[[float], Awaitable[None]]


class KeyExpiryChannel:
    """Brings due keys of this worker's tenants, a bounded batch at a time. Each comes to one claimer only."""

    def __init__(self, db: WorkerDb, mine: WorkerFilter, *, sleep: Sleep = asyncio.sleep) -> None:
        self._db = db
        self._mine = mine
        self._sleep = sleep
        self._pause_s = POLL_S

    async def due(self, limit: int) -> list[tuple[int, KvRecord]]:
        """The next due keys, 1 to *limit*; waits for them. Storage that fails is asked again, more and more slowly."""
        while True:
            try:
                found = await self._db.claim_expired(self._mine.worker_id, self._mine.workers, limit=limit)
                self._pause_s = POLL_S
            except PytwError as error:
                log.warning("expired keys cannot be read: %s", error)
                self._pause_s = min(self._pause_s * 2, POLL_MAX_S)
                found = []
            found = [(tenant, record) for tenant, record in found if self._mine(tenant)]
            if found:
                return found
            await self._sleep(self._pause_s)


class KeyExpiry:
    """Dispatches due keys and finishes those that were handled."""

    def __init__(self, channel: KeyExpiryChannel, db: WorkerDb, state: WorkerState, background: Background) -> None:
        self._channel = channel
        self._db = db
        self._state = state
        self._background = background
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled. Claims no more keys than it may run at once; a slow handler holds one place only."""
        try:
            while True:
                for tenant, record in await self._channel.due(CLAIMED_MAX - len(self._running)):
                    self._running.add(asyncio.create_task(self.expire(tenant, record)))
                while len(self._running) >= CLAIMED_MAX:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                    self._collect()
                self._collect()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _collect(self) -> None:
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a key could not be expired", exc_info=error)

    async def expire(self, tenant: int, record: KvRecord) -> None:
        """Tell the tenant of one due key, and finish it if that went well."""
        outcome = await self._tell(tenant, record)
        if outcome is not Outcome.OK:
            log.info("key %r stays: %s", record.key, outcome.slug, extra={"tenant": tenant})
            return
        try:
            await self._db.finish_expired(tenant, record.id, record.version)
        except PytwError as error:
            log.warning("key %r cannot be finished: %s", record.key, error, extra={"tenant": tenant})

    async def _tell(self, tenant: int, record: KvRecord) -> Outcome:
        """Dispatch under each name that the tenant listens for: ``KeyExpiry`` and ``KeyExpiry[scope]``."""
        payload = msgspec.json.encode({"id": record.id, "key": record.key, "scopes": record.scopes})
        names = [KEY_EXPIRY, *(f"{KEY_EXPIRY}[{scope}]" for scope in record.scopes)]
        heard = [name for name in names if self._state.listens(tenant, name)] or [KEY_EXPIRY]
        return max([await self._background.run(tenant, CreateEvent(name, payload)) for name in heard])
