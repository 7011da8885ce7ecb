"""`WorkerCacheData`: which tenants' programs the engines hold, and what each template may do."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytw.types import BUILTINS, EVERY_CAPABILITY
from pytw.worker.template import Template

#: How long a program stays loaded for a tenant that has no events. Its threads and timers go on without it.
PROGRAM_LIFE_S = 3_600.0
#: Added per tenant to the length of its program: the entries here and in the engine.
ENTRY_BYTES = 512
ALL: frozenset[str] = frozenset({EVERY_CAPABILITY})
NONE: frozenset[str] = frozenset()


class Loaded:
    """A program that an engine holds."""

    __slots__ = ("bytes", "caps", "used")

    def __init__(self, size: int, caps: dict[str, frozenset[str]], used: float) -> None:
        self.bytes = size
        #: By template.
        self.caps = caps
        #: When it ran last, by the clock of the cache.
        self.used = used


@dataclass(frozen=True, slots=True)
class FlushSelf:
    """The tenant's own templates are to be read again."""


@dataclass(frozen=True, slots=True)
class FlushOthers:
    """Those of other tenants are: they run what this one changed. Those of other workers are not this worker's to flush."""

    others: frozenset[int]


#: What is to be read again when a dispatch has ended.
Regeneration = FlushSelf | FlushOthers


class WorkerCacheData:
    """The books of loaded programs, least recently used first, bounded by their bytes and by `PROGRAM_LIFE_S` without use.

    The engine holds the program itself; here stand its size and the capabilities of its templates. Source: reference
    (spec 5.9), which bounds neither.
    """

    __slots__ = ("_bytes", "_bytes_max", "_clock", "_life_s", "evictions", "hits", "loaded", "misses", "regenerations")

    def __init__(
        self, bytes_max: int, life_s: float = PROGRAM_LIFE_S, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bytes_max = bytes_max
        self._life_s = life_s
        self._clock = clock
        self._bytes = 0
        #: Read by the hot path, which also says when one is used (`use`): by tenant.
        self.loaded: OrderedDict[int, Loaded] = OrderedDict()
        #: By tenant, by the request that asked for it: nothing that is asked for takes the place of what was before.
        self.regenerations: dict[int, dict[int, set[Regeneration]]] = {}
        #: Events that found their tenant's program loaded, and those that did not.
        self.hits = 0
        self.misses = 0
        #: Programs that were unloaded for others, or because their life was over.
        self.evictions = 0

    def use(self, tenant: int, now: float) -> bool:
        """Whether the tenant's program is loaded; an event is about to use it."""
        program = self.loaded.get(tenant)
        if program is None:
            self.misses += 1
            return False
        self.hits += 1
        program.used = now
        self.loaded.move_to_end(tenant)
        return True

    def put(self, tenant: int, program_bytes: int, templates: Iterable[Template]) -> list[int]:
        """Note that the tenant's program is loaded. Returns the tenants to unload for it."""
        self.forget(tenant)
        size = program_bytes + ENTRY_BYTES
        caps = {template.name: template.allowed_caps for template in templates}
        self.loaded[tenant] = Loaded(size, caps, self._clock())
        self._bytes += size
        out = []
        while self._bytes > self._bytes_max and len(self.loaded) > 1:
            oldest = next(iter(self.loaded))
            self.forget(oldest)
            out.append(oldest)
        self.evictions += len(out)
        return out

    def expire(self) -> list[int]:
        """Forget what was not used for its life. Returns the tenants to unload."""
        out = []
        before = self._clock() - self._life_s
        while self.loaded and next(iter(self.loaded.values())).used < before:
            tenant = next(iter(self.loaded))
            self.forget(tenant)
            out.append(tenant)
        self.evictions += len(out)
        return out

    def defer(self, tenant: int, request: int, wanted: Regeneration) -> None:
        """Have it done when the tenant's *request* has ended."""
        self.regenerations.setdefault(tenant, {}).setdefault(request, set()).add(wanted)

    def due(self, tenant: int, request: int) -> set[Regeneration]:
        """The request has ended: what it asked for, which is not deferred any more."""
        waiting = self.regenerations.get(tenant, {})
        found = waiting.pop(request, set())
        if not waiting:
            self.regenerations.pop(tenant, None)
        return found

    def forget(self, tenant: int) -> None:
        entry = self.loaded.pop(tenant, None)
        if entry is not None:
            self._bytes -= entry.bytes

    def caps(self, tenant: int, template: str) -> frozenset[str]:
        """The capabilities of a template now: none if it was deleted or paused while its code still ran."""
        entry = self.loaded.get(tenant)
        if entry is not None:
            found = entry.caps.get(template)
            if found is not None:
                return found
        return ALL if template == BUILTINS else NONE

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self.loaded)
