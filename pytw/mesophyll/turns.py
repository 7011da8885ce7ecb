"""Whose database operation is next: round-robin over tenants, with a bound for each tenant and for all.

Every worker does the same for its own tenants; here it is done again over all workers, so that neither a busy tenant nor
a busy worker can take the connections from the others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from pytw.errors import Overloaded


class Turns:
    """Starts work when its turn comes. The caller says `done` once for everything started."""

    def __init__(self, *, per_tenant: int, total: int, waiting_max: int) -> None:
        """
        Args:
            per_tenant, total: most operations in flight, of one tenant and of all.
            waiting_max: most operations of one tenant that wait.
        """
        self._per_tenant = per_tenant
        self._total = total
        self._waiting_max = waiting_max
        self._running = 0
        self._starting = False
        self._running_of: dict[int, int] = {}
        self._waiting: OrderedDict[int, deque[Callable[[], None]]] = OrderedDict()

    def submit(self, tenant: int, start: Callable[[], None]) -> None:
        """Calls *start*, now or when the tenant's turn comes.

        Raises:
            Overloaded: too many operations of the tenant wait.
        """
        if self.take(tenant):
            start()
            return
        queue = self._waiting.setdefault(tenant, deque())
        if len(queue) >= self._waiting_max:
            raise Overloaded("too many database operations of this tenant wait")
        queue.append(start)

    def take(self, tenant: int) -> bool:
        """Whether it is the tenant's turn at once; then one operation has begun."""
        if tenant in self._waiting or not self._free(tenant):
            return False
        self._begin(tenant)
        return True

    def done(self, tenant: int) -> None:
        """One operation of the tenant has ended; starts the next ones."""
        self._running -= 1
        if (left := self._running_of[tenant] - 1) > 0:
            self._running_of[tenant] = left
        else:
            del self._running_of[tenant]
        if not self._starting:
            self._starting = True
            try:
                self._start_next()
            finally:
                self._starting = False

    def _start_next(self) -> None:
        # What was given up says `done` as it is started, any number of times in a row: in this loop, not one in another.
        while self._running < self._total:
            ready = next((tenant for tenant in self._waiting if self._free(tenant)), None)
            if ready is None:
                return
            queue = self._waiting[ready]
            start = queue.popleft()
            if queue:
                self._waiting.move_to_end(ready)
            else:
                del self._waiting[ready]
            self._begin(ready)
            start()

    def _free(self, tenant: int) -> bool:
        return self._running < self._total and self._running_of.get(tenant, 0) < self._per_tenant

    def _begin(self, tenant: int) -> None:
        self._running += 1
        self._running_of[tenant] = self._running_of.get(tenant, 0) + 1
