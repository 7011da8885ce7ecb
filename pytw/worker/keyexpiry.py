"""`KeyExpiry` and `KeyExpiryChannel`: keys whose time has come become ``KeyExpiry`` events.

A due key is claimed in the database for a while, its event is dispatched behind live ones, and the key is deleted only
if a handler ran without error and the key's version is still the claimed one. Otherwise the claim lapses and the key is
due again: at least once, `ATTEMPTS_MAX` times at most, then the key is given up with a line in the log.
Source: reference (spec 5.3), without its weaknesses 1 to 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from pytw.errors import PytwError
from pytw.types import CreateEvent, KvRecord, Outcome, WorkerDb
from pytw.worker.background import Background
from pytw.worker.filter import WorkerFilter
from pytw.worker.state import WorkerState

log = logging.getLogger(__name__)

EVENT = "KeyExpiry"
POLL_S = 1.0
POLL_MAX_S = 15.0
CLAIM_ROWS_MAX = 64
ATTEMPTS_MAX = 5
ATTEMPTS_REMEMBERED_MAX = 10_000

Sleep = Callable[[float], Awaitable[None]]


class KeyExpiryChannel:
    """Brings due keys of this worker's tenants, a bounded batch at a time. Each comes to one claimer only."""

    def __init__(self, db: WorkerDb, mine: WorkerFilter, *, sleep: Sleep = asyncio.sleep) -> None:
        self._db = db
        self._mine = mine
        self._sleep = sleep
        self._pause_s = POLL_S

    async def due(self) -> list[tuple[int, KvRecord]]:
        """The next due keys, at least one; waits for them. Storage that fails is asked again, more and more slowly."""
        while True:
            try:
                found = await self._db.claim_expired(self._mine.worker_id, self._mine.workers, limit=CLAIM_ROWS_MAX)
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
        self._attempts: OrderedDict[tuple[int, str, int], int] = OrderedDict()

    async def run(self) -> None:
        """Until cancelled. A batch is done before the next is claimed, so claims never pile up."""
        while True:
            batch = await self._channel.due()
            await asyncio.gather(*(self.expire(tenant, record) for tenant, record in batch))

    async def expire(self, tenant: int, record: KvRecord) -> None:
        """Tell the tenant of one due key, and finish it if that went well or was tried often enough."""
        outcome = await self._tell(tenant, record)
        attempt = self._attempts.get((tenant, record.id, record.version), 0) + 1
        if outcome is not Outcome.OK:
            if outcome is Outcome.BANNED or attempt < ATTEMPTS_MAX:
                self._remember(tenant, record, attempt)
                return
            log.warning(
                "key %r is given up after %d tries: %s", record.key, attempt, outcome.slug, extra={"tenant": tenant}
            )
        try:
            await self._db.finish_expired(tenant, record.id, record.version)
        except PytwError as error:
            # The claim lapses and the event comes again: at least once.
            log.warning("key %r cannot be finished: %s", record.key, error, extra={"tenant": tenant})
            return
        self._attempts.pop((tenant, record.id, record.version), None)

    async def _tell(self, tenant: int, record: KvRecord) -> Outcome:
        """Dispatch under each name that the tenant listens for: ``KeyExpiry`` and ``KeyExpiry[scope]``."""
        payload = msgspec.json.encode({"id": record.id, "key": record.key, "scopes": record.scopes})
        names = [EVENT, *(f"{EVENT}[{scope}]" for scope in record.scopes)]
        heard = [name for name in names if self._state.listens(tenant, name)] or [EVENT]
        return max([await self._background.run(tenant, CreateEvent(name, payload)) for name in heard])

    def _remember(self, tenant: int, record: KvRecord, attempt: int) -> None:
        self._attempts[tenant, record.id, record.version] = attempt
        self._attempts.move_to_end((tenant, record.id, record.version))
        if len(self._attempts) > ATTEMPTS_REMEMBERED_MAX:
            self._attempts.popitem(last=False)
