"""`WorkerState`: who listens for what, and who may not run at all. The gate in front of every VM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from pytw.eventnames import DEFAULT_EVENTS
from pytw.types import Outcome, TenantGate
from pytw.workerdb import WorkerDb


class WorkerState:
    """The gates of this worker's tenants, held in memory. Source: reference `WorkerState` (spec 5.8).

    A tenant listens for what its state and its deployed templates name (the database adds them up), and for what the
    built-in template names. Tenants without a row have `DEFAULT_EVENTS` and the built-in ones.
    """

    __slots__ = (
        "_builtin_events",
        "_clock",
        "_db",
        "_default",
        "_gates",
        "_meanwhile",
        "_worker_id",
        "_workers",
        "blocked",
    )

    def __init__(self, db: WorkerDb, worker_id: int, workers: int, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._worker_id = worker_id
        self._workers = workers
        self._clock = clock
        self._gates: dict[int, frozenset[str]] = {}
        self._builtin_events: frozenset[str] = frozenset()
        self._default = DEFAULT_EVENTS
        #: Tenants whose events are refused, until this unix time; infinite for a ban. Read by the hot path.
        self.blocked: dict[int, float] = {}
        #: Gates that were read on their own while all of them are being read, which may have begun before.
        self._meanwhile: dict[int, TenantGate] | None = None

    async def load(self, builtin_events: Iterable[str] = ()) -> None:
        """Read the gates of all tenants of this worker. Raises: Unavailable."""
        self._builtin_events = frozenset(builtin_events)
        self._default = DEFAULT_EVENTS | self._builtin_events
        known: dict[frozenset[str], frozenset[str]] = {self._default: self._default}
        gates = {}
        banned = []
        self._meanwhile = {}
        try:
            found = await self._db.gates(self._worker_id, self._workers)
        finally:
            meanwhile, self._meanwhile = self._meanwhile, None
        for gate in found:
            events = gate.events | self._builtin_events
            gates[gate.tenant] = known.setdefault(events, events)
            if gate.banned:
                banned.append(gate.tenant)
        self._gates = gates
        self.blocked = {tenant: until for tenant, until in self.blocked.items() if until != math.inf}
        self.blocked.update(dict.fromkeys(banned, math.inf))
        for gate in meanwhile.values():
            self.apply(gate)

    def listens(self, tenant: int, event: str) -> bool:
        """Whether the event has a reason to reach the tenant's VM."""
        return event in self._gates.get(tenant, self._default)

    def events(self, tenant: int) -> frozenset[str]:
        return self._gates.get(tenant, self._default)

    def listeners(self, event: str) -> list[int]:
        """The tenants with a row that listen for *event*."""
        return [tenant for tenant, events in self._gates.items() if event in events]

    async def refresh(self, tenant: int) -> None:
        """Read one tenant's gate again. Raises: Unavailable."""
        self.apply(await self._db.gate(tenant))

    def apply(self, gate: TenantGate) -> None:
        """Take a changed gate; the next event sees it."""
        if self._meanwhile is not None:
            self._meanwhile[gate.tenant] = gate
        events = gate.events | self._builtin_events
        if events != self._default:
            self._gates[gate.tenant] = events
        elif gate.tenant in self._gates:
            # Who listens for the defaults and was not known needs no entry: it may have no row.
            self._gates[gate.tenant] = self._default
        if gate.banned:
            self.blocked[gate.tenant] = math.inf
        elif self.blocked.get(gate.tenant) == math.inf:
            del self.blocked[gate.tenant]

    def quarantine(self, tenant: int, until: float) -> None:
        """Refuse the tenant's events until *until*, unix seconds; 0 lifts it. A ban stays."""
        if self.blocked.get(tenant) == math.inf:
            return
        now = self._clock()
        # Those that are over and were not asked for since; there are few at any time.
        for over in [other for other, end in self.blocked.items() if end <= now]:
            del self.blocked[over]
        if until > now:
            self.blocked[tenant] = until
        else:
            self.blocked.pop(tenant, None)

    def refusal(self, tenant: int) -> Outcome | None:
        """Why a tenant of `blocked` may not run; None if its quarantine is over, which this also ends."""
        until = self.blocked.get(tenant)
        if until is None:
            return None
        if until == math.inf:
            return Outcome.BANNED
        if until > self._clock():
            return Outcome.QUARANTINED
        del self.blocked[tenant]
        return None

    def __len__(self) -> int:
        return len(self._gates)
