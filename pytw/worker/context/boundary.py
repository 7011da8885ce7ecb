"""`VMContext`: the one boundary that every host call crosses: capability, rate, deadline, size, answer.

Each call is one task, and the engine bounds how many a tenant has in flight, so a tenant that asks a lot waits for
itself. What a handler raises as a `PytwError` is raised in the script, with the error's words; anything else is a bug
of ours, logged here, of which the script learns only that.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from pytw.errors import DeadlineExceeded, Overloaded, PytwError, RequestError
from pytw.worker.cache import ALL
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Operation
from pytw.worker.context.rates import RateLimits
from pytw.worker.scrub import Scrubber
from pytw.worker.vms import SCRIPT_BIT, WorkerVmManager

log = logging.getLogger(__name__)

CALLS_MAX = 4_096
#: A traceback is not cut; a longer one has seen a cut text.
TRACEBACK_BYTES_MAX = 65_536

#: Hears how a call ended: the call, the seconds it took, and its results as msgpack or its error.
OnCall = Callable[[HostCall, float, bytes | PytwError], None]
#: The capabilities of a tenant's template, loading its program if need be.
CapsOf = Callable[[int, str], Awaitable[frozenset[str]]]


class VMContext:
    """Answers host calls by name. Source: reference `VMContext` (spec 5.7), enforced per operation and per template."""

    def __init__(
        self,
        vms: WorkerVmManager,
        caps_of: CapsOf,
        rates: RateLimits,
        operations: Mapping[str, Operation],
        on_call: OnCall | None = None,
        *,
        scrubber: Scrubber | None = None,
    ) -> None:
        self._vms = vms
        self._caps_of = caps_of
        self._rates = rates
        self._operations = operations
        self._on_call = on_call
        self._scrubber = scrubber or Scrubber(TRACEBACK_BYTES_MAX)
        #: Calls in flight, and whose they are.
        self._tasks: dict[asyncio.Task[None], int] = {}
        #: Calls by name.
        self.calls: Counter[str] = Counter()

    def host_call(self, tenant: int, call: int, payload: bytes) -> None:
        """Start answering a call. Never blocks; the engine gets exactly one answer."""
        if len(self._tasks) >= CALLS_MAX:
            self._vms.answer_error(tenant, call, "too many host calls in this worker, try again")
            return
        task = asyncio.get_running_loop().create_task(self._answer(tenant, call, payload))
        self._tasks[task] = tenant
        task.add_done_callback(self._tasks.pop)

    async def _answer(self, tenant: int, call: int, payload: bytes) -> None:
        name = "?"
        try:
            request = HostCall(tenant, payload)
            name = request.name
            answer = await (self._run(request) if self._on_call is None else self._observed(request, self._on_call))
        except PytwError as error:
            self._vms.answer_error(tenant, call, error.detail)
        except asyncio.CancelledError:
            self._vms.answer_error(tenant, call, "the worker is closing")
            raise
        except Exception:  # noqa: BLE001 - told in full, but for secrets
            said = self._scrubber.text(tenant, traceback.format_exc())
            log.error("host call %s failed: %s", name, said, extra={"tenant": tenant})
            self._vms.answer_error(tenant, call, f"internal error in {name}")
        else:
            self._vms.answer(tenant, call, answer)

    async def _observed(self, call: HostCall, on_call: OnCall) -> bytes:
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            answer = await self._run(call)
        except PytwError as error:
            on_call(call, clock() - start, error)
            raise
        on_call(call, clock() - start, answer)
        return answer

    async def _run(self, call: HostCall) -> bytes:
        operation = self._operations.get(call.name)
        if operation is None:
            raise RequestError(f"host call {call.name!r} does not exist")
        self.calls[call.name] += 1
        try:
            async with asyncio.timeout(operation.timeout_s):
                call.caps = ALL if call.request & SCRIPT_BIT else await self._caps_of(call.tenant, call.template)
                operation.admit(call)
                if operation.bucket is not None:
                    self._rates.spend(call.tenant, *operation.bucket)
                answer = await operation.handler(call)
        except TimeoutError:
            raise DeadlineExceeded(f"{call.name} did not end within {operation.timeout_s:g} s") from None
        if len(answer) > operation.answer_bytes_max:
            raise Overloaded(f"the answer of {call.name} is longer than {operation.answer_bytes_max} bytes")
        return answer

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def give_up(self, tenant: int) -> None:
        """Let the tenant's calls do no more than they have done."""
        for task in [task for task, caller in self._tasks.items() if caller == tenant]:
            task.cancel()

    async def close(self) -> None:
        """Give up the calls in flight; the scripts that made them get an error."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
