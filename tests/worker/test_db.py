"""`Turns` and `WorkerDB`: a busy tenant delays itself only, every operation ends, and what only reads is asked again."""

import asyncio

import pytest

from pytw.errors import DeadlineExceeded, InternalError, Overloaded, StorageUnavailable
from pytw.limits import DB_OPERATION_S, DB_READ_TRIES_MAX, HOST_CALL_S, OBJECT_OPERATION_S
from pytw.worker.db import Turns, WorkerDB, bound_s
from pytw.workerdb import OPERATIONS, WorkerDb

from .fakes import MemoryDb, until

A, B, C = 1 << 22, 2 << 22, 3 << 22


def test_worker_db_satisfies_the_protocol():
    assert isinstance(WorkerDB(MemoryDb(), 8).operations, WorkerDb)


async def test_one_tenant_has_at_most_its_share_in_flight():
    inner = MemoryDb()
    inner.blocked[A] = asyncio.Event()
    worker_db = WorkerDB(inner, 8)
    db = worker_db.operations
    reads = [asyncio.create_task(db.kv_get(A, "k", ["s"])) for _ in range(30)]
    await until(lambda: worker_db.turns.waiting == 22, "the others to wait")
    assert inner.in_flight[A] == 8
    inner.blocked[A].set()
    await asyncio.gather(*reads)
    assert inner.in_flight_seen[A] == 8


async def test_busy_tenant_does_not_delay_another():
    inner = MemoryDb()
    inner.blocked[A] = asyncio.Event()
    worker_db = WorkerDB(inner, 8)
    db = worker_db.operations
    reads = [asyncio.create_task(db.kv_get(A, "k", ["s"])) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert await db.kv_get(B, "k", ["s"]) is None
    inner.blocked[A].set()
    await asyncio.gather(*reads)


async def test_slow_objects_do_not_delay_the_database():
    class SlowObjects(MemoryDb):
        async def object_get(self, tenant: int, key: str) -> bytes:
            await go.wait()
            return await super().object_get(tenant, key)

    go, inner = asyncio.Event(), SlowObjects()
    worker_db = WorkerDB(inner, 8)
    db = worker_db.operations
    for tenant in range(100):
        await db.object_put(tenant, "k", b"1")
    reads = [asyncio.create_task(db.object_get(tenant, "k")) for tenant in range(100)]
    await until(lambda: worker_db.object_turns.waiting == 68, "the others to wait")
    async with asyncio.timeout(1):
        assert await db.kv_get(5, "k", ["s"]) is None
    go.set()
    assert await asyncio.gather(*reads) == [b"1"] * 100


async def test_turns_go_round_over_tenants():
    """Three tenants queue behind one place: each gets every third turn, whatever the order of asking."""
    turns = Turns(per_tenant=1, total=1)
    order = []

    async def one(tenant: int) -> None:
        async with turns.turn(tenant):
            order.append(tenant)
            await asyncio.sleep(0)

    async with turns.turn(C):
        tasks = [asyncio.create_task(one(tenant)) for tenant in (A, A, A, A, B, B, C)]
        await until(lambda: turns.waiting == 7, "all to wait")
    await asyncio.gather(*tasks)
    assert order == [A, B, C, A, B, A, A]


async def test_too_many_waiting_operations_of_a_tenant_are_refused():
    turns = Turns(per_tenant=1, total=4, waiting_max=1)
    async with turns.turn(A):
        waiting = asyncio.create_task(turns.turn(A).__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await turns.turn(A).__aenter__()
        async with turns.turn(B):
            pass
    await waiting


async def test_cancelled_waiter_gives_its_turn_to_the_next():
    turns = Turns(per_tenant=1, total=1)
    async with turns.turn(A):
        first = asyncio.create_task(turns.turn(B).__aenter__())
        second = asyncio.create_task(turns.turn(C).__aenter__())
        await until(lambda: turns.waiting == 2, "both to wait")
    first.cancel()
    async with asyncio.timeout(1):
        await second
    assert turns.waiting == 0


async def test_failed_operation_returns_its_turn():
    inner = MemoryDb()
    inner.failing = True
    worker_db = WorkerDB(inner, 1)
    db = worker_db.operations
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            await db.kv_set(A, "k", ["s"], b"\x01")
    inner.failing = False
    assert await db.kv_get(A, "other", ["s"]) is None


async def test_read_is_asked_again_while_the_storage_is_away():
    """Twice, later each time; what comes back in between is the answer."""
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        inner.failing = len(slept) < fails

    inner = MemoryDb()
    worker_db = WorkerDB(inner, 1, sleep=sleep, jitter=lambda: 1.0)
    inner.failing, fails = True, DB_READ_TRIES_MAX - 1
    assert await worker_db.operations.kv_get(A, "k", ["s"]) is None
    assert slept == pytest.approx([0.15, 0.3])
    assert worker_db.retries == 2
    inner.failing, fails = True, 100
    with pytest.raises(StorageUnavailable):
        await worker_db.operations.kv_get(A, "k", ["s"])
    assert inner.calls == [("kv_get", A)] * 2 * DB_READ_TRIES_MAX


async def test_write_is_asked_once():
    """Nobody knows whether a write that failed has happened."""
    inner = MemoryDb()
    inner.failing = True
    worker_db = WorkerDB(inner, 1)
    for write in (
        worker_db.operations.kv_set(A, "k", ["s"], b"\x01"),
        worker_db.operations.kv_delete(A, "k", ["s"]),
        worker_db.operations.claim_expired(0, 1, limit=1),
    ):
        with pytest.raises(StorageUnavailable):
            await write
    assert len(inner.calls) == 3
    assert worker_db.retries == 0


@pytest.mark.parametrize("reads", [True, False])
async def test_operation_that_does_not_end_is_given_up_and_frees_its_turn(reads: bool):
    """Those that run and those that wait for them alike, in words that say what was asked for."""
    inner = MemoryDb()
    inner.blocked[A] = asyncio.Event()
    worker_db = WorkerDB(inner, 2, bound_s=lambda operation: 0.02)
    db = worker_db.operations
    asks = [db.kv_get(A, "k", ["s"]) if reads else db.kv_set(A, "k", ["s"], b"\x01") for _ in range(6)]
    found = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(error) for error in found} == {DeadlineExceeded}
    assert {str(error) for error in found} == {
        "kv_get was not answered within 0.02 s"
        if reads
        else "kv_set was not answered within 0.02 s; it may still happen"
    }
    assert (worker_db.late, worker_db.turns.waiting, inner.in_flight[A]) == (6, 0, 0)
    del inner.blocked[A]
    assert await db.kv_get(A, "k", ["s"]) is None


@pytest.mark.parametrize("reads", [True, False])
async def test_bug_is_told_as_one_and_logged_with_its_place(reads: bool, caplog: pytest.LogCaptureFixture):
    """Expiry and the like, which go on after every error of ours, would end for all tenants by any other."""

    class Broken(MemoryDb):
        async def _work(self, operation: str, tenant: int) -> None:
            raise TypeError(" ".join(("a", "row", "like", "no", "other")))

    db = WorkerDB(Broken(), 8).operations
    with pytest.raises(InternalError, match="failed: TypeError"):
        await (db.kv_get(A, "k", ["s"]) if reads else db.claim_expired(0, 1, limit=4))
    assert "failed: TypeError at" in caplog.text
    assert "in _work" in caplog.text
    assert "a row like" not in caplog.text


def test_every_operation_has_a_bound_and_a_host_call_outlives_it():
    for operation in OPERATIONS.values():
        assert bound_s(operation) <= HOST_CALL_S
    assert bound_s(OPERATIONS["kv_get"]) == DB_OPERATION_S
    assert bound_s(OPERATIONS["object_get"]) == OBJECT_OPERATION_S
