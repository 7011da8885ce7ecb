"""Templates that never end, on the one VM thread that a quiet guild has too."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.server import Server, serving

QUIET = 8 << 22
NOISY = [(9 + i) << 22 for i in range(10)]
LOOP = "while true do end"
CAUGHT = "while true do pcall(function() while true do end end) end"
COMPARATOR = "while true do table.sort({ 3, 1, 2 }, function() while true do end end) end"
#: The issue promises 10 ms (150 ms with comparators) from the worker itself; here HTTP and a busy machine come on top.
P99_S = 0.25
P99_COMPARATOR_S = 0.5
QUIET_EVENTS = 150
#: Buckets that are empty soon, and stay so while ten guilds share the thread.
SOON_EMPTY = {"TW_LIMITS_CPU_BUCKET_MS": "200", "TW_LIMITS_CPU_REFILL_PERCENT": "1"}
EVERY_S = 0.1


@contextmanager
def firing(server: Server, guilds: list[int]) -> Iterator[Counter[str]]:
    """Each guild gets ten events a second, whether or not those before have ended; counts their outcomes."""
    outcomes: Counter[str] = Counter()
    stopping = threading.Event()
    callers: list[threading.Thread] = []

    def call(guild: int) -> None:
        outcomes[server.event(guild)[1]["outcome"]] += 1

    def fire() -> None:
        # At once: the quiet guild's events may all be answered within the first pause.
        while True:
            for guild in guilds:
                callers.append(threading.Thread(target=call, args=(guild,)))
                callers[-1].start()
            if stopping.wait(EVERY_S):
                return

    firing = threading.Thread(target=fire)
    firing.start()
    try:
        yield outcomes
    finally:
        stopping.set()
        firing.join()
        for caller in callers:
            caller.join(30)


@pytest.mark.parametrize(
    ("sources", "guilds", "p99_s"),
    [
        pytest.param([LOOP], 1, P99_S, id="one loop"),
        pytest.param([LOOP, CAUGHT], 10, P99_S, id="ten guilds, half of them catch errors"),
        pytest.param([COMPARATOR], 2, P99_COMPARATOR_S, id="comparators"),
    ],
)
def test_quiet_guild_is_served_and_the_noisy_ones_exceed_their_limit(
    sources: list[str], guilds: int, p99_s: float
) -> None:
    topology = ["--worker-type", "processpool", "--process-workers", "1", "--tokio-threads-worker", "1"]
    with serving(*topology, env=SOON_EMPTY) as server:
        server.put(QUIET, "quiet", "return { MESSAGE = function() return 'ok' end }\n")
        noisy = NOISY[:guilds]
        for number, guild in enumerate(noisy):
            source = sources[number % len(sources)]
            server.put(guild, "noisy", f"return {{ MESSAGE = function() {source} end }}\n")
        assert "ok" in str(server.event(QUIET))
        took = []
        with firing(server, noisy) as outcomes:
            for _ in range(QUIET_EVENTS):
                began = time.perf_counter()
                status, body = server.event(QUIET)
                took.append(time.perf_counter() - began)
                assert status == 200
                assert "ok" in str(body)
        assert sorted(took)[len(took) * 99 // 100] < p99_s
        assert set(outcomes) == {"limit_exceeded"}
        # The bucket is empty still: the next event does not run either.
        for guild in noisy:
            assert server.event(guild)[1]["outcome"] == "limit_exceeded"
