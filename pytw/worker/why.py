"""`Why`: why an event of a tenant did not run, or not well. Answers "why did it not fire"."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from pytw.types import Note, Outcome

NOTES_PER_TENANT_MAX = 32
TENANTS_MAX = 4_096
LINES_PER_TENANT_S = 5


class _Notes:
    __slots__ = ("lines", "notes", "second")

    def __init__(self) -> None:
        self.notes: deque[Note] = deque(maxlen=NOTES_PER_TENANT_MAX)
        self.second = 0
        self.lines = 0


class Why:
    """Counts of outcomes by reason, and the last notes of each tenant, the least recently noted tenants forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tenants: OrderedDict[int, _Notes] = OrderedDict()
        #: (outcome, reason) -> events; reasons are the worker's own words, never a tenant's.
        self.counts: Counter[tuple[Outcome, str]] = Counter()

    def note(self, tenant: int, event: str, outcome: Outcome, reason: str | None, *, counted_as: str = "") -> bool:
        """Keep it. Returns whether a line about it may go to the log: `LINES_PER_TENANT_S` per tenant."""
        self.counts[outcome, counted_as] += 1
        entry = self._tenants.get(tenant)
        if entry is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants.popitem(last=False)
            entry = self._tenants[tenant] = _Notes()
        else:
            self._tenants.move_to_end(tenant)
        now = self._clock()
        entry.notes.append(Note(now, event, outcome, reason))
        second = int(now)
        if entry.second != second:
            entry.second, entry.lines = second, 0
        entry.lines += 1
        return entry.lines <= LINES_PER_TENANT_S

    def of(self, tenant: int) -> list[Note]:
        """The tenant's last notes, oldest first."""
        entry = self._tenants.get(tenant)
        return list(entry.notes) if entry is not None else []
