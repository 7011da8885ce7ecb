"""`StateReads`: what templates have read of their tenant's state, so that a write can be told from what others wrote.

A state that a script gets carries its revision. When the script writes the table back, the revision names what it had read;
the store lays only the difference over the state of now (`storage.statemerge`). A script that writes one table several times
has, after the first write, what it wrote as its base.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import orjson

from pytw.limits import STATE_READS_BYTES_MAX, STATE_READS_TENANT_BYTES_MAX
from pytw.types import TenantState
from pytw.worker.context.call import HostCall

#: What an entry counts for besides its data.
ENTRY_BYTES = 1_024
#: In place of a request: whatever request of the template it was.
ANY = -1
#: In place of a revision: what the request has read last.
LAST = -1
#: What a script wrote is no revision of the store: others' changes may stand beside it there.
NOT_STORED = -1


class _Key(NamedTuple):
    template: str
    request: int
    revision: int


class _Tenant:
    __slots__ = ("bytes", "states")

    def __init__(self) -> None:
        self.bytes = 0
        #: With what each counts for, least recently written first.
        self.states: OrderedDict[_Key, tuple[TenantState, int]] = OrderedDict()


class StateReads:
    """Bounded per tenant, so that no tenant forgets for another, and in all: the least recently active tenants are forgotten."""

    def __init__(
        self, *, tenant_bytes_max: int = STATE_READS_TENANT_BYTES_MAX, bytes_max: int = STATE_READS_BYTES_MAX
    ) -> None:
        self._tenant_bytes_max = tenant_bytes_max
        self._bytes_max = bytes_max
        self._tenants: OrderedDict[int, _Tenant] = OrderedDict()
        self.bytes = 0

    def note_read(self, call: HostCall, state: TenantState) -> None:
        """The caller was given *state*."""
        keys = [_Key(call.template, call.request, state.revision), _Key(call.template, call.request, LAST)]
        # A table that an earlier request of the template kept is still what that one made of it.
        if self._find(call.tenant, of_all := _Key(call.template, ANY, state.revision)) is None:
            keys.append(of_all)
        self._keep(call.tenant, keys, state)

    def note_written(self, call: HostCall, revision: int | None, wanted: TenantState) -> None:
        """The caller has written *wanted* over what it read as *revision*."""
        keys = [_Key(call.template, call.request, LAST)]
        if revision is not None:
            keys += [_Key(call.template, place, revision) for place in (call.request, ANY)]
        self._keep(call.tenant, keys, replace(wanted, revision=NOT_STORED))

    def base(self, call: HostCall, revision: int | None) -> TenantState | None:
        """What the caller starts from: what it read as *revision*; without one, what its request read last."""
        if revision is None:
            return self._find(call.tenant, _Key(call.template, call.request, LAST))
        places = (call.request, ANY)
        found = (self._find(call.tenant, _Key(call.template, place, revision)) for place in places)
        return next((state for state in found if state is not None), None)

    def _find(self, tenant: int, key: _Key) -> TenantState | None:
        held = self._tenants.get(tenant)
        entry = held.states.get(key) if held is not None else None
        return entry[0] if entry is not None else None

    def _keep(self, tenant: int, keys: Iterable[_Key], state: TenantState) -> None:
        held = self._tenants.setdefault(tenant, _Tenant())
        self._tenants.move_to_end(tenant)
        size = ENTRY_BYTES + len(orjson.dumps(dict(state.data)))
        for key in keys:
            if (old := held.states.pop(key, None)) is not None:
                self._count(held, -old[1])
            held.states[key] = state, size
            self._count(held, size)
        while held.bytes > self._tenant_bytes_max and len(held.states) > 1:
            self._count(held, -held.states.popitem(last=False)[1][1])
        while self.bytes > self._bytes_max and len(self._tenants) > 1:
            self.bytes -= self._tenants.popitem(last=False)[1].bytes

    def _count(self, held: _Tenant, size: int) -> None:
        held.bytes += size
        self.bytes += size


__all__ = ["StateReads"]
