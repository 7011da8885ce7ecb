"""`TenantChanges`: a tenant's state, ban or templates changed in the database; what its worker does about it.

Programs are swapped: events that run go on with what they began with. A ban ends the VM, and with it whatever runs in it.
In loop mode the templates are what the loop has read and keeps in its VM, isolates and modules included, and the host knows no
name for any of it, so the VM ends there, too, when what runs has ended or `CHANGE_PATIENCE_S` is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pytw.errors import PytwError, Unavailable
from pytw.eventnames import ON_STARTUP
from pytw.types import Outcome
from pytw.worker.cache import FlushOthers, FlushSelf, Regeneration, WorkerCacheData
from pytw.worker.filter import WorkerFilter
from pytw.worker.loads import ProgramLoads
from pytw.worker.state import WorkerState
from pytw.worker.vms import WorkerVmManager

log = logging.getLogger(__name__)

#: How long a change of templates waits in loop mode for what runs.
CHANGE_PATIENCE_S = 2.0
#: How often what a script changed is read again when the database is away, with twice the pause each time.
REGENERATION_TRIES_MAX = 6
REGENERATION_PAUSE_S = 0.5
REFRESHED_PAYLOAD = b'{"reason":"updateTemplateCache"}'
UNBANNED_PAYLOAD = b'{"reason":"ban_lifted"}'

#: Has the tenant told of a start, with this payload, when there is room for it.
TellStart = Callable[[int, bytes], None]


class TenantChanges:
    """Applies changes of tenants that live in this worker."""

    def __init__(
        self,
        vms: WorkerVmManager,
        state: WorkerState,
        loads: ProgramLoads,
        cache: WorkerCacheData,
        tell_start: TellStart,
        refreshed: Callable[[int], None],
        *,
        mine: WorkerFilter,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        event_s: float,
    ) -> None:
        """
        Args:
            refreshed: told of each tenant that was refreshed and may run.
            mine: which tenants live in this worker.
            spawn: has work done beside everything else.
            event_s: how long an event may run.
        """
        self._mine = mine
        self._spawn = spawn
        self._event_s = event_s
        self._vms = vms
        self._state = state
        self._loads = loads
        self._cache = cache
        self._tell_start = tell_start
        self._refreshed = refreshed

    # -- what scripts change ---------------------------------------------------------------------------

    def defer(self, tenant: int, request: int, wanted: Regeneration) -> None:
        """Have it done when the request that asks for it has ended; at once if it has, and only its threads go on."""
        if self._vms.runs(request):
            self._cache.defer(tenant, request, wanted)
        else:
            self._spawn(self._regenerate(tenant, {wanted}))

    def ended(self, tenant: int, request: int) -> None:
        """A request of a tenant that has something deferred has ended."""
        if wanted := self._cache.due(tenant, request):
            self._spawn(self._regenerate(tenant, wanted))

    async def _regenerate(self, tenant: int, wanted: Iterable[Regeneration]) -> None:
        tenants: dict[int, None] = {}
        for one in wanted:
            match one:
                case FlushSelf():
                    tenants[tenant] = None
                case FlushOthers(others):
                    tenants |= dict.fromkeys(filter(self._mine, sorted(others)))
        for each in tenants:
            await self._regenerate_one(each)

    async def _regenerate_one(self, tenant: int) -> None:
        """Other events in flight go on: in loop mode the VM ends only when none is left, or had the time that events have."""
        if self._loads.loop_mode:
            until = asyncio.get_running_loop().time() + self._event_s
            while (left := until - asyncio.get_running_loop().time()) > 0 and self._vms.busy(tenant):
                await self._vms.let_end(tenant, left)
        pause_s = REGENERATION_PAUSE_S
        for attempt in range(1, REGENERATION_TRIES_MAX + 1):
            try:
                await self.refresh(tenant)
            except Unavailable as error:
                if attempt == REGENERATION_TRIES_MAX:
                    log.warning("templates that were changed are not read again: %s", error, extra={"tenant": tenant})
                    return
            except PytwError as error:
                log.warning("templates that were changed cannot be read: %s", error, extra={"tenant": tenant})
                return
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s *= 2

    # -- orders ----------------------------------------------------------------------------------------

    async def refresh(self, tenant: int) -> None:
        """Returns when the tenant's next event sees its state and templates of now. Raises: Unavailable.

        Of a banned tenant nothing is left then: handlers in flight have ended as ``cancelled``. One whose ban was lifted, and
        in loop mode every tenant, has a new VM before it, where nothing of what the old one held goes on (timers, delayed
        keys): it gets ``OnStartup`` if it listens for it.
        """
        was_banned = self._state.refusal(tenant) is Outcome.BANNED
        await self._loads.refresh(tenant)
        if self._state.refusal(tenant) is Outcome.BANNED:
            await self.drop(tenant)
            return
        if self._loads.loop_mode:
            await self._vms.let_end(tenant, CHANGE_PATIENCE_S)
            await self.drop(tenant)
            self._start(tenant, REFRESHED_PAYLOAD)
        elif was_banned:
            self._start(tenant, UNBANNED_PAYLOAD)
        self._refreshed(tenant)

    def _start(self, tenant: int, payload: bytes) -> None:
        if self._state.listens(tenant, ON_STARTUP):
            self._tell_start(tenant, payload)

    async def drop(self, tenant: int) -> None:
        """End the tenant's VM; its next event makes a new one. Raises: Unavailable."""
        self._cache.forget(tenant)
        await self._vms.drop_tenant(tenant)


__all__ = ["TenantChanges"]
