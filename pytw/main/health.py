"""What /healthz, /readyz and /metrics say of this master and its workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytw.cache import Cache
from pytw.errors import StorageUnavailable
from pytw.limits import DB_CONNECTIONS
from pytw.main.options import WorkerDbMode
from pytw.main.workers import Workers
from pytw.observe import metrics
from pytw.storage.pool import Database

#: A database that was just seen is not asked again.
PING_LIFE_S = 0.5
#: Who asks whether we are ready waits no longer than that.
PING_S = 2.0


class Health:
    """Answers what is up. `started` is set once, when everything has been up for the first time."""

    def __init__(
        self,
        workers: Workers,
        database: Database,
        *,
        mock_url: str | None,
        caches: Mapping[str, Cache[Any, Any]] | None = None,
        worker_db: WorkerDbMode = "mesophyll",
        connections_max: int = DB_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            caches: the master's, by the names that they have in metrics.
            worker_db: how worker processes reach the database.
            connections_max: what master and workers may open to it together.
        """
        self._worker_db = worker_db
        self._connections_max = connections_max
        self._caches = caches or {}
        self._workers = workers
        self._database = database
        self._mock_url = mock_url
        self._clock = clock
        self._pinged_at = float("-inf")
        self._database_up = True
        self._born_at = clock()
        self.started = False
        self.ending = False

    async def ready(self) -> tuple[bool, dict[str, bool]]:
        """Whether requests should come here, and each part. The gateway is named but not waited for: the API works without it."""
        parts = {
            "started": self.started,
            "accepting": not self.ending,
            "database": await self._database_answers(),
            "workers": self._workers.ready,
        }
        ready = all(parts.values())
        parts["gateway"] = self._workers.gateway_ready
        for worker_id, said in sorted(self._workers.parts().items()):
            parts[f"worker.{worker_id}"] = bool(said) and all(up for name, up in said.items() if name != "gateway")
        return ready, parts

    async def _database_answers(self) -> bool:
        if self._clock() - self._pinged_at > PING_LIFE_S:
            try:
                async with asyncio.timeout(PING_S):
                    await self._database.ping()
                self._database_up = True
            except (StorageUnavailable, TimeoutError):
                self._database_up = False
            self._pinged_at = self._clock()
        return self._database_up

    def database(self) -> dict[str, Any]:
        """What the breaker knows of the database, and how many connections lead to it."""
        breaker = self._database.breaker
        return {
            "state": breaker.state.value,
            "failures": breaker.failures,
            "opened": breaker.opened,
            "refused": breaker.refused,
            "connections": self._database.pool.get_size(),
            "connections_max": self._connections_max,
            "worker_db": self._worker_db,
        }

    def health(self) -> dict[str, Any]:
        """Alive, and how."""
        return {
            "status": "ok",
            "pid": os.getpid(),
            "uptime_s": round(self._clock() - self._born_at, 1),
            "dev": self._mock_url is not None,
            "mock": self._mock_url,
            "workers": self._workers.status(),
            "rights": self._workers.rights(),
            "loop_mode": self._workers.loop_mode,
            "database": self.database(),
            "notices": [
                {"at": n.at, "tenant": str(n.tenant) if n.tenant else None, "text": n.text}
                for n in self._workers.supervisor.notices[-50:]
            ],
        }

    def metrics(self) -> Callable[[], str]:
        """Notes the numbers of now; what comes back renders them as Prometheus text, in any thread.

        Workers count in plain numbers that come with their heartbeats: a registry of their own would cost each of them
        half a megabyte.
        """
        restarts = metrics.gauge("tw_worker_restarts", "Restarts of a worker process.", ("worker",))
        up = metrics.gauge("tw_worker_up", "Whether a worker takes events.", ("worker",))
        stat = metrics.gauge("tw_worker_stat", "What a worker counts, from its heartbeats.", ("worker", "name"))
        cache = metrics.gauge("tw_cache", "Entries, hits, misses and evictions of a cache.", ("cache", "name"))
        database = metrics.gauge(
            "tw_database", "What the master's circuit breaker counts, and its connections.", ("name",)
        )
        for what, count in self._database.breaker.counts().items():
            database.labels(what).set(count)
        database.labels("connections").set(self._database.pool.get_size())
        for name, counted in self._caches.items():
            for what, count in counted.counts().items():
                cache.labels(name, what).set(count)
        for slot in self._workers.supervisor.status():
            restarts.labels(str(slot["worker"])).set(slot["restarts"])
        for worker_id, said in self._workers.parts().items():
            up.labels(str(worker_id)).set(bool(said.get("gates")))
        # A worker that is away has no numbers.
        stat.clear()
        for worker_id, numbers in self._workers.stats().items():
            for name, number in numbers.items():
                stat.labels(str(worker_id), name).set(number)
        return metrics.exposition
