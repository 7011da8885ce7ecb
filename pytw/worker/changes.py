"""`TenantChanges`: a tenant's state, ban or templates changed in the database; what its worker does about it.

Programs are swapped: events that run go on with what they began with. A ban ends the VM, and with it whatever runs in it.
In loop mode the templates are what the loop has read and keeps in its VM, isolates and modules included, and the host knows no
name for any of it, so the VM ends there, too, when what runs has ended or `CHANGE_PATIENCE_S` is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytw.eventnames import ON_STARTUP
from pytw.types import Outcome
from pytw.worker.loads import ProgramLoads
from pytw.worker.state import WorkerState
from pytw.worker.vms import WorkerVmManager

if TYPE_CHECKING:
    from pytw.worker.cache import WorkerCacheData

#: How long a change of templates waits in loop mode for what runs.
CHANGE_PATIENCE_S = 2.0
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
    ) -> None:
        self._vms = vms
        self._state = state
        self._loads = loads
        self._cache = cache
        self._tell_start = tell_start

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
        elif self._loads.loop_mode:
            await self._vms.let_end(tenant, CHANGE_PATIENCE_S)
            await self.drop(tenant)
            self._start(tenant, REFRESHED_PAYLOAD)
        elif was_banned:
            self._start(tenant, UNBANNED_PAYLOAD)

    def _start(self, tenant: int, payload: bytes) -> None:
        if self._state.listens(tenant, ON_STARTUP):
            self._tell_start(tenant, payload)

    async def drop(self, tenant: int) -> None:
        """End the tenant's VM; its next event makes a new one. Raises: Unavailable."""
        self._cache.forget(tenant)
        await self._vms.drop_tenant(tenant)


__all__ = ["TenantChanges"]
