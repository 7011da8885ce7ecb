"""What the flags of `tw serve` say: how this process runs, as opposed to what the configuration says of the deployment."""

from __future__ import annotations

import os
from typing import Literal

from msgspec import Struct

from pytw.limits import DB_CONNECTIONS

WorkerType = Literal["processpool", "threadpool", "hybrid", "processpoolworker"]
WorkerDbMode = Literal["mesophyll", "direct"]


class ServeOptions(Struct, frozen=True, kw_only=True):
    """One start of `tw serve`. Source: the reference's flags (spec 5.16), each true in master and workers alike."""

    worker_type: WorkerType = "processpool"
    process_workers: int | None = None
    """Worker processes; None: as many as the gateway recommends shards."""
    thread_workers: int | None = None
    """In-process workers of `threadpool` and `hybrid`; None: the gateway's shard count (threadpool), one (hybrid)."""
    worker_id: int | None = None
    """Place in the pool; only of a `processpoolworker`."""
    threads_master: int = 10
    """Threads of the master's pool for blocking work."""
    threads_worker: int = 3
    """VM threads of each worker."""
    max_db_connections: int = DB_CONNECTIONS
    """Of the master, and of each worker process with `worker_db` direct."""
    worker_debug: bool = False
    console: bool = False
    """aiomonitor on loopback (flag `--use-tokio-console`)."""
    builtins_dir: str = ""
    """Root of another built-ins tree; empty: the package's own."""
    dev: bool = False
    worker_db: WorkerDbMode = "mesophyll"
    exit_on_deaf_thread: bool = False
    """Also an in-process worker whose VM thread is deaf ends its process."""
    abort_on_crash_loop: bool = False
    """The reference's documented abort: ten failures in a row end the master."""
    sized: bool = False
    """A flag said how many workers or threads there are."""
    mesophyll: str = ""
    """Address of the master's Mesophyll server; only of a `processpoolworker` started by hand."""

    def connections(self, processes: int) -> int:
        """How many connections the master and so many worker processes open to the database at most."""
        return self.max_db_connections * (1 + (processes if self.worker_db == "direct" else 0))

    def thread_warning(self, workers: int) -> str | None:
        """A line for the log where flags ask for more than twice as many threads as cores, with *workers* workers.

        The defaults are for a server's cores; on a small machine they idle, and nobody chose them.
        """
        threads, cores = workers * self.threads_worker + self.threads_master, len(os.sched_getaffinity(0))
        if not self.sized or threads <= 2 * cores:
            return None
        return (
            f"{threads} threads ({workers} workers x --tokio-threads-worker {self.threads_worker} "
            f"+ --tokio-threads-master {self.threads_master}) are more than twice the {cores} cores of this machine"
        )
