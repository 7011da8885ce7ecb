"""`KeyExpiry` and `KeyExpiryChannel`: keys whose time has come become ``KeyExpiry`` events.

A due key is claimed in the database for a while, its event is dispatched behind live ones, and the key is deleted only
if its handlers ran without error and it was not written meanwhile. Otherwise it is due again, later each time, as often as
the database's cap says (`KV_EXPIRY_ATTEMPTS_MAX`): at least once, and never for ever. A key that nobody listens for waits
in the same way and is not deleted either: a listener that only wants it gone is an empty function. Keys that were given up
stay as they are; a change of the tenant's templates gives them their attempts back.
Source: reference (spec 5.3), without its weaknesses 1 to 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import msgspec

from pytw.errors import PytwError
from pytw.eventnames import KEY_EXPIRY
from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX, KV_RETRY_ROWS_MAX
from pytw.types import CreateEvent, KvPlace, KvRecord, Outcome
from pytw.worker.background import Background
from pytw.worker.filter import WorkerFilter
from pytw.worker.finishing import Finishing
from pytw.worker.state import WorkerState
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)

POLL_S = 1.0
POLL_MAX_S = 15.0
#: Keys whose handlers run or wait for their turn. Many more than run at a time (`Background`): handlers of a few tenants that
#: never end must not keep all places.
CLAIMED_MAX = 256
#: Keys that are claimed at once.
BATCH = 4
#: A tenant with more of them than this gets no others, so that the rest of the places are for the rest of the tenants.
TENANT_MAX = 4

Sleep = Callable[[float], Awaitable[None]]


def heard_names(event: str, place: KvPlace | KvRecord, listens: Callable[[str], bool]) -> list[str]:
    """The names under which a tenant wants to hear of a key: the event's own, and with each of its scopes."""
    return [name for name in (event, *(f"{event}[{scope}]" for scope in place.scopes)) if listens(name)]


def payload_of(place: KvPlace | KvRecord) -> bytes:
    return msgspec.json.encode({"id": place.id, "key": place.key, "scopes": place.scopes})


class KeyExpiryChannel:
    """Brings due keys of this worker's tenants, a bounded batch at a time. Each comes to one claimer only."""

    def __init__(self, db: WorkerDb, mine: WorkerFilter, *, sleep: Sleep = asyncio.sleep) -> None:
        self._db = db
        self._mine = mine
        self._sleep = sleep
        self._pause_s = POLL_S

    async def begin(self) -> None:
        """End the claims that an earlier worker in this place has left; returns when that is done."""
        while True:
            try:
                released = await self._db.release_claims(self._mine.worker_id, self._mine.workers)
                break
            except PytwError as error:
                await self._failed(error)
        if released.due:
            log.info("%d expired keys whose worker was lost are due again", released.due)
        if released.given_up:
            log.warning(
                "%d expired keys are given up: with each of them in hand, workers were lost %d times; they stay until "
                "the templates of their tenants change, or `tw kv` removes them",
                released.given_up,
                KV_EXPIRY_ATTEMPTS_MAX,
            )

    async def due(self, limit: int, busy: Collection[int] = ()) -> list[tuple[int, KvRecord]]:
        """The next due keys, at most *limit*, none of tenants in *busy*; none if storage fails."""
        try:
            found = await self._db.claim_expired(self._mine.worker_id, self._mine.workers, limit=limit, busy=[*busy])
        except PytwError as error:
            await self._failed(error)
            return []
        self._pause_s = POLL_S
        return [(tenant, record) for tenant, record in found if self._mine(tenant)]

    async def pause(self) -> None:
        """Between two looks for keys."""
        await self._sleep(POLL_S)

    async def _failed(self, error: PytwError) -> None:
        """Storage that fails is asked again, more and more slowly."""
        log.warning("expired keys cannot be read: %s", error)
        self._pause_s = min(self._pause_s * 2, POLL_MAX_S)
        await self._sleep(self._pause_s)


class KeyExpiry:
    """Dispatches due keys and finishes those that were handled."""

    def __init__(self, channel: KeyExpiryChannel, db: WorkerDb, state: WorkerState, background: Background) -> None:
        self._channel = channel
        self._db = db
        self._state = state
        self._background = background
        self._finishing = Finishing(db)
        self._running: dict[asyncio.Task[None], int] = {}
        self._held: Counter[int] = Counter()
        #: How expiries ended: handled, failed, unheard, given_up.
        self.counts: Counter[str] = Counter(handled=0, failed=0, unheard=0, given_up=0)

    async def run(self) -> None:
        """Until cancelled. Claims no more keys than it may run at once; a slow handler holds one place only."""
        try:
            await self._channel.begin()
            while True:
                busy = self._busy()
                found = await self._channel.due(BATCH, busy)
                for tenant, record in found:
                    # Many may wait, and nothing here needs the value.
                    task = asyncio.create_task(self.expire(tenant, replace(record, value=b"")))
                    self._running[task] = tenant
                    self._held[tenant] += 1
                await self._until_room(busy if len(found) < BATCH else None)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await self._finishing.close()

    def _busy(self) -> set[int]:
        return {tenant for tenant, held in self._held.items() if held > TENANT_MAX}

    async def _until_room(self, passed_over: set[int] | None) -> None:
        """Returns when there is room for a batch and a reason to look: None says that there are more keys now; else when
        one of the tenants that were passed over is no longer busy, or when it is time to look again."""
        pause = asyncio.ensure_future(self._channel.pause()) if passed_over is not None else None
        try:
            while True:
                self._collect()
                if len(self._running) + BATCH <= CLAIMED_MAX and (
                    passed_over is None or passed_over - self._busy() or (pause is not None and pause.done())
                ):
                    return
                waits = [*self._running, *([pause] if pause is not None and not pause.done() else ())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if pause is not None:
                pause.cancel()

    def _collect(self) -> None:
        for task in [task for task in self._running if task.done()]:
            tenant = self._running.pop(task)
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a key could not be expired", exc_info=error, extra={"tenant": tenant})

    async def expire(self, tenant: int, record: KvRecord) -> None:
        """Tell the tenant of one due key, and finish it if that went well."""
        names = heard_names(KEY_EXPIRY, record, lambda name: self._state.listens(tenant, name))
        outcome = await self._tell(tenant, record, names) if names else None
        try:
            if outcome is Outcome.OK:
                self.counts["handled"] += 1
                await self._finishing.finish(tenant, record.id, record.version)
                return
            self.counts["failed" if names else "unheard"] += 1
            given_up = await self._db.fail_expired(tenant, record.id, record.version)
        except PytwError as error:
            log.warning("expired key %r stays claimed: %s", record.key, error, extra={"tenant": tenant})
            return
        why = "no template listens for KeyExpiry" if outcome is None else f"its handler ended with {outcome.slug}"
        if not given_up:
            log.debug("expired key %r is due again: %s", record.key, why, extra={"tenant": tenant})
            return
        self.counts["given_up"] += 1
        log.warning(
            "expired key %r of scopes %s is given up after %d attempts: %s. It stays; deploying a template whose KeyExpiry "
            "handler works tries again, and `tw kv` shows and removes it",
            record.key,
            record.scopes,
            KV_EXPIRY_ATTEMPTS_MAX,
            why,
            extra={"tenant": tenant},
        )

    async def _tell(self, tenant: int, record: KvRecord, names: list[str]) -> Outcome:
        """Dispatch under each of *names*; the worst outcome."""
        payload = payload_of(record)
        return max(await asyncio.gather(*(self._background.run(tenant, CreateEvent(name, payload)) for name in names)))

    async def retry(self, tenant: int) -> None:
        """Give keys that were given up their attempts back, where somebody listens for expiry now."""
        if not any(name.partition("[")[0] == KEY_EXPIRY for name in self._state.events(tenant)):
            return
        try:
            while await self._db.retry_expired(tenant) >= KV_RETRY_ROWS_MAX:
                pass
        except PytwError as error:
            log.warning("keys that were given up cannot be tried again: %s", error, extra={"tenant": tenant})
