"""``ctx.Runtime``: the tenant's own state, and what is known of the bot. Source: reference `RuntimeExecutor` (spec luau-api 4.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgpack

from pytw.errors import Conflict, LimitExceeded, RequestError
from pytw.eventnames import EVENT_LIST
from pytw.limits import TENANT_EVENT_BYTES_MAX, TENANT_EVENTS_MAX
from pytw.types import TenantState
from pytw.worker.context import answers
from pytw.worker.context.botstats import BotStats
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.worker.context.statereads import StateReads
from pytw.workerdb import WorkerDb


def runtime_info(links: Mapping[str, str]) -> bytes:
    """What an engine answers by itself, since `links` and `eventlist` do not wait: msgpack ``{links, events}``."""
    return bytes(msgpack.packb({"links": dict(links), "events": list(EVENT_LIST)}))


class Runtime:
    """``runtime.*``, without what `runtime_info` tells. *changed* makes the gate see a new state before the call returns."""

    def __init__(self, db: WorkerDb, changed: Callable[[int], Awaitable[None]], stats: BotStats) -> None:
        self._db = db
        self._changed = changed
        self._stats = stats
        self._reads = StateReads()

    def operations(self) -> dict[str, Operation]:
        return _operations(
            {
                "gettenantstate": self.gettenantstate,
                "settenantstate": self.settenantstate,
                "stats": self.stats,
            }
        )

    async def gettenantstate(self, call: HostCall) -> bytes:
        state = await self._db.tenant_state(call.tenant)
        self._reads.note_read(call, state)
        return answers.one(
            {
                "events": sorted(state.events),
                "banned": state.banned,
                "data": answers.json(dict(state.data)),
                "revision": state.revision,
            }
        )

    async def settenantstate(self, call: HostCall) -> bytes:
        wanted = call.table(0, "the state")
        state = TenantState(_events(wanted.get("events")), _data(wanted.get("data")))
        revision = _revision(wanted.get("revision"))
        await self._db.update_tenant_state(call.tenant, await self._base(call, revision), state)
        self._reads.note_written(call, revision, state)
        await self._changed(call.tenant)
        return answers.NOTHING

    async def _base(self, call: HostCall, revision: int | None) -> TenantState | None:
        """What the caller has read before; None if it has read nothing. Raises: Conflict: that is not known any more."""
        base = self._reads.base(call, revision)
        if base is None and revision is not None:
            base = await self._db.tenant_state(call.tenant)
            if base.revision != revision:
                raise Conflict(
                    f"the state has been changed since this table was read (revision {revision}, now {base.revision}): "
                    "read it again with gettenantstate and change that"
                )
        return base

    async def stats(self, _call: HostCall) -> bytes:
        return answers.one_read_only(await self._stats.read())


def _events(events: Any) -> frozenset[str]:
    if events == {}:
        events = []
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise RequestError('events must be an array of event names, such as {"MESSAGE", "OnStartup"}, or {} for none')
    if len(events) > TENANT_EVENTS_MAX:
        raise LimitExceeded(f"events may be at most {TENANT_EVENTS_MAX} long ({len(events)} given)")
    for event in events:
        if not event or not event.isprintable() or len(event.encode()) > TENANT_EVENT_BYTES_MAX:
            raise RequestError(
                f"{event[:40]!r} is no event name: 1 to {TENANT_EVENT_BYTES_MAX} bytes of printable text"
            )
    return frozenset(events)


def _data(data: Any) -> dict[str, Any]:
    if data is None:
        raise RequestError("data must be a table: {} for none, or what gettenantstate gave to keep it")
    if data == []:
        return {}
    if not isinstance(data, dict):
        raise RequestError("data must be a table with text for keys")
    return data


def _revision(revision: Any) -> int | None:
    if revision is None:
        return None
    if isinstance(revision, float) and revision.is_integer():
        revision = int(revision)
    if not isinstance(revision, int) or isinstance(revision, bool):
        raise RequestError("revision must be the number that gettenantstate gave")
    return revision


def _operations(actions: dict[str, Handler]) -> dict[str, Operation]:
    def operation(action: str, handler: Handler) -> Operation:
        need = Need(
            ("runtime:*", f"runtime:{action}"), f"runtime operation `{action}` not allowed in this template context"
        )
        return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("runtime", action))

    return {f"runtime.{action}": operation(action, handler) for action, handler in actions.items()}
