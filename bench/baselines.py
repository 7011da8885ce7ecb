"""The raw costs that every figure is divided by, measured in the same run: what the machine charges for waking somebody.

Both echo partners are forked processes on a core of their own: no interpreter lock is shared, and the wake-up is one
between cores, as it is between a master and its worker.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from functools import cache

import orjson
from payload import message_create

ROUNDS = 4_000


def percentiles(samples: list[float]) -> tuple[float, float]:
    """``(p50, p99)`` of the samples."""
    samples.sort()
    return samples[len(samples) // 2], samples[len(samples) * 99 // 100]


def _timed(step: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    for _ in range(rounds // 10):
        step()
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return percentiles(samples)


def _beside(partner: Callable[[], None], step: Callable[[], object]) -> tuple[float, float]:
    cores = sorted(os.sched_getaffinity(0))
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {cores[-1]})
            partner()
        finally:
            os._exit(0)
    try:
        os.sched_setaffinity(0, {cores[0]})
        return _timed(step)
    finally:
        os.sched_setaffinity(0, set(cores))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@cache
def socketpair_round_trip() -> tuple[float, float]:
    """p50 and p99 in seconds of a blocking 2 KB round trip between two processes over a socketpair."""
    ours, theirs = socket.socketpair()
    mine, other, body = ours.fileno(), theirs.fileno(), message_create(1)

    def partner() -> None:
        while data := os.read(other, 8192):
            os.write(other, data)

    def step() -> None:
        os.write(mine, body)
        os.read(mine, 8192)

    try:
        return _beside(partner, step)
    finally:
        ours.close()
        theirs.close()


@cache
def eventfd_round_trip() -> tuple[float, float]:
    """p50 and p99 in seconds of a wake-up there and back over a pair of eventfds."""
    there, back = os.eventfd(0), os.eventfd(0)

    def partner() -> None:
        while True:
            os.eventfd_read(there)
            os.eventfd_write(back, 1)

    def step() -> None:
        os.eventfd_write(there, 1)
        os.eventfd_read(back)

    try:
        return _beside(partner, step)
    finally:
        os.close(there)
        os.close(back)


@cache
def orjson_loads_cpu() -> float:
    """CPU seconds of `orjson.loads` of one MESSAGE_CREATE payload."""
    payloads = [message_create(i) for i in range(64)]
    best = float("inf")
    for _ in range(7):
        start = time.thread_time()
        for _ in range(40):
            for payload in payloads:
                orjson.loads(payload)
        best = min(best, (time.thread_time() - start) / (40 * len(payloads)))
    return best
