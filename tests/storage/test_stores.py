from __future__ import annotations

import pytest

from pytw.errors import Unavailable
from pytw.storage.stores import Stores
from pytw.workerdb import WorkerDb
from tests.storage.commons_contract import CommonsContract, Staff, StoresStaff
from tests.storage.workerdb_contract import WorkerDbContract


class TestStores(WorkerDbContract, CommonsContract):
    """The master's stores satisfy the contract themselves."""

    @pytest.fixture
    def db(self, stores: Stores) -> WorkerDb:
        return stores

    @pytest.fixture
    def staff(self, stores: Stores) -> Staff:
        return StoresStaff(stores)


def test_stores_are_a_worker_db() -> None:
    """Every operation of the protocol is there, under its name."""
    assert isinstance(Stores(None), WorkerDb)  # type: ignore[arg-type]


async def test_without_an_object_store_its_operations_are_refused() -> None:
    with pytest.raises(Unavailable, match="no object storage"):
        await Stores(None).object_get(1, "k")  # type: ignore[arg-type]
