from __future__ import annotations

import pytest

from pytw.storage.stores import Stores
from pytw.types import WorkerDb
from tests.storage.workerdb_contract import WorkerDbContract


class TestStores(WorkerDbContract):
    """The master's stores satisfy the contract themselves."""

    @pytest.fixture
    def db(self, stores: Stores) -> WorkerDb:
        return stores


def test_stores_are_a_worker_db() -> None:
    """Every operation of the protocol is there, under its name."""
    assert isinstance(Stores(None), WorkerDb)  # type: ignore[arg-type]
