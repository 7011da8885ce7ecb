"""What moving bytes costs beside `orjson.loads`: gateway intake and Mesophyll framing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
from conftest import Report
from payload import message_create, message_frame
from pytest_benchmark.fixture import BenchmarkFixture

from pytw.mesophyll import _framing
from pytw.routing import peek

FRAMES = [message_frame(i) for i in range(64)]


def cpu_seconds(step: Callable[[], Any], count: int) -> float:
    """Best CPU time of one of the *count* things that *step* does."""
    best = float("inf")
    for _ in range(20):
        start = time.thread_time()
        step()
        best = min(best, (time.thread_time() - start) / count)
    return best


def test_intake_of_an_event_nobody_listens_for(benchmark: BenchmarkFixture, report: Report) -> None:
    """intake.unheard[message_create]: peek and the gate, no copy."""
    heard: frozenset[str] = frozenset({"INTERACTION_CREATE"})
    gates: dict[int, frozenset[str]] = {}

    def intake() -> None:
        for frame in FRAMES:
            seen = peek(frame)
            assert seen.t not in gates.get(seen.tenant, heard)

    def parse() -> None:
        for frame in FRAMES:
            orjson.loads(frame)

    seen = peek(FRAMES[3])
    assert orjson.loads(FRAMES[3][seen.start : seen.end]) == orjson.loads(message_create(3))
    benchmark(intake)
    ours, raw = cpu_seconds(intake, len(FRAMES)), cpu_seconds(parse, len(FRAMES))
    report.add(
        "gateway intake, event nobody listens for",
        f"{ours * 1e6:.2f} us CPU",
        ratio=f"{ours / raw:.2f} x orjson.loads",
        budget="<= 0.5 x",
        met=ours <= 0.5 * raw,
    )


def test_framing_round_trip(benchmark: BenchmarkFixture, report: Report) -> None:
    """framing.roundtrip[64 x 2 KB]: join and split a tick's records."""
    records = [(6, i, i << 22, message_create(i)) for i in range(64)]

    def both() -> None:
        _framing.split(_framing.join(records))

    def parse() -> None:
        for frame in FRAMES:
            orjson.loads(frame)

    assert [tuple(r) for r in _framing.split(_framing.join(records))] == records
    benchmark(both)
    ours, raw = cpu_seconds(both, len(records)), cpu_seconds(parse, len(FRAMES))
    report.add(
        "framing, join and split of a 2 KB record", f"{ours * 1e6:.2f} us CPU", ratio=f"{ours / raw:.2f} x orjson.loads"
    )
