"""Tenant -> worker -> VM thread. Nothing else routes (DESIGN 1).

The 22 low bits of a snowflake are a counter and machine ids; above them is the millisecond of its creation, which
spreads tenants evenly. Guilds and users take the same way: the user bit of a tenant's key plays no part.
"""

from __future__ import annotations

from pytw.types import ID_MAX

#: Bits of a snowflake below its milliseconds.
TIME_SHIFT = 22


def worker_of(tenant: int, workers: int) -> int:
    """The worker, of *workers*, that owns the tenant of this 64-bit key."""
    return ((tenant & ID_MAX) >> TIME_SHIFT) % workers


def owns_part(worker_id: int, workers: int, place: int, places: int) -> bool:
    """Whether place *place* of *places* holds tenants of that worker alone: all that it owns, or an equal part of it."""
    return 0 <= place < places and places % workers == 0 and place % workers == worker_id


def vm_thread_of(tenant: int, workers: int, threads: int) -> int:
    """The VM thread, of *threads* in its worker, that runs the tenant."""
    return ((tenant & ID_MAX) >> TIME_SHIFT) // workers % threads
