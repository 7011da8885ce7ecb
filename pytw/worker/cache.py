"""`WorkerCacheData`: which tenants' programs the engines hold, and what each template may do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from pytw.types import BUILTINS, EVERY_CAPABILITY
from pytw.worker.template import Template

#: Added per tenant to the length of its program: the entries here and in the engine.
ENTRY_BYTES = 512
ALL: frozenset[str] = frozenset({EVERY_CAPABILITY})
NONE: frozenset[str] = frozenset()


class WorkerCacheData:
    """The books of loaded programs, least recently used first, bounded by their bytes. Source: reference (spec 5.9).

    The engine holds the program itself; here stand its size and the capabilities of its templates.
    """

    __slots__ = ("_bytes", "_bytes_max", "loaded")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        #: Read and touched (`move_to_end`) by the hot path: tenant -> (bytes, {template: capabilities}).
        self.loaded: OrderedDict[int, tuple[int, dict[str, frozenset[str]]]] = OrderedDict()

    def put(self, tenant: int, program_bytes: int, templates: Iterable[Template]) -> list[int]:
        """Note that the tenant's program is loaded. Returns the tenants to unload for it."""
        self.forget(tenant)
        size = program_bytes + ENTRY_BYTES
        self.loaded[tenant] = size, {template.name: template.allowed_caps for template in templates}
        self._bytes += size
        out = []
        while self._bytes > self._bytes_max and len(self.loaded) > 1:
            oldest = next(iter(self.loaded))
            self.forget(oldest)
            out.append(oldest)
        return out

    def forget(self, tenant: int) -> None:
        entry = self.loaded.pop(tenant, None)
        if entry is not None:
            self._bytes -= entry[0]

    def caps(self, tenant: int, template: str) -> frozenset[str]:
        """The capabilities of a template now: none if it was deleted or paused while its code still ran."""
        entry = self.loaded.get(tenant)
        if entry is not None:
            found = entry[1].get(template)
            if found is not None:
                return found
        return ALL if template == BUILTINS else NONE

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self.loaded)
