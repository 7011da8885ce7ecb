"""`WorkerThread`: a worker inside the master's process. Its VM threads are its own; its Python runs in the master's loop."""

from __future__ import annotations

import asyncio

from pytw.types import CreateEvent, DispatchResult, Note, Outcome, TemplateSource
from pytw.worker.dispatch import Done, settle
from pytw.worker.template import Template
from pytw.worker.worker import Worker

_KILLED = DispatchResult.nothing_ran(Outcome.WORKER_LOST, "the worker was killed").body


def milliseconds(timeout_s: float | None) -> int:
    """A timeout as the dispatcher takes it: 0 is the configured deadline."""
    return 0 if timeout_s is None else max(1, int(timeout_s * 1000))


def _unheard(_body: bytes) -> None:
    pass


class WorkerThread:
    """A `WorkerLike` over a `Worker` of this process: direct calls, nothing is copied. Source: reference (spec 5.12)."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._killed = False

    @property
    def id(self) -> int:
        return self.worker.id

    def __len__(self) -> int:
        return 1

    async def start(self) -> None:
        """Returns when events are taken. Raises: ConfigError, Unavailable."""
        await self.worker.start()

    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult:
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        request = self._dispatch(tenant, event, settle(ended), milliseconds(timeout_s))
        return await self._ended(tenant, request, ended)

    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None:
        self._dispatch(tenant, event, _unheard, 0)

    def _dispatch(self, tenant: int, event: CreateEvent, done: Done, timeout_ms: int) -> int:
        if self._killed:
            done(_KILLED)
            return 0
        return self.worker.dispatch.dispatch(tenant, event, done, timeout_ms)

    async def run_script(
        self, tenant: int, name: str, source: str, event: CreateEvent | None = None, *, timeout_s: float | None = None
    ) -> DispatchResult:
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._killed:
            return DispatchResult(_KILLED)
        request = self.worker.dispatch.run_script(
            tenant, name, source.encode(), event or CreateEvent(name, b"null"), settle(ended), milliseconds(timeout_s)
        )
        return await self._ended(tenant, request, ended)

    async def _ended(self, tenant: int, request: int, ended: asyncio.Future[bytes]) -> DispatchResult:
        try:
            body = await ended
            return (
                DispatchResult.of_request(body, self.worker.dispatch.name(request)) if request else DispatchResult(body)
            )
        except asyncio.CancelledError:
            if not self._killed:
                self.worker.dispatch.cancel(tenant, request)
            raise

    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]:
        return await self.worker.check_template(tenant, Template(template))

    async def refresh_tenant(self, tenant: int) -> None:
        await self.worker.refresh_tenant(tenant)

    async def drop_tenant(self, tenant: int) -> None:
        await self.worker.drop_tenant(tenant)

    async def why(self, tenant: int) -> list[Note]:
        return self.worker.dispatch.why.of(tenant)

    def quarantine(self, tenant: int, until: float) -> None:
        self.worker.state.quarantine(tenant, until)

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what runs end. Returns whether all of it did in time."""
        return await self.worker.drain(timeout_s)

    async def kill(self) -> None:
        self._killed = True
        await self.worker.close()
