"""Runs programs in a process of its own: reads a seed per line, writes a verdict per line."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from tests.native.conftest import Driver, Failed, program

from .programs import Author

BUCKET_MS = 100
MEMORY = 8 << 20
TIMEOUT_MS = 400
CANARY = "return function(ctx) local d = ctx:event().data return d.id .. #d.list end"


def resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


class Cage:
    def __init__(self) -> None:
        self.driver = Driver(
            vm_memory_bytes=MEMORY,
            cpu_bucket_ms=BUCKET_MS,
            cpu_refill_percent=100,
            log_bytes_per_s=2_000,
            threads_max=200,
            timers_max=100,
        )
        self.driver.engine.set_program(2, program(("canary", CANARY)))
        self.turns = 0
        self.sing()
        self.before = resident()

    def sing(self) -> float:
        self.turns += 1
        start = time.monotonic()
        done = self.driver.done(self.driver.event(b'{"id":"%d","list":[1,2]}' % self.turns, tenant=2))
        assert done.value == f"{self.turns}2", f"the neighbour got {done}"
        return time.monotonic() - start

    def judge(self, seed: int) -> str:
        """What is wrong with the run of a program, if anything."""
        d, start, slowest = self.driver, time.monotonic(), 0.0
        number = d.script(Author(seed).write(), timeout_ms=TIMEOUT_MS)
        while number not in d.answers:
            slowest = max(slowest, self.sing())
            d.pump(0.001)
            if time.monotonic() - start > TIMEOUT_MS / 1_000 + 2:
                return "it does not end"
        done = d.answers.pop(number)
        if isinstance(done, Failed):
            return f"the engine failed: {done}"
        if done.cpu_us > (BUCKET_MS + 60) * 1_000 + done.wall_us // 5:
            return f"slow: {done.cpu_us} us of CPU time"
        if slowest > 0.25:
            return f"slow: the neighbour waited {slowest:.3f} s"
        d.wait(d.drop())
        d.calls.clear()
        d.logs.clear()
        d.answers.clear()
        self.sing()
        if resident() - self.before > MEMORY + (64 << 20):
            d.until(lambda: d.engine.stats()["closing"] == 0)
            if resident() - self.before > MEMORY + (64 << 20):
                return f"{(resident() - self.before) >> 20} MiB more are in use"
        return ""


def main() -> None:
    cage = Cage()
    for line in sys.stdin:
        try:
            verdict = cage.judge(int(line))
        except AssertionError as e:
            verdict = f"the neighbour: {e}"
        print(verdict or "fine", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
