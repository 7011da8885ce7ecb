"""`MemoryDb` does what the real database does, as far as a run on an author's machine can tell."""

from dataclasses import replace

import pytest

from pytw.types import GlobalEntry, Id
from pytw.worker.memory import MemoryDb
from pytw.workerdb import WorkerDb
from tests.storage.commons_contract import CommonsContract, Staff
from tests.storage.workerdb_contract import WorkerDbContract


class MemoryStaff:
    """Staff of a `MemoryDb`."""

    def __init__(self, db: MemoryDb) -> None:
        self._db = db

    async def review(self, scope: str, key: str, version: int, state: str) -> None:
        place = (scope, key, version)
        self._db.published[place] = replace(self._db.published[place], review_state=state)

    async def sell(self, entry: GlobalEntry, price: int) -> None:
        await self._db.global_create(1, entry)
        place = (entry.scope, entry.key, entry.version)
        self._db.published[place] = replace(
            self._db.published[place], owner_type="staff", price=price, review_state="approved"
        )

    async def grant(self, entry: GlobalEntry, tenant: Id) -> None:
        self._db.bought.add((entry.scope, entry.key, entry.version, tenant.key))


class TestMemory(WorkerDbContract, CommonsContract):
    @pytest.fixture
    def db(self) -> WorkerDb:
        return MemoryDb()

    @pytest.fixture
    def stores(self) -> None:
        pytest.skip("nobody else writes to it")

    @pytest.fixture
    def staff(self, db: MemoryDb) -> Staff:
        return MemoryStaff(db)
