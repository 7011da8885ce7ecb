"""`WorkerFilter`: whether a tenant lives in this worker."""

from __future__ import annotations

from pytw.routing import worker_of


class WorkerFilter:
    """Says which tenants a worker may start work for by itself (expiry, start-up). Source: reference (spec 5.9)."""

    __slots__ = ("worker_id", "workers")

    def __init__(self, worker_id: int, workers: int) -> None:
        self.worker_id = worker_id
        self.workers = workers

    def __call__(self, tenant: int) -> bool:
        return worker_of(tenant, self.workers) == self.worker_id
