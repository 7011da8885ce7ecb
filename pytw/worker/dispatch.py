"""`WorkerDispatch`: from an event to its outcome. Gate, bounds, load of the tenant's program, VM thread, answer.

The way of an event is callbacks: no task and no future is made for it here. An event of a tenant whose program is
not loaded waits, in order, behind the one load of that tenant; other tenants do not notice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgpack

from pytw.errors import PytwError, StorageUnavailable
from pytw.limits import Limits
from pytw.types import CreateEvent, DispatchResult, Outcome
from pytw.worker import loopresults
from pytw.worker.loads import ProgramLoads
from pytw.worker.scrub import Scrubber
from pytw.worker.state import WorkerState
from pytw.worker.vms import SCRIPT_BIT, WorkerVmManager
from pytw.worker.why import Why

log = logging.getLogger(__name__)

Done = Callable[[bytes], None]


def settle(ended: asyncio.Future[bytes]) -> Done:
    """A `Done` that fills *ended*, unless its waiter was cancelled."""

    def done(body: bytes) -> None:
        if not ended.done():
            ended.set_result(body)

    return done


_REFUSALS = {
    outcome: DispatchResult.nothing_ran(outcome).body
    for outcome in (Outcome.NOT_SUBSCRIBED, Outcome.BANNED, Outcome.QUARANTINED)
}
_WORKER_FULL = DispatchResult.nothing_ran(Outcome.SHED, "worker_queue").body
_TENANT_FULL = DispatchResult.nothing_ran(Outcome.SHED, "load_queue").body
_NOT_READY = DispatchResult.nothing_ran(Outcome.NOT_READY, "worker_not_ready").body
_CANCELLED = DispatchResult.nothing_ran(Outcome.CANCELLED).body
_LATE = DispatchResult.nothing_ran(Outcome.TIMEOUT, "load").body


class Running:
    """A request between acceptance and answer."""

    __slots__ = ("_dispatch", "deadline", "done", "name", "request", "tenant")

    def __init__(
        self, dispatch: WorkerDispatch, tenant: int, request: int, name: str, deadline: float, done: Done
    ) -> None:
        self._dispatch = dispatch
        self.tenant = tenant
        self.request = request
        self.name = name
        self.deadline = deadline
        self.done = done

    def __call__(self, body: bytes) -> None:
        dispatch = self._dispatch
        dispatch.in_flight -= 1
        if dispatch._loads.loop_mode:
            body = loopresults.split(body, dispatch.error_bytes_max)
        if body[1] and self.tenant in dispatch.scrubber.tenants:
            body = dispatch.scrubber.body(self.tenant, body)
        outcome = body[1]
        dispatch.outcomes[outcome] += 1
        try:
            if outcome:
                dispatch.ended_badly(self, body)
        finally:
            if not dispatch.in_flight and dispatch.idle is not None:
                dispatch.idle.set()
            if self.tenant in dispatch.regenerations:
                dispatch.on_regeneration(self.tenant, self.request)
            self.done(body)


class WorkerDispatch:
    """Runs events and scripts. Source: reference `WorkerDispatch` (spec 5.10)."""

    def __init__(
        self,
        vms: WorkerVmManager,
        state: WorkerState,
        loads: ProgramLoads,
        limits: Limits,
        *,
        worker_id: int = 0,
        scrubber: Scrubber | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker_id = worker_id
        self._vms = vms
        self._state = state
        self._loads = loads
        self._cache = loads.cache
        self._clock = clock
        self._timeout_ms = limits.event_deadline_ms
        self._event_bytes_max = limits.event_bytes_max
        self._in_flight_max = limits.worker_queue_events_max
        self.error_bytes_max = limits.error_bytes_max
        self.scrubber = scrubber or Scrubber(limits.error_bytes_max)
        self.regenerations = loads.cache.regenerations
        #: Told that a request has ended of a tenant that waits for that with a regeneration.
        self.on_regeneration: Callable[[int, int], object] = loads.cache.due
        self.why = Why()
        loads.left_out = self._left_out
        self.in_flight = 0
        #: Events by outcome.
        self.outcomes = [0] * (max(Outcome) + 1)
        self.idle: asyncio.Event | None = None
        #: Whether the gates are loaded and intake is open.
        self.ready = False

    def dispatch(self, tenant: int, event: CreateEvent, done: Done, timeout_ms: int = 0) -> int:
        """Run *event* in the tenant's templates; *done* gets the body of the `DispatchResult`, once.

        What cannot run is answered before this returns. Events of one tenant start in the order of these calls.

        Args:
            timeout_ms: from now to the answer; 0 is the configured event deadline.
        Returns: the request's number for `cancel`; 0 if it is answered already.
        """
        state = self._state
        if not self.ready:
            return self._refuse(tenant, event.name, done, _NOT_READY, "worker_not_ready")
        if tenant in state.blocked:
            refusal = state.refusal(tenant)
            if refusal is not None:
                return self._refuse(tenant, event.name, done, _REFUSALS[refusal], "")
        if not state.listens(tenant, event.name):
            return self._refuse(tenant, event.name, done, _REFUSALS[Outcome.NOT_SUBSCRIBED], "")
        if self.in_flight >= self._in_flight_max:
            return self._refuse(tenant, event.name, done, _WORKER_FULL, "worker_queue")
        if len(event.payload) > self._event_bytes_max:
            return self._refuse(tenant, event.name, done, self._too_long(), "event_bytes")
        timeout_ms = timeout_ms or self._timeout_ms
        vms = self._vms
        request = vms.next_request()
        now = self._clock()
        running = Running(self, tenant, request, event.name, now + timeout_ms / 1000, done)
        self.in_flight += 1
        if self._cache.use(tenant, now):
            vms.submit_event(tenant, request, event, timeout_ms, running)
        elif not self._loads.wait(tenant, running, lambda error: self._run_waiting(running, event, error)):
            running(_TENANT_FULL)
            return 0
        return request

    def run_script(
        self, tenant: int, name: str, source: bytes, event: CreateEvent, done: Done, timeout_ms: int = 0
    ) -> int:
        """Run *source* once in the tenant's VM, past the gate, with every capability; otherwise as `dispatch`."""
        if not self.ready:
            return self._refuse(tenant, name, done, _NOT_READY, "worker_not_ready")
        if self._state.refusal(tenant) is Outcome.QUARANTINED:
            return self._refuse(tenant, name, done, _REFUSALS[Outcome.QUARANTINED], "")
        if self.in_flight >= self._in_flight_max:
            return self._refuse(tenant, name, done, _WORKER_FULL, "worker_queue")
        timeout_ms = timeout_ms or self._timeout_ms
        request = self._vms.next_request() | SCRIPT_BIT
        running = Running(self, tenant, request, name, self._clock() + timeout_ms / 1000, done)
        self.in_flight += 1
        self._vms.submit_script(tenant, request, name, source, event, timeout_ms, running)
        return request

    def name(self, request: int) -> str:
        """What the log and the caller call a request: numbers are the worker's own."""
        return f"{self._worker_id}-{request & ~SCRIPT_BIT}"

    def cancel(self, tenant: int, request: int) -> None:
        """Give up a request: its *done* gets ``cancelled`` unless it ends otherwise before. Unknown ones are ignored."""
        waiting = self._loads.give_up(tenant, request)
        if waiting is not None:
            waiting(_CANCELLED)
        elif request:
            self._vms.cancel(tenant, request)

    def sweep(self) -> None:
        """End what is overdue, behind a slow load or a deaf VM thread. Called about once a second."""
        now = self._clock()
        for waiting in self._loads.sweep(now):
            waiting(_LATE)
        self._vms.sweep(now)

    def _run_waiting(self, running: Running, event: CreateEvent, error: PytwError | None) -> None:
        """The tenant's program is loaded, or cannot be."""
        if error is not None:
            reason = "storage" if isinstance(error, StorageUnavailable) else "load"
            running(DispatchResult.nothing_ran(Outcome.NOT_READY, f"{reason}: {error.detail}").body)
            return
        left_ms = int((running.deadline - self._clock()) * 1000)
        if left_ms <= 0:
            running(_LATE)
        elif running.tenant in self._state.blocked and (refusal := self._state.refusal(running.tenant)):
            running(_REFUSALS[refusal])
        else:
            self._vms.submit_event(running.tenant, running.request, event, left_ms, running)

    def _too_long(self) -> bytes:
        detail = f"the payload is longer than {self._event_bytes_max} bytes"
        return DispatchResult.nothing_ran(Outcome.SHED, detail).body

    def _refuse(self, tenant: int, name: str, done: Done, body: bytes, reason: str) -> int:
        outcome = Outcome(body[1])
        self.outcomes[outcome] += 1
        self.why.note(tenant, name, outcome, reason or None, counted_as=reason)
        done(body)
        return 0

    def _left_out(self, tenant: int, template: str, why: str) -> None:
        self.why.note(tenant, f"load of {template}", Outcome.NOT_READY, why, counted_as="template_left_out")

    def ended_badly(self, running: Running, body: bytes) -> None:
        """Note and log what ended otherwise than well; tracebacks are in Luau terms already."""
        outcome = Outcome(body[1])
        # Maps as pairs: a table that a script returned may have tables for keys.
        fields: list[Any] = msgpack.unpackb(body, strict_map_key=False, object_pairs_hook=list)
        texts = [(t[0], Outcome(t[1]), t[4] or t[2]) for t in fields[2] if t[1]]
        reason = texts[0][2] if texts else fields[1]
        if not self.why.note(running.tenant, running.name, outcome, reason) or outcome is Outcome.NOT_SUBSCRIBED:
            return
        where = {"tenant": running.tenant, "request": self.name(running.request)}
        level = logging.INFO if outcome in (Outcome.SCRIPT_ERROR, Outcome.CANCELLED) else logging.WARNING
        for template, ended, text in texts:
            log.log(level, "%s in template %s: %s: %s", running.name, template, ended.slug, text, extra=where)
        if not texts:
            log.log(level, "%s did not run: %s: %s", running.name, outcome.slug, fields[1], extra=where)

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, let what runs end. Returns whether all of it did in time."""
        self.ready = False
        if not self.in_flight:
            return True
        self.idle = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                while self.in_flight:
                    self.idle.clear()
                    await self.idle.wait()
        except TimeoutError:
            return False
        finally:
            self.idle = None
        return True
