"""`WorkerLike`: whatever runs tenants' templates, be it a thread, a process or a pool of both."""

from __future__ import annotations

from typing import Protocol

from pytw.types import CreateEvent, DispatchResult, Note, TemplateSource


class WorkerLike(Protocol):
    """Runs tenants' templates. Source: reference `WorkerLike` (spec 5.11), with deadlines and outcomes.

    All methods take the tenant's 64-bit key. What cannot run has an outcome, never an exception: `not_ready`, `shed`,
    `worker_lost` and the like come back as a `DispatchResult`.
    """

    @property
    def id(self) -> int:
        """Place in the pool; 0 for a pool itself."""

    def __len__(self) -> int:
        """Workers behind this: 1, or the pool's size."""

    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult:
        """Run *event* in the tenant's templates and return how it ended.

        Args:
            timeout_s: from acceptance to answer, queueing included; None is the configured event deadline.
        Cancellation: gives up the answer and cancels the event's main threads.
        """

    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None:
        """Run *event*; nobody waits for the answer. Never blocks."""

    async def run_script(
        self, tenant: int, name: str, source: str, event: CreateEvent | None = None, *, timeout_s: float | None = None
    ) -> DispatchResult:
        """Run *source* once in the tenant's VM, past the gate, with capability ``*``."""

    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]:
        """The events that the template's entry names, evaluated where the tenant lives.

        Raises:
            ScriptError: it does not compile or its entry raises; text has file and line.
            LimitExceeded, Unavailable.
        """

    async def refresh_tenant(self, tenant: int) -> None:
        """Read the tenant's state and templates again; returns when the next event sees them.

        Raises: Unavailable.
        """

    async def drop_tenant(self, tenant: int) -> None:
        """End the tenant's VM; the next event makes a new one. Raises: Unavailable."""

    async def why(self, tenant: int) -> list[Note]:
        """The tenant's last events that did not run or ended badly, oldest first. Raises: Unavailable."""

    async def kill(self) -> None:
        """End the worker at once. What is pending gets `worker_lost`."""


class Poolable(WorkerLike, Protocol):
    """A worker that a `WorkerPool` can hold: it knows its place and how to refuse a tenant."""

    def quarantine(self, tenant: int, until: float) -> None:
        """Refuse the tenant's events until *until* (unix seconds; 0 lifts it). Never blocks."""


__all__ = ["Poolable", "WorkerLike"]
