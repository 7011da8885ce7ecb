"""`VMContext`: the one boundary that every host call crosses: capability, deadline, size, answer.

Each call is one task, and the engine bounds how many a tenant has in flight, so a tenant that asks a lot waits for
itself. What a handler raises as a `PytwError` is raised in the script, with the error's words; anything else is a bug
of ours, logged here, of which the script learns only that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from pytw.errors import Overloaded, PytwError, RequestError
from pytw.limits import VALUE_BYTES_MAX
from pytw.worker.context.call import Handler, HostCall
from pytw.worker.vms import SCRIPT_BIT, WorkerVmManager

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 30.0
CALLS_MAX = 4_096
EVERYTHING = frozenset({"*"})

#: The capabilities of a tenant's template, loading its program if need be.
CapsOf = Callable[[int, str], Awaitable[frozenset[str]]]


class VMContext:
    """Answers host calls by name. Source: reference `VMContext` (spec 5.7), enforced per operation and per template."""

    def __init__(self, vms: WorkerVmManager, caps_of: CapsOf, handlers: Mapping[str, Handler]) -> None:
        self._vms = vms
        self._caps_of = caps_of
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()
        #: Calls by name of the handler.
        self.calls: Counter[str] = Counter()

    def host_call(self, tenant: int, call: int, payload: bytes) -> None:
        """Start answering a call. Never blocks; the engine gets exactly one answer."""
        if len(self._tasks) >= CALLS_MAX:
            self._vms.answer_error(tenant, call, "too many host calls in this worker, try again")
            return
        task = asyncio.get_running_loop().create_task(self._answer(tenant, call, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, tenant: int, call: int, payload: bytes) -> None:
        name = "?"
        try:
            request = HostCall(tenant, payload)
            name = request.name
            answer = await self._run(request)
        except PytwError as error:
            self._vms.answer_error(tenant, call, error.detail)
        except TimeoutError:
            self._vms.answer_error(tenant, call, f"{name} did not end within {CALL_TIMEOUT_S:g} s")
        except asyncio.CancelledError:
            self._vms.answer_error(tenant, call, "the worker is closing")
            raise
        except Exception:
            log.exception("host call %s failed", name, extra={"tenant": tenant})
            self._vms.answer_error(tenant, call, f"internal error in {name}")
        else:
            self._vms.answer(tenant, call, answer)

    async def _run(self, call: HostCall) -> bytes:
        handler = self._handlers.get(call.name)
        if handler is None:
            raise RequestError(f"host call {call.name!r} does not exist")
        self.calls[call.name] += 1
        async with asyncio.timeout(CALL_TIMEOUT_S):
            call.caps = EVERYTHING if call.request & SCRIPT_BIT else await self._caps_of(call.tenant, call.template)
            answer = await handler(call)
        if len(answer) > VALUE_BYTES_MAX:
            raise Overloaded(f"the answer of {call.name} is longer than {VALUE_BYTES_MAX} bytes")
        return answer

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """Give up the calls in flight; the scripts that made them get an error."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
