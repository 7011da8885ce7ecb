"""How many workers there are, which of them are processes, and how many shards feed them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pytw.main.options import ServeOptions

#: What the mock Discord recommends: enough to show more than one worker where there is more than one core.
MOCK_SHARDS_MAX = 2


def mock_shards() -> int:
    """The shard count that dev mode's own Discord recommends."""
    return min(MOCK_SHARDS_MAX, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Topology:
    """The pool: ids 0 to ``threads - 1`` are in-process workers, the rest are processes. One formula runs over all."""

    threads: int
    processes: int
    shards: int

    @property
    def workers(self) -> int:
        return self.threads + self.processes

    @classmethod
    def choose(cls, options: ServeOptions, recommended_shards: int) -> Topology:
        """Counts from the flags, else from what the gateway recommends.

        The shard count is rounded up to a multiple of the workers, so that every guild's events arrive in the worker
        that owns it.
        """
        wanted = max(1, recommended_shards)
        if options.worker_type == "threadpool":
            threads, processes = options.thread_workers or wanted, 0
        elif options.worker_type == "hybrid":
            threads = options.thread_workers or 1
            processes = options.process_workers or max(1, wanted - threads)
        else:
            threads, processes = 0, options.process_workers or wanted
        workers = threads + processes
        return cls(threads, processes, -(-wanted // workers) * workers)

    def shards_of(self, worker_id: int) -> range:
        """The shards that run in a worker."""
        return shards_of(worker_id, self.workers, self.shards)


def shards_of(worker_id: int, workers: int, shards: int) -> range:
    """``{s : s % workers == worker_id}``."""
    return range(worker_id, shards, workers)
