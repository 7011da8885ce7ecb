"""Takes events that arrived in the wrong worker (direct messages, entitlements) to the worker that owns their tenant."""

from __future__ import annotations

from pytw.types import CreateEvent, Outcome
from pytw.worker.like import WorkerLike


class PoolForwarder:
    """Satisfies types.Forwarder over the whole pool; the event counts as done when its owner says so."""

    def __init__(self, pool: WorkerLike) -> None:
        self._pool = pool

    async def forward(self, tenant: int, event: CreateEvent) -> Outcome:
        """Runs *event* where *tenant* lives and returns how it ended."""
        return (await self._pool.dispatch_event(tenant, event)).outcome
