"""The worker's side of the master's requests: Mesophyll records to calls of the `Worker`.

Handlers return at once. An event's answer goes from the VM thread's batch straight into the link's next frame.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from pytw.errors import Forbidden, ProtocolError
from pytw.limits import DRAIN_S
from pytw.mesophyll.channel import NIL, Call, Handler
from pytw.mesophyll.peer import answering
from pytw.mesophyll.records import Kind, unpack_event
from pytw.types import CreateEvent, DispatchResult
from pytw.worker.dispatch import WorkerDispatch
from pytw.worker.worker import Worker

NO_PAYLOAD = b"null"

_decode_script = msgspec.msgpack.Decoder(tuple[str, bytes, bytes | None, int]).decode
_decode_until = msgspec.msgpack.Decoder(tuple[float]).decode


class _Answer:
    """Answers a call with the body of its result, and with the request's name if it got a number."""

    __slots__ = ("call", "dispatch", "number")

    def __init__(self, dispatch: WorkerDispatch, call: Call) -> None:
        self.dispatch = dispatch
        self.call = call
        self.number = 0

    def __call__(self, body: bytes) -> None:
        if self.number and self.call.request:
            body = DispatchResult.of_request(body, self.dispatch.name(self.number)).body
        self.call.answer(body)


class WorkerServe:
    """Serves a worker to its master.

    Args:
        on_drain: runs first when the master drains this worker: stop the gateway's intake.
        drained: runs last: report the cursors.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        on_drain: Callable[[], Awaitable[None]] | None = None,
        drained: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._worker = worker
        self._on_drain = on_drain
        self._drained = drained

    def handlers(self) -> dict[Kind, Handler]:
        """What this serves, by kind of record."""
        return {
            Kind.DISPATCH: self._dispatch,
            Kind.RUN_SCRIPT: self._run_script,
            Kind.CHECK: answering(self._check),
            Kind.REFRESH: answering(self._refresh),
            Kind.DROP_TENANT: answering(self._drop_tenant),
            Kind.WHY: answering(self._why),
            Kind.QUARANTINE: self._quarantine,
            Kind.DRAIN: answering(self._drain),
        }

    def _require_mine(self, tenant: int) -> None:
        if not self._worker.filter(tenant):
            raise Forbidden(f"the tenant does not live in worker {self._worker.id}")

    def _dispatch(self, call: Call) -> None:
        self._require_mine(call.tenant)
        event, timeout_ms = unpack_event(call.body)
        dispatch = self._worker.dispatch
        answer = _Answer(dispatch, call)
        self._started(answer, dispatch.dispatch(call.tenant, event, answer, timeout_ms))

    @staticmethod
    def _started(answer: _Answer, number: int) -> None:
        if number:
            answer.number = number
            answer.call.on_cancel = partial(answer.dispatch.cancel, answer.call.tenant, number)

    def _run_script(self, call: Call) -> None:
        self._require_mine(call.tenant)
        try:
            name, source, packed, timeout_ms = _decode_script(call.body)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"the body of RUN_SCRIPT is malformed: {error}") from None
        event = unpack_event(packed)[0] if packed is not None else CreateEvent(name, NO_PAYLOAD)
        dispatch = self._worker.dispatch
        answer = _Answer(dispatch, call)
        self._started(answer, dispatch.run_script(call.tenant, name, source, event, answer, timeout_ms))

    def _quarantine(self, call: Call) -> None:
        try:
            (until,) = _decode_until(call.body)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"the body of QUARANTINE is malformed: {error}") from None
        self._worker.state.quarantine(call.tenant, until)
        call.answer(NIL)

    async def _check(self, call: Call) -> bytes:
        self._require_mine(call.tenant)
        return await self._worker.check(call.tenant, call.body)

    async def _refresh(self, call: Call) -> bytes:
        self._require_mine(call.tenant)
        await self._worker.refresh_tenant(call.tenant)
        return NIL

    async def _drop_tenant(self, call: Call) -> bytes:
        self._require_mine(call.tenant)
        await self._worker.drop_tenant(call.tenant)
        return NIL

    async def _why(self, call: Call) -> bytes:
        self._require_mine(call.tenant)
        return msgspec.msgpack.encode(self._worker.dispatch.why.of(call.tenant))

    async def _drain(self, _call: Call) -> bytes:
        if self._on_drain is not None:
            await self._on_drain()
        await self._worker.drain(DRAIN_S)
        if self._drained is not None:
            await self._drained()
        return NIL
