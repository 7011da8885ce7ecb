"""What /healthz, /readyz and /metrics say of this master and its workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from pytw.cache import Cache
from pytw.errors import StorageUnavailable
from pytw.main.workers import Workers
from pytw.observe import metrics
from pytw.storage.pool import Database

#: A database that was just seen is not asked again.
PING_LIFE_S = 0.5


class Health:
    """Answers what is up. `started` is set once, when everything has been up for the first time."""

    def __init__(
        self,
        workers: Workers,
        database: Database,
        *,
        mock_url: str | None,
        caches: Mapping[str, Cache[Any, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            caches: the master's, by the names that they have in metrics.
        """
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
                await self._database.ping()
                self._database_up = True
            except StorageUnavailable:
                self._database_up = False
            self._pinged_at = self._clock()
        return self._database_up

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
