"""`WorkerProcessHandle`: a worker process as the master sees it, over its Mesophyll link."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from pytw.errors import (
    DeadlineExceeded,
    LimitExceeded,
    NotReady,
    Overloaded,
    PytwError,
    RequestError,
    Unavailable,
    WorkerLost,
)
from pytw.limits import Limits
from pytw.mesophyll.records import Kind, pack_event
from pytw.types import CreateEvent, DispatchResult, Note, Outcome, TemplateSource
from pytw.worker.template import Template

NIL = b"\xc0"
#: The worker's own deadline comes first: its answer says which template was late.
LINK_GRACE_S = 1.0
#: Checks, refreshes and drops are answered within this.
ORDER_TIMEOUT_S = 30.0
#: Tenants that changed while the worker was away are told to it when it is back: it may have read them just before. Those
#: of longer ago than a start takes, and those beyond so many, it has read since.
MISSED_S = 120.0
MISSED_MAX = 10_000

_NOT_READY = DispatchResult.nothing_ran(Outcome.NOT_READY, "the worker is not connected").body
_OUTCOMES: tuple[tuple[type[PytwError], Outcome], ...] = (
    (WorkerLost, Outcome.WORKER_LOST),
    (DeadlineExceeded, Outcome.TIMEOUT),
    (NotReady, Outcome.NOT_READY),
    (Overloaded, Outcome.SHED),
    (LimitExceeded, Outcome.SHED),
    (Unavailable, Outcome.NOT_READY),
    (RequestError, Outcome.SHED),
)


class Link(Protocol):
    """What this asks of a link to a worker process (mesophyll/server.py)."""

    async def request(self, kind: Kind, tenant: int, body: bytes, timeout_s: float | None = None) -> bytes:
        """Raises: WorkerLost at once when the link dies; DeadlineExceeded; what the worker answered. Cancellation is told."""

    def send(self, kind: Kind, tenant: int, body: bytes) -> None:
        """Nobody waits for an answer. Raises: LimitExceeded."""


def _outcome(error: PytwError) -> DispatchResult:
    for kind, outcome in _OUTCOMES:
        if isinstance(error, kind):
            return DispatchResult.nothing_ran(outcome, error.detail)
    return DispatchResult.nothing_ran(Outcome.WORKER_LOST, error.detail)


class WorkerProcessHandle:
    """A `WorkerLike` over whatever link its process has at the moment. Source: reference (spec 5.14).

    The supervisor starts and restarts the process; the Mesophyll server attaches each new link. Without a link events end
    with ``not_ready``; those that a link took with it end with ``worker_lost`` and are not sent again, for they may have run.
    """

    def __init__(self, worker_id: int, limits: Limits, *, kill: Callable[[], Awaitable[None]] | None = None) -> None:
        """
        Args:
            kill: ends the process for good.
        """
        self._id = worker_id
        self._limits = limits
        self._kill = kill
        self._link: Link | None = None
        #: Tenants to refuse, told to each new link.
        self._quarantined: dict[int, float] = {}
        #: Tenants whose refresh found no link, the last one last, and when that was.
        self._missed: OrderedDict[int, float] = OrderedDict()

    @property
    def id(self) -> int:
        return self._id

    def __len__(self) -> int:
        return 1

    @property
    def ready(self) -> bool:
        """Whether the process takes events."""
        return self._link is not None

    def attach(self, link: Link) -> None:
        """The process is ready and takes events over *link* from now on."""
        self._link = link
        self._forget_what_is_over()
        for tenant, until in self._quarantined.items():
            self._tell_quarantine(link, tenant, until)
        since = time.monotonic() - MISSED_S
        for tenant in [tenant for tenant, at in self._missed.items() if at > since]:
            link.send(Kind.REFRESH, tenant, NIL)
        self._missed.clear()

    def detach(self, link: Link | None = None) -> None:
        """*link* is gone; an older link's end does not touch a newer one. None: whichever there is."""
        if link is None or self._link is link:
            self._link = None

    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult:
        link = self._link
        if link is None:
            return DispatchResult(_NOT_READY)
        if timeout_s is None:
            timeout_s = self._limits.event_deadline_ms / 1000
        body = pack_event(event, max(1, int(timeout_s * 1000)))
        try:
            return DispatchResult(await link.request(Kind.DISPATCH, tenant, body, timeout_s + LINK_GRACE_S))
        except PytwError as error:
            return _outcome(error)

    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None:
        if self._link is not None:
            try:
                self._link.send(Kind.DISPATCH, tenant, pack_event(event, self._limits.event_deadline_ms))
            except PytwError:
                # Too large, or the link went meanwhile: nobody waits for what became of it.
                return

    async def run_script(
        self, tenant: int, name: str, source: str, event: CreateEvent | None = None, *, timeout_s: float | None = None
    ) -> DispatchResult:
        link = self._link
        if link is None:
            return DispatchResult(_NOT_READY)
        if timeout_s is None:
            timeout_s = self._limits.event_deadline_ms / 1000
        timeout_ms = max(1, int(timeout_s * 1000))
        packed = pack_event(event, timeout_ms) if event is not None else None
        body = msgspec.msgpack.encode((name, source.encode(), packed, timeout_ms))
        try:
            return DispatchResult(await link.request(Kind.RUN_SCRIPT, tenant, body, timeout_s + LINK_GRACE_S))
        except PytwError as error:
            return _outcome(error)

    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]:
        packed = Template(template)
        packed.check_bounds(self._limits)
        return msgspec.msgpack.decode(await self._order(Kind.CHECK, tenant, packed.pack()), type=list[str])

    async def refresh_tenant(self, tenant: int) -> None:
        if self._link is None:
            self._missed[tenant] = time.monotonic()
            self._missed.move_to_end(tenant)
            if len(self._missed) > MISSED_MAX:
                self._missed.popitem(last=False)
        await self._order(Kind.REFRESH, tenant, NIL)

    async def drop_tenant(self, tenant: int) -> None:
        await self._order(Kind.DROP_TENANT, tenant, NIL)

    async def why(self, tenant: int) -> list[Note]:
        return msgspec.msgpack.decode(await self._order(Kind.WHY, tenant, NIL), type=list[Note])

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what runs end. Returns whether the worker said so in time."""
        if self._link is None:
            return True
        try:
            await self._link.request(Kind.DRAIN, 0, NIL, timeout_s)
        except Unavailable:
            return False
        return True

    async def _order(self, kind: Kind, tenant: int, body: bytes) -> bytes:
        if self._link is None:
            raise NotReady("the worker is not connected", hint="it is starting or restarting")
        return await self._link.request(kind, tenant, body, ORDER_TIMEOUT_S)

    def quarantine(self, tenant: int, until: float) -> None:
        self._forget_what_is_over()
        if until:
            self._quarantined[tenant] = until
        else:
            self._quarantined.pop(tenant, None)
        if self._link is not None:
            self._tell_quarantine(self._link, tenant, until)

    def _forget_what_is_over(self) -> None:
        now = time.time()
        self._quarantined = {tenant: until for tenant, until in self._quarantined.items() if until > now}

    @staticmethod
    def _tell_quarantine(link: Link, tenant: int, until: float) -> None:
        link.send(Kind.QUARANTINE, tenant, msgspec.msgpack.encode([until]))

    async def kill(self) -> None:
        self._link = None
        if self._kill is not None:
            await self._kill()
