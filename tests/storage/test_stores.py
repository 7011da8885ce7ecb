from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import WorkerDb
from tests.storage.workerdb_contract import WorkerDbContract


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    found = Stores(await open_pool(database_url, 3))
    yield found
    await found.close()


class TestStores(WorkerDbContract):
    """The master's stores satisfy the contract themselves."""

    @pytest.fixture
    def db(self, stores: Stores) -> WorkerDb:
        return stores


def test_stores_are_a_worker_db() -> None:
    """Every operation of the protocol is there, under its name."""
    assert isinstance(Stores(None), WorkerDb)  # type: ignore[arg-type]
