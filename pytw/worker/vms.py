"""`WorkerVmManager`: the worker's engines, one per VM thread, and the way in and out of them.

Work goes in without blocking. What comes out (results, host calls, log lines) is announced by each engine's eventfd,
read by the loop, and handed to whoever waits for it by request id.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from pytw import _native
from pytw.errors import PytwError, Unavailable, WorkerLost, from_wire
from pytw.eventnames import EVERY_EVENT
from pytw.limits import LOOP_OPENING_S, Limits
from pytw.routing import vm_thread_of
from pytw.types import CreateEvent, DispatchResult, Outcome
from pytw.worker.template import Template

log = logging.getLogger(__name__)

LUAU_VERSION = _native.LUAU_VERSION

RESULT = _native.RESULT
_FAILED = _native.FAILED
_HOST_CALL = _native.HOST_CALL
_LOG = _native.LOG
_DEAF = _native.DEAF
_LOST = _native.LOST

#: Set in the request ids of scripts, whose host calls hold every capability.
SCRIPT_BIT = 1 << 62
#: How much later than its deadline a request may be answered by its engine before the caller is told without it.
OVERDUE_GRACE_S = 2.0
#: A failed engine is replaced at most this often.
REPLACE_INTERVAL_S = 1.0
CONTROL_TIMEOUT_S = 30.0
#: msgpack of an empty map: `ctx.Runtime` knows neither links nor events.
NO_RUNTIME_INFO = b"\x80"
#: Each engine numbers its host calls from 1. To the sink a call's number also says which engine of its thread made it, so
#: that an answer for one that failed never reaches a call of the one in its place.
GENERATION_SHIFT = 48
_NUMBER = (1 << GENERATION_SHIFT) - 1

#: What a request that the engine refused to run says to its caller.
_FAILED_OUTCOMES = {
    "script_error": Outcome.SCRIPT_ERROR,
    "limit_exceeded": Outcome.LIMIT_EXCEEDED,
    "deadline_exceeded": Outcome.TIMEOUT,
    "overloaded": Outcome.SHED,
    "not_ready": Outcome.NOT_READY,
    "unavailable": Outcome.NOT_READY,
    "cancelled": Outcome.CANCELLED,
}

#: What a tree of built-ins has here, every template can require: the types that they share.
LIBRARY_FOLDER = "templating-types/"

_DEAF_BODY = DispatchResult.nothing_ran(Outcome.TIMEOUT, "the VM thread did not answer in time").body


#: Starts a VM thread.
EngineMaker = Callable[..., Any]
NATIVE_ENGINE: EngineMaker = _native.Engine


class Pending(Protocol):
    """Waits for the body of a `DispatchResult`."""

    tenant: int
    request: int
    deadline: float

    def __call__(self, body: bytes) -> None: ...


class _Awaited:
    """Takes the place of a request's `Pending` when its end is waited for, so that others pay nothing for that."""

    __slots__ = ("_done", "deadline", "ended", "request", "tenant")

    def __init__(self, done: Pending, ended: asyncio.Future[None]) -> None:
        self._done = done
        self.tenant = done.tenant
        self.request = done.request
        self.deadline = done.deadline
        self.ended = ended

    def __call__(self, body: bytes) -> None:
        try:
            self._done(body)
        finally:
            self.ended.set_result(None)


class Sink(Protocol):
    """Takes what engines say besides results."""

    def host_call(self, tenant: int, call: int, payload: bytes) -> None: ...
    def log_line(self, tenant: int, request: int, payload: bytes) -> None: ...
    def deaf(self, tenant: int, milliseconds: int) -> None: ...
    def vm_lost(self, tenant: int) -> None:
        """The tenant's VM ended by a fault or for want of memory."""

    def engine_replaced(self, holds: Callable[[int], bool]) -> None:
        """An engine was replaced by an empty one; *holds* says whether a tenant lived in it."""


def failure_body(payload: bytes, *, closed: bool = False) -> bytes:
    """The `DispatchResult` that a FAILED answer amounts to; after *closed*, whatever was pending may have run."""
    code, detail, _hint = msgpack.unpackb(payload)
    outcome = Outcome.WORKER_LOST if closed else _FAILED_OUTCOMES.get(code, Outcome.WORKER_LOST)
    return bytes(msgpack.packb([int(outcome), detail, [], [0, 0, {}, 0]]))


def failure(payload: bytes) -> PytwError:
    """The error that a FAILED answer to a check or a drop carries."""
    return from_wire(*msgpack.unpackb(payload))


def start_watchdog(*, master_pidfd: int = -1, deaf_ms: int, exit_on_deaf: bool) -> None:
    """Starts the process's watchdog thread, once per process. See `_native.watchdog`."""
    _native.watchdog(master_pidfd, deaf_ms, exit_on_deaf)


class WorkerVmManager:
    """Owns ``vm_threads`` engines; tenant -> engine is routing's formula. Source: reference (spec 5.13).

    Lives in one event loop and is not thread-safe.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        vm_threads: int,
        workers: int,
        debug: bool = False,
        blame_fd: int = -1,
        blame_slot: int = 0,
        runtime_info: bytes = NO_RUNTIME_INFO,
        engine: EngineMaker = NATIVE_ENGINE,
    ) -> None:
        self._make_engine = engine
        self._threads = vm_threads
        self._workers = workers
        self._options: dict[str, Any] = {
            "vm_memory_bytes": limits.vm_memory_bytes,
            "cpu_bucket_ms": limits.cpu_bucket_ms,
            "cpu_refill_percent": limits.cpu_refill_percent,
            "unbreakable_ms": limits.unbreakable_ms,
            "slice_ms": limits.slice_ms,
            "threads_max": limits.threads_max,
            "timers_max": limits.timers_max,
            "queue_events_max": limits.queue_events_max,
            "host_calls_max": limits.host_calls_max,
            "log_bytes_per_s": limits.log_bytes_per_s,
            "error_bytes_max": limits.error_bytes_max,
            "source_bytes_max": limits.source_bytes_max,
            "idle_evict_ms": limits.vm_idle_ms,
            "memory_budget_bytes": limits.worker_memory_bytes // vm_threads,
            "runtime_info": runtime_info,
            "debug": debug,
            "blame_fd": blame_fd,
        }
        self._blame_slot = blame_slot
        self._current_user: bytes | None = None
        self._engines: list[_native.Engine] = []
        self._replaced_at = [-REPLACE_INTERVAL_S] * vm_threads
        self._generations = [-1] * vm_threads
        self._pending: dict[int, Pending] = {}
        self._control: dict[int, asyncio.Future[bytes]] = {}
        self._ids = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop
        self._sink: Sink
        self._closed = False

    async def open(self, sink: Sink, builtins: Template, check_ms: int) -> list[str]:
        """Start the VM threads, which know the built-in template, and read from them in the running loop.

        What it listens for is found out first, in an engine that lives no longer than that.

        Returns: those events. Raises: ScriptError, LimitExceeded, Unavailable: the built-in template does not run.
        """
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        events: list[str] = []
        if builtins.files:
            # Tenant 0 lives on the first thread, and no other is needed for this.
            self._engines = [self._start(0)]
            try:
                events = msgpack.unpackb(await self.check(0, builtins.pack(), check_ms))
            finally:
                for engine in self._engines:
                    self._loop.remove_reader(engine.fileno())
                    engine.close()
                self._engines, self._generations[0] = [], -1
            self._options["builtins"] = msgpack.packb(dict(builtins.files))
            self._options["library"] = msgpack.packb(
                {path: text for path, text in builtins.files.items() if path.startswith(LIBRARY_FOLDER)}
            )
            self._options["builtins_entry"] = builtins.entry
            self._options["builtins_events"] = events
            if events == [EVERY_EVENT]:
                self._options["opening_ms"] = int(LOOP_OPENING_S * 1000)
        self._engines = [self._start(index) for index in range(self._threads)]
        return events

    def _start(self, index: int) -> _native.Engine:
        engine: _native.Engine = self._make_engine(**self._options, blame_slot=self._blame_slot + index)
        if self._current_user is not None:
            engine.set_current_user(self._current_user)
        self._generations[index] += 1
        self._loop.add_reader(engine.fileno(), self._drain, engine, self._generations[index])
        return engine

    def set_current_user(self, user: bytes) -> None:
        """Tell every engine, and each that takes the place of one, what `ctx.current_user` shows: the bot's user as JSON."""
        self._current_user = user
        for engine in self._engines:
            engine.set_current_user(user)

    def _place(self, tenant: int) -> int:
        return vm_thread_of(tenant, self._workers, self._threads)

    # -- in ----------------------------------------------------------------------------------------

    def next_request(self) -> int:
        return next(self._ids)

    def submit_event(self, tenant: int, request: int, event: CreateEvent, timeout_ms: int, done: Pending) -> None:
        """Run the event; *done* gets the body of the DispatchResult, once, from the loop."""
        self._pending[request] = done
        index = vm_thread_of(tenant, self._workers, self._threads)
        try:
            self._engines[index].submit_event(
                tenant, request, event.name, event.payload, event.author, event.redelivered, timeout_ms
            )
            if len(self._pending) == 1:
                self._loop.call_soon(self._linger, self._engines[index], self._generations[index])
        except RuntimeError as error:
            self._refused(index, request, error)

    def submit_script(
        self, tenant: int, request: int, name: str, source: bytes, event: CreateEvent, timeout_ms: int, done: Pending
    ) -> None:
        """Run *source* once, with every capability. *request* has `SCRIPT_BIT`."""
        self._pending[request] = done
        index = self._place(tenant)
        try:
            self._engines[index].submit_script(tenant, request, name, source, event.name, event.payload, timeout_ms)
        except RuntimeError as error:
            self._refused(index, request, error)

    def set_program(self, tenant: int, program: bytes) -> None:
        """Replace the tenant's templates for events submitted later. Raises: Unavailable."""
        index = self._place(tenant)
        try:
            self._engines[index].set_program(tenant, program)
        except RuntimeError as error:
            self._replace(index)
            raise Unavailable(str(error)) from error

    async def check(self, tenant: int, template: bytes, timeout_ms: int) -> bytes:
        """The msgpack list of events that a template names. Raises: ScriptError, LimitExceeded, Unavailable."""
        return await self._ask(
            tenant, lambda engine, request: engine.submit_check(tenant, request, template, timeout_ms)
        )

    async def drop_tenant(self, tenant: int) -> None:
        """End the tenant's VM and forget its program. Raises: Unavailable."""
        await self._ask(tenant, lambda engine, request: engine.drop_tenant(tenant, request))

    async def _ask(self, tenant: int, submit: Callable[[_native.Engine, int], None]) -> bytes:
        index, request = self._place(tenant), next(self._ids)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._control[request] = answer
        try:
            submit(self._engines[index], request)
            async with asyncio.timeout(CONTROL_TIMEOUT_S):
                return await answer
        except RuntimeError as error:
            self._replace(index)
            raise Unavailable(f"the VM thread does not take work: {error}") from error
        except TimeoutError:
            raise Unavailable("the VM thread did not answer in time") from None
        finally:
            self._control.pop(request, None)

    def cancel(self, tenant: int, request: int) -> None:
        """End the request's main threads; its *done* still gets a body, with outcome ``cancelled`` if that came first."""
        if self._engines:
            self._engines[self._place(tenant)].cancel(request)

    def answer(self, tenant: int, call: int, payload: bytes) -> None:
        """Answer a host call, unless its engine was replaced."""
        if (engine := self._caller(tenant, call)) is not None:
            engine.answer(call & _NUMBER, payload)

    def answer_error(self, tenant: int, call: int, text: str) -> None:
        if (engine := self._caller(tenant, call)) is not None:
            engine.answer_error(call & _NUMBER, text)

    def _caller(self, tenant: int, call: int) -> _native.Engine | None:
        index = self._place(tenant)
        return self._engines[index] if self._engines and call >> GENERATION_SHIFT == self._generations[index] else None

    def _linger(self, engine: _native.Engine, generation: int) -> None:
        """A lone event is usually done before this thread could fall asleep and be woken again."""
        self._deliver(engine.linger(), generation)

    # -- out ---------------------------------------------------------------------------------------

    def _drain(self, engine: _native.Engine, generation: int) -> None:
        self._deliver(engine.drain(), generation)

    def _deliver(self, came: list[tuple[int, int, int, bytes]], generation: int) -> None:
        pending = self._pending
        for kind, tenant, number, payload in came:
            try:
                if kind == RESULT:
                    done = pending.pop(number, None)
                    if done is not None:
                        done(payload)
                    else:
                        self._settle(number, payload)
                elif kind == _HOST_CALL:
                    self._sink.host_call(tenant, generation << GENERATION_SHIFT | number, payload)
                elif kind == _FAILED:
                    done = pending.pop(number, None)
                    if done is not None:
                        done(failure_body(payload, closed=self._closed))
                    else:
                        self._settle(number, failure(payload))
                elif kind == _LOG:
                    self._sink.log_line(tenant, number, payload)
                elif kind == _DEAF:
                    self._sink.deaf(tenant, number)
                elif kind == _LOST:
                    self._sink.vm_lost(tenant)
            except Exception:
                # One receiver's bug must not cost the others of the batch their results.
                log.exception("a result could not be delivered", extra={"tenant": tenant, "request": number})

    def _settle(self, request: int, answer: bytes | PytwError) -> None:
        waiting = self._control.pop(request, None)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, PytwError):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _refused(self, index: int, request: int, error: RuntimeError) -> None:
        done = self._pending.pop(request, None)
        self._replace(index)
        if done is not None:
            done(DispatchResult.nothing_ran(Outcome.NOT_READY, str(error)).body)

    def _replace(self, index: int) -> None:
        """A VM thread that failed is replaced; its tenants' programs are loaded again with their next events."""
        now = time.monotonic()
        if self._closed or now - self._replaced_at[index] < REPLACE_INTERVAL_S:
            return
        self._replaced_at[index] = now
        failed = self._engines[index]
        log.error("VM thread %d failed and is replaced", index)
        self._loop.remove_reader(failed.fileno())
        self._drain(failed, self._generations[index])
        failed.close()
        self._drain(failed, self._generations[index])
        self._engines[index] = self._start(index)
        self._sink.engine_replaced(lambda tenant: self._place(tenant) == index)

    def sweep(self, now: float) -> None:
        """No caller waits for a VM thread that is deaf: overdue requests end with ``timeout``."""
        limit = now - OVERDUE_GRACE_S
        overdue = [request for request, done in self._pending.items() if done.deadline < limit]
        for request in overdue:
            self._pending.pop(request)(_DEAF_BODY)

    @property
    def pending(self) -> int:
        return len(self._pending)

    def runs(self, request: int) -> bool:
        """Whether the request has no answer yet."""
        return request in self._pending

    def busy(self, tenant: int) -> bool:
        """Whether any of the tenant's requests has none. Looks at those of all tenants: not for the hot path."""
        return any(done.tenant == tenant for done in self._pending.values())

    async def let_end(self, tenant: int, patience_s: float) -> None:
        """Returns when what the tenant runs now has its answers, after *patience_s* at the latest.

        What comes meanwhile does not make this longer. Looks at the requests of all tenants: not for the hot path.
        """
        ends = []
        for request, done in self._pending.items():
            if done.tenant == tenant:
                if not isinstance(done, _Awaited):
                    done = self._pending[request] = _Awaited(done, self._loop.create_future())
                ends.append(done.ended)
        if ends:
            await asyncio.wait(ends, timeout=patience_s)

    def stats(self) -> dict[str, int]:
        """The engines' counters, added up."""
        total: dict[str, int] = {}
        for engine in self._engines:
            for name, value in engine.stats().items():
                total[name] = total.get(name, 0) + value
        return total

    async def close(self) -> None:
        """End the VM threads. What is pending ends with ``worker_lost``."""
        if self._closed:
            return
        self._closed = True
        for engine, generation in zip(self._engines, self._generations, strict=False):
            self._loop.remove_reader(engine.fileno())
            await self._loop.run_in_executor(None, engine.close)
            self._drain(engine, generation)
        lost = DispatchResult.nothing_ran(Outcome.WORKER_LOST, "the worker was closed").body
        for request in list(self._pending):
            self._pending.pop(request)(lost)
        for request in list(self._control):
            self._settle(request, WorkerLost("the worker was closed"))
