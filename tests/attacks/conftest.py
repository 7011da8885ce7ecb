"""An attack, a neighbour on the same VM thread, and what must hold of both meanwhile and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from pytw.types import Outcome
from tests.native.conftest import Done, Driver, Failed, make

ATTACKER, NEIGHBOUR = 1, 2
CANARY = (
    "return function(ctx) local d = ctx:event().data local n = 0 for _, v in d.list do n += v end return d.id .. n end"
)
#: What the bucket of a tenant holds in these tests, and what a stop may take longer than that.
BUCKET_MS = 200
SLACK_MS = 50
#: The longest that a neighbour's event may take: one stretch that cannot be preempted, and the machine's own noise.
NEIGHBOUR_S = 0.2


class Case(NamedTuple):
    """One attack: how it may end, by limit name, ``error`` or ``ok``; and the value if it ends well."""

    source: str
    ends: set[str]
    value: object = None


class Seen(NamedTuple):
    done: Done | Failed
    latencies: list[float]


def ending(done: Done | Failed) -> str:
    """The limit that ended it, ``error``, ``ok`` or the outcome's name."""
    if isinstance(done, Failed):
        return done.code
    if done.limit:
        return done.limit
    return {Outcome.OK: "ok", Outcome.SCRIPT_ERROR: "error"}.get(done.outcome, done.outcome.name.lower())


class Arena(Driver):
    """A driver with a neighbour."""

    def __init__(self, **options: object) -> None:
        self.bucket_ms = int(options.get("cpu_bucket_ms", BUCKET_MS))  # type: ignore[call-overload]
        settings = {"cpu_bucket_ms": BUCKET_MS, "cpu_refill_percent": 10, "unbreakable_ms": 50}
        super().__init__(**{**settings, **options})
        self.load(("canary", CANARY), tenant=NEIGHBOUR)
        self.turns = 0
        self.sing()

    def sing(self) -> float:
        """One event of the neighbour, which must get the right answer; gives its latency."""
        self.turns += 1
        start = time.perf_counter()
        number = self.event(b'{"id":"%d","list":[1,2,3]}' % self.turns, tenant=NEIGHBOUR)
        answer = self.done(number)
        assert answer.value == f"{self.turns}6", answer
        return time.perf_counter() - start

    def watch(self, number: int, seconds: float = 20.0) -> Seen:
        """Waits for a request while the neighbour has one event after the other."""
        latencies = [self.sing()]
        end = time.monotonic() + seconds
        while number not in self.answers:
            assert time.monotonic() < end, "the attack does not end"
            latencies.append(self.sing())
            self.pump(0.001)
        latencies.append(self.sing())
        return Seen(self.answers.pop(number), latencies)

    def recovers(self, tenant: int = ATTACKER) -> None:
        """The tenant's next trivial event succeeds, once it has CPU time again."""
        self.until(lambda: ending(self.wait(self.script("return 1 + 1", tenant=tenant))) == "ok")

    def stand(self, case: Case) -> Seen:
        """The whole of what is asked of a case."""
        seen = self.watch(self.script(case.source, tenant=ATTACKER))
        assert ending(seen.done) in case.ends, seen.done
        if case.value is not None:
            assert isinstance(seen.done, Done)
            assert seen.done.value == case.value, seen.done
        if isinstance(seen.done, Done):
            assert seen.done.cpu_us <= (self.bucket_ms + SLACK_MS) * 1_000, seen.done
        assert max(seen.latencies) <= NEIGHBOUR_S, sorted(seen.latencies)[-5:]
        self.recovers()
        self.sing()
        return seen


@pytest.fixture
def arena() -> Iterator[Callable[..., Arena]]:
    """Makes arenas that are closed after the test."""
    made: list[Arena] = []

    def one(**options: object) -> Arena:
        made.append(Arena(**options))
        return made[-1]

    yield one
    for each in made:
        each.engine.close()


def stands(case: Case, **options: object) -> None:
    """The best of three attempts, each with an engine of its own."""
    for attempt in range(3):
        arena = Arena(**options)
        try:
            arena.stand(case)
            return
        except AssertionError:
            if attempt == 2:
                raise
        finally:
            arena.engine.close()


__all__ = ["ATTACKER", "NEIGHBOUR", "Arena", "Case", "arena", "ending", "make", "stands"]
