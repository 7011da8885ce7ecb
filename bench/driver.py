"""One native engine driven by hand, without a worker around it."""

from __future__ import annotations

import itertools
import os
import select
from pathlib import Path

import msgpack

from pytw import _native

MESSAGE = "MESSAGE"


def program(*sources: str, events: tuple[str, ...] = (MESSAGE,)) -> bytes:
    """`Engine.set_program`'s argument: one template per source."""
    return bytes(
        msgpack.packb([[f"t{i}", "init", {"init.luau": s}, list(events), ["*"]] for i, s in enumerate(sources)])
    )


def handler(body: str) -> str:
    """A template whose MESSAGE handler is *body*."""
    return f"return {{ MESSAGE = function(ctx) {body} end }}"


class Driver:
    """Submits and collects; results by request id."""

    def __init__(self, **options: object) -> None:
        settings: dict[str, object] = {"cpu_bucket_ms": 600_000, "cpu_refill_percent": 100, "queue_events_max": 100_000}
        self.engine = _native.Engine(**(settings | options))  # type: ignore[arg-type]
        self.ids = itertools.count(1)
        self.results: dict[int, bytes] = {}

    def submit(self, tenant: int, payload: bytes) -> int:
        request = next(self.ids)
        self.engine.submit_event(tenant, request, MESSAGE, payload)
        return request

    def collect(self, count: int) -> None:
        """Wait until *count* more results are in."""
        target = len(self.results) + count
        while len(self.results) < target:
            select.select([self.engine.fileno()], [], [], 10)
            for kind, _tenant, number, payload in self.engine.drain():
                if kind in (_native.RESULT, _native.FAILED):
                    self.results[number] = payload

    def run(self, tenant: int, payload: bytes) -> bytes:
        request = self.submit(tenant, payload)
        self.collect(1)
        return self.results.pop(request)


def vm_thread_cpu() -> float:
    """CPU seconds that this process's VM threads have used."""
    used = 0
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("tw-vm"):
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


def private_bytes() -> int:
    """Private memory of this process."""
    rollup = Path(f"/proc/{os.getpid()}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )
