"""Who was running when a worker died, and what follows for them.

Each VM thread writes tenant and request into a 16-byte slot of memory that the supervisor holds too, so that whatever
ends a process leaves names. Being named once may be bad luck (a neighbour's fault, the machine); a tenant named twice is
quarantined, for 10 s and then twice as long each time it is named again, up to 300 s. An hour of good behaviour clears it.

A kill from outside (an operator's signal) names nobody: the running tenant did nothing. SIGKILL counts only if we
sent it to a deaf worker, or the kernel ran out of memory meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytw import limits

SLOT_BYTES = 16
TENANTS_MAX = 10_000
FORGET_AFTER_S = 3_600.0
NAMED_BEFORE_QUARANTINE = 2
_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


def read_slots(fd: int, slots: int) -> list[tuple[int, int]]:
    """``(tenant, request)`` of each VM thread that was running a tenant's code."""
    data = os.pread(fd, slots * SLOT_BYTES, 0)
    whole = len(data) // SLOT_BYTES * SLOT_BYTES
    return [(tenant, request) for tenant, request in struct.iter_unpack("<QQ", data[:whole]) if tenant]


def create_slots(slots: int) -> int:
    """Shared memory for *slots* VM threads of one worker, which can neither grow nor shrink it."""
    fd = os.memfd_create("pytw-blame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, slots * SLOT_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def oom_kills() -> int:
    """How often this machine's kernel has ended a process for want of memory; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def is_tenants_fault(status: int | None, *, deaf: bool, out_of_memory: bool) -> bool:
    """Whether an exit status may be the doing of the code that ran. None: nobody knows how it ended."""
    if deaf or out_of_memory:
        return True
    return status is not None and status not in _OUTSIDE and status != 0


@dataclass(slots=True)
class _File:
    named: int
    last_at: float
    told: bool = False


@dataclass(slots=True, frozen=True)
class Quarantine:
    """A tenant's quarantine: events get outcome ``quarantined`` for *seconds* from now."""

    tenant: int
    seconds: float
    named: int
    first: bool


class Blame:
    """Counts who was named, and says who is quarantined."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._files: OrderedDict[int, _File] = OrderedDict()

    def named(self, tenants: Iterable[int]) -> list[Quarantine]:
        """A worker died, or was deaf, while *tenants* ran. Returns the quarantines that this brings."""
        return [q for tenant in dict.fromkeys(tenants) if (q := self._name(tenant)) is not None]

    def _name(self, tenant: int) -> Quarantine | None:
        now = self._clock()
        file = self._files.get(tenant)
        if file is None or now - file.last_at > FORGET_AFTER_S:
            file = self._files[tenant] = _File(0, now)
        self._files.move_to_end(tenant)
        if len(self._files) > TENANTS_MAX:
            self._files.popitem(last=False)
        file.named += 1
        file.last_at = now
        if file.named < NAMED_BEFORE_QUARANTINE:
            return None
        doublings = file.named - NAMED_BEFORE_QUARANTINE
        seconds = min(limits.QUARANTINE_FIRST_S * 2 ** min(doublings, 16), limits.QUARANTINE_MAX_S)
        first, file.told = not file.told, True
        return Quarantine(tenant, seconds, file.named, first)
