"""Ten thousand tenants with the built-in tree in one engine: a process of its own, so that its memory is theirs.

Prints what was found, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack
from driver import MESSAGE, Driver
from payload import message_create

BUILTINS = Path(__file__).parents[1] / "pytw" / "builtins"
TENANTS = 10_000
#: Submitted at once.
BATCH = 500
IDLE_S = 15
AGAIN = 200
#: The neighbour, which is never idle.
NEIGHBOUR = 1


@dataclass
class Found:
    """Figures in bytes and seconds."""

    vms: int
    resident_bytes: int
    counted_bytes: int
    evicted_bytes: int
    neighbour_s: float
    again_p50_s: float
    again_p99_s: float


def builtins() -> dict[str, str]:
    """The embedded tree, as `Engine` takes it."""
    return {str(file.relative_to(BUILTINS)): file.read_text() for file in BUILTINS.rglob("*.luau")}


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure() -> Found:
    """Makes them, waits for their eviction, and sends some of them another event."""
    driver = Driver(
        builtins=msgpack.packb(builtins()),
        builtins_events=[MESSAGE],
        memory_budget_bytes=3 << 30,
        idle_evict_ms=IDLE_S * 1_000,
    )
    payload = message_create(1)

    def event(tenant: int) -> float:
        start = time.perf_counter()
        driver.run(tenant, payload)
        return time.perf_counter() - start

    event(NEIGHBOUR)
    for first in range(NEIGHBOUR + 1, NEIGHBOUR + TENANTS, BATCH):
        for tenant in range(first, min(first + BATCH, NEIGHBOUR + TENANTS)):
            driver.submit(tenant, payload)
        driver.collect(min(BATCH, NEIGHBOUR + TENANTS - first))
        driver.results.clear()
    stats = driver.engine.stats()
    vms, counted_bytes, resident_bytes = stats["vms"], stats["bytes"], rss_bytes()
    neighbour_s, quiet_at = 0.0, None
    while quiet_at is None or time.perf_counter() < quiet_at:
        neighbour_s = max(neighbour_s, event(NEIGHBOUR))
        time.sleep(0.002)
        stats = driver.engine.stats()
        if quiet_at is None and stats["vms"] == 1 and stats["closing"] == 0:
            # What they held goes back to the system a moment later.
            quiet_at = time.perf_counter() + 1.0
    evicted_bytes = rss_bytes()
    again = sorted(event(tenant) for tenant in range(NEIGHBOUR + 1, NEIGHBOUR + 1 + AGAIN))
    driver.engine.close()
    return Found(
        vms, resident_bytes, counted_bytes, evicted_bytes, neighbour_s, again[AGAIN // 2], again[AGAIN * 99 // 100]
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure())))
