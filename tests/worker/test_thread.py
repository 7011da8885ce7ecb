"""`WorkerThread`, alone and in a pool."""

import pytest

from pytw.types import Outcome
from pytw.worker.pool import WorkerPool
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord
from .workerlike_contract import A, Rig, WorkerLikeContract, event, spec


class TestThread(WorkerLikeContract):
    @pytest.fixture
    async def rig(self):
        db, discord = MemoryDb(), MemoryDiscord()
        thread = WorkerThread(Worker(spec(), db, discord))
        await thread.start()
        yield Rig(thread, db, discord)
        await thread.kill()


class TestPoolOfThreads(WorkerLikeContract):
    SIZE = 3

    @pytest.fixture
    async def rig(self):
        db, discord = MemoryDb(), MemoryDiscord()
        threads = [WorkerThread(Worker(spec(i, 3, vm_threads=1), db, discord)) for i in range(3)]
        for thread in threads:
            await thread.start()
        pool = WorkerPool(threads)
        yield Rig(pool, db, discord)
        await pool.kill()


async def test_events_before_start_and_after_drain_are_not_ready():
    thread = WorkerThread(Worker(spec(), MemoryDb(), MemoryDiscord()))
    assert (await thread.dispatch_event(A, event("MESSAGE"))).outcome is Outcome.NOT_READY
    await thread.start()
    assert (await thread.dispatch_event(A, event("MESSAGE"))).outcome is Outcome.OK
    assert await thread.drain(1)
    assert (await thread.dispatch_event(A, event("MESSAGE"))).outcome is Outcome.NOT_READY
    await thread.kill()
