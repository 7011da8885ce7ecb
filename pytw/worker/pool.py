"""`WorkerPool`: many workers behind the face of one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from pytw.routing import worker_of
from pytw.types import CreateEvent, DispatchResult, Note, TemplateSource
from pytw.worker.like import Poolable


class WorkerPool:
    """A `WorkerLike` that hands each tenant to the member that owns it: ``(id >> 22) % N``, nothing else routes.

    Members may be threads, processes or both; a member's id is its place. Source: reference `WorkerPool` (spec 5.11).
    """

    def __init__(self, members: Sequence[Poolable]) -> None:
        if not members or [member.id for member in members] != list(range(len(members))):
            raise ValueError("a pool needs members whose ids are 0, 1, 2, ...")
        self._members = tuple(members)
        self._size = len(members)

    @property
    def id(self) -> int:
        return 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Poolable]:
        return iter(self._members)

    def of(self, tenant: int) -> Poolable:
        """The member that owns the tenant."""
        return self._members[worker_of(tenant, self._size)]

    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult:
        return await self.of(tenant).dispatch_event(tenant, event, timeout_s=timeout_s)

    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None:
        self.of(tenant).dispatch_event_nowait(tenant, event)

    async def run_script(
        self, tenant: int, name: str, source: str, event: CreateEvent | None = None, *, timeout_s: float | None = None
    ) -> DispatchResult:
        return await self.of(tenant).run_script(tenant, name, source, event, timeout_s=timeout_s)

    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]:
        return await self.of(tenant).check_template(tenant, template)

    async def refresh_tenant(self, tenant: int) -> None:
        await self.of(tenant).refresh_tenant(tenant)

    async def drop_tenant(self, tenant: int) -> None:
        await self.of(tenant).drop_tenant(tenant)

    async def why(self, tenant: int) -> list[Note]:
        return await self.of(tenant).why(tenant)

    def quarantine(self, tenant: int, until: float) -> None:
        self.of(tenant).quarantine(tenant, until)

    async def kill(self) -> None:
        """End all members, at the same time; one that fails to end keeps none of the others."""
        results = await asyncio.gather(*(member.kill() for member in self._members), return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed:
            raise ExceptionGroup("workers that did not end", failed)
