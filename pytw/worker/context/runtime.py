"""``ctx.Runtime``: the tenant's own state. Source: reference `RuntimeExecutor` (spec luau-api 4.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgpack

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import TENANT_EVENTS_MAX
from pytw.types import TenantState, WorkerDb
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Handler, Need, Operation


class Runtime:
    """``runtime.*``. *changed* makes the gate see a new state before the call returns."""

    def __init__(self, db: WorkerDb, changed: Callable[[int], Awaitable[None]]) -> None:
        self._db = db
        self._changed = changed

    def operations(self) -> dict[str, Operation]:
        return _operations({"gettenantstate": self.gettenantstate, "settenantstate": self.settenantstate})

    async def gettenantstate(self, call: HostCall) -> bytes:
        state = await self._db.tenant_state(call.tenant)
        return bytes(
            msgpack.packb([{"events": sorted(state.events), "banned": state.banned, "data": dict(state.data)}])
        )

    async def settenantstate(self, call: HostCall) -> bytes:
        wanted = call.table(0, "the state")
        events = wanted.get("events")
        if events == {}:
            events = []
        if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
            raise RequestError("events must be an array of strings")
        if len(events) > TENANT_EVENTS_MAX:
            raise LimitExceeded(f"events may be at most {TENANT_EVENTS_MAX} long")
        data = wanted.get("data")
        if data == []:
            data = {}
        if not isinstance(data, dict):
            raise RequestError("data must be a table")
        await self._db.set_tenant_state(call.tenant, TenantState(frozenset(events), data))
        await self._changed(call.tenant)
        return b"\x90"


def _operations(actions: dict[str, Handler]) -> dict[str, Operation]:
    def operation(action: str, handler: Handler) -> Operation:
        need = Need(
            ("runtime:*", f"runtime:{action}"), f"runtime operation `{action}` not allowed in this template context"
        )
        return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("runtime", action))

    return {f"runtime.{action}": operation(action, handler) for action, handler in actions.items()}
