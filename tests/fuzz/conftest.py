"""How long the fuzzers run, from which seed, and where they put what they find.

A run of the tests gives each fuzzer a moment and a fixed seed; with ``PYTW_FUZZ_SECONDS`` each runs so long, with a seed of its
own (``PYTW_FUZZ_SEED`` repeats one).
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.conftest import Driver, make

FINDINGS = Path(__file__).parent / "findings"
SECONDS = float(os.environ.get("PYTW_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("PYTW_FUZZ_SEED", "0") or 0) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)


class Budget:
    """Rounds until the time is over; at least one."""

    def __init__(self, name: str, ci_seconds: float) -> None:
        self.name = name
        self.seconds = SECONDS or ci_seconds
        self.rounds = 0
        self.start = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self.start > self.seconds

    def rounds_of_seeds(self) -> Iterator[int]:
        """A seed per round, all of which follow from one."""
        source = random.Random(SEED)
        while self.rounds == 0 or not self.over:
            self.rounds += 1
            yield source.getrandbits(48)

    def summary(self) -> None:
        print(f"\nfuzz {self.name}: {self.rounds} rounds in {time.monotonic() - self.start:.0f} s, seed {SEED}")  # noqa: T201


def keep(name: str, seed: int, text: str) -> str:
    """Writes down what was found; gives the place."""
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{re.sub(r'[^a-z0-9]+', '-', name)}-{seed}.txt"
    path.write_text(text)
    return str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long runs last as long as they were told to."""
    if SECONDS:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.timeout(SECONDS * 3 + 120))


__all__ = ["FINDINGS", "SECONDS", "SEED", "Budget", "Driver", "keep", "make"]
