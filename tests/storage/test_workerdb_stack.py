"""What a worker's parts ask, `WorkerDB` over Mesophyll and direct, satisfies what the stores themselves do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pytw.limits import Limits
from pytw.main.direct import DirectDb
from pytw.mesophyll import db_client
from pytw.routing import worker_of
from pytw.storage import pgguests
from pytw.storage.postgres import USER
from pytw.storage.stores import Stores
from pytw.worker.db import WorkerDB
from pytw.worker.spec import WorkerSpec
from pytw.workerdb import OPERATIONS, WorkerDb
from tests.mesophyll.test_services import Served
from tests.storage.commons_contract import CommonsContract, Staff, StoresStaff
from tests.storage.workerdb_contract import WorkerDbContract

WORKERS = 2


class Pool:
    """Asks the worker that owns the tenant, as events do."""

    def __init__(self, *workers: WorkerDb) -> None:
        self._workers = workers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(first: int, *args: Any, **kwargs: Any) -> Any:
            worker = worker_of(first, WORKERS) if OPERATIONS[name].of_tenant else first
            return getattr(self._workers[worker], name)(first, *args, **kwargs)

        return ask


def of_worker(db: WorkerDb) -> WorkerDb:
    return WorkerDB(db, Limits().db_operations_max).operations


@pytest.fixture
async def served(stores: Stores) -> AsyncIterator[list[WorkerDb]]:
    """The links of two workers to a master with these stores."""
    made = Served()
    one = await made.serve(stores)
    _, zero = await made.connect(0)
    yield [db_client(zero), db_client(one)]
    await made.close()


class _Stack(WorkerDbContract, CommonsContract):
    @pytest.fixture
    def staff(self, stores: Stores) -> Staff:
        return StoresStaff(stores)


class TestOverMesophyll(_Stack):
    @pytest.fixture
    def db(self, served: list[WorkerDb]) -> Pool:
        return Pool(*map(of_worker, served))


class TestDirect(_Stack):
    """With no more rights than guests of the embedded database have."""

    @pytest.fixture
    async def db(self, served: list[WorkerDb], stores: Stores, database_url: str) -> AsyncIterator[Pool]:
        await pgguests.admit(stores.db)
        url = database_url.replace(f"//{USER}@", f"//{pgguests.ROLE}@", 1)
        own = [
            DirectDb(WorkerSpec(worker_id=n, workers=WORKERS, database=url, database_connections=2), link)
            for n, link in enumerate(served)
        ]
        for one in own:
            await one.open()
        yield Pool(*(of_worker(one.operations) for one in own))
        for one in own:
            await one.close()
