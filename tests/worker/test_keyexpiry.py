"""`KeyExpiry`: at least once, never a key that was not handled, behind live events."""

import asyncio

import pytest

from pytw.errors import StorageUnavailable
from pytw.limits import KV_RETRY_ROWS_MAX
from pytw.types import CreateEvent, KvReleased, Outcome
from pytw.worker.filter import WorkerFilter
from pytw.worker.keyexpiry import BATCH, CLAIMED_MAX, POLL_MAX_S, TENANT_MAX, KeyExpiry, KeyExpiryChannel

from .fakes import MemoryDb, record, until

A = 1 << 22


class Listening:
    """A gate that says what the test says."""

    def __init__(self, *events: str) -> None:
        self.names = events

    def listens(self, tenant: int, event: str) -> bool:
        return event in self.names

    def events(self, tenant: int) -> frozenset[str]:
        return frozenset(self.names)


class Runs:
    """Runs events as `Background` does, with the outcomes that the test wants."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.ran: list[tuple[int, CreateEvent]] = []
        self.gate: asyncio.Event | None = None

    async def run(self, tenant: int, event: CreateEvent) -> Outcome:
        self.ran.append((tenant, event))
        if self.gate is not None:
            await self.gate.wait()
        return self.outcomes.pop(0) if self.outcomes else Outcome.OK


class Clock:
    """Sleeps that take no time until the test has seen enough of them."""

    def __init__(self, steps: int = 8) -> None:
        self.steps = steps
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) >= self.steps:
            await asyncio.Event().wait()
        await asyncio.sleep(0)


def expiry(db: MemoryDb, runs: Runs, *events: str, clock: Clock | None = None, workers: int = 1) -> KeyExpiry:
    channel = KeyExpiryChannel(db, WorkerFilter(0, workers), sleep=(clock or Clock()).sleep)
    return KeyExpiry(channel, db, Listening(*(events or ("KeyExpiry",))), runs)


async def test_handled_key_is_finished_with_the_version_that_was_claimed():
    db, runs = MemoryDb(), Runs()
    await expiry(db, runs).expire(A, record(A, "k", version=7))
    assert db.finished == [(A, f"{A}-k", 7)]
    (tenant, event) = runs.ran[0]
    assert (tenant, event.name) == (A, "KeyExpiry")
    assert event.payload == b'{"id":"%d-k","key":"k","scopes":["s"]}' % A


@pytest.mark.weakness(12)
@pytest.mark.parametrize(
    "outcome", [Outcome.SCRIPT_ERROR, Outcome.TIMEOUT, Outcome.NOT_SUBSCRIBED, Outcome.BANNED, Outcome.SHED]
)
async def test_key_stays_if_no_handler_ran_well(outcome: Outcome):
    db = MemoryDb()
    await expiry(db, Runs(outcome)).expire(A, record(A, "k", version=3))
    assert (db.finished, db.failed) == ([], [(A, f"{A}-k", 3)])


async def test_scoped_names_are_heard_too_and_all_must_run_well():
    db, runs = MemoryDb(), Runs(Outcome.OK, Outcome.SCRIPT_ERROR)
    await expiry(db, runs, "KeyExpiry", "KeyExpiry[s]").expire(A, record(A, "k"))
    assert [event.name for _, event in runs.ran] == ["KeyExpiry", "KeyExpiry[s]"]
    assert db.finished == []


@pytest.mark.weakness(12)
async def test_key_that_nobody_listens_for_stays_and_runs_nothing():
    db, runs = MemoryDb(), Runs()
    mine = expiry(db, runs, "KeyExpiry[other]")
    await mine.expire(A, record(A, "k"))
    assert (runs.ran, db.finished, len(db.failed)) == ([], [], 1)
    assert mine.counts["unheard"] == 1


async def test_key_that_is_given_up_is_logged_once_with_who_should_act(caplog: pytest.LogCaptureFixture):
    db = MemoryDb()
    mine = expiry(db, Runs(Outcome.SCRIPT_ERROR, Outcome.SCRIPT_ERROR))
    await mine.expire(A, record(A, "k"))
    assert caplog.text == ""
    db.gives_up = True
    await mine.expire(A, record(A, "k"))
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert "'k' of scopes ['s'] is given up after 10 attempts: its handler ended with script_error" in line.message
    assert "deploying a template" in line.message
    assert dict(mine.counts) == {"handled": 0, "failed": 2, "unheard": 0, "given_up": 1}


def due(tenant: int, count: int) -> list:
    return [(tenant, record(tenant, f"k{i}")) for i in range(count)]


async def ended(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_no_more_keys_are_claimed_than_may_run():
    db, runs = MemoryDb(), Runs()
    runs.gate = asyncio.Event()
    db.due = [one for tenant in range(CLAIMED_MAX + BATCH) for one in due(tenant << 22, 1)]
    mine = expiry(db, runs)
    running = asyncio.create_task(mine.run())
    await until(lambda: len(runs.ran) == CLAIMED_MAX, "the first keys")
    assert len(db.due) == BATCH
    assert len(mine._held) == CLAIMED_MAX
    runs.gate.set()
    await until(lambda: len(db.finished) == CLAIMED_MAX + BATCH, "all keys")
    await until(lambda: not mine._held, "nobody to be remembered who holds none")
    await ended(running)


async def test_backlog_of_one_tenant_leaves_places_for_others():
    db, runs = MemoryDb(), Runs()
    runs.gate = asyncio.Event()
    db.due = due(A, 100) + due(2 * A, 1)
    running = asyncio.create_task(expiry(db, runs, clock=Clock(1)).run())
    await until(lambda: any(tenant == 2 * A for tenant, _ in runs.ran), "the key of the other tenant")
    assert len(runs.ran) <= TENANT_MAX + BATCH + 1
    runs.gate.set()
    await until(lambda: len(db.finished) == 101, "all keys, though nobody sleeps to an end")
    await ended(running)


async def test_keys_that_end_together_are_finished_together():
    db, runs = MemoryDb(), Runs()
    runs.gate, db.blocked[A] = asyncio.Event(), asyncio.Event()
    db.due = due(A, TENANT_MAX + BATCH)
    running = asyncio.create_task(expiry(db, runs).run())
    await until(lambda: len(runs.ran) == TENANT_MAX + BATCH, "the keys")
    runs.gate.set()
    await until(lambda: ("finish_expired", A) in db.calls, "the first deletion")
    db.blocked.pop(A).set()
    await until(lambda: len(db.finished) == TENANT_MAX + BATCH, "all keys")
    assert db.calls.count(("finish_expired", A)) <= 2
    await ended(running)


async def test_claims_of_an_earlier_worker_are_ended_before_the_first_claim(caplog: pytest.LogCaptureFixture):
    db = MemoryDb()

    async def releases(worker_id: int, workers: int) -> KvReleased:
        db.calls.append(("release_claims", worker_id))
        return KvReleased(0, 3)

    db.release_claims = releases
    running = asyncio.create_task(expiry(db, Runs()).run())
    await until(lambda: len(db.calls) >= 2, "the first claim")
    assert [name for name, _ in db.calls[:2]] == ["release_claims", "claim_expired"]
    assert "3 expired keys are given up" in caplog.text
    await ended(running)


async def test_slow_handler_holds_up_no_other_key():
    db, runs = MemoryDb(), Runs()
    runs.gate = asyncio.Event()
    db.due = [(A, record(A, "slow"))]
    running = asyncio.create_task(expiry(db, runs, clock=Clock(1_000_000)).run())
    await until(lambda: len(runs.ran) == 1, "the slow key")
    runs.gate = None
    db.due = [(A, record(A, "quick"))]
    await until(lambda: len(db.finished) == 1, "the quick key")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_failing_storage_is_asked_more_and_more_slowly():
    db, clock = MemoryDb(), Clock()
    db.failing = True
    running = asyncio.create_task(expiry(db, Runs(), clock=clock).run())
    await until(lambda: len(clock.slept) == 8, "the pauses")
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == POLL_MAX_S
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_key_of_another_workers_tenant_is_left_alone():
    db, clock = MemoryDb(), Clock()
    db.due = [(A, record(A, "k"))]
    runs = Runs()
    running = asyncio.create_task(expiry(db, runs, clock=clock, workers=2).run())
    await until(lambda: len(clock.slept) == 8, "the pauses")
    assert runs.ran == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_bug_in_a_deletion_keeps_no_place():
    """The keys stay claimed; whoever waits for them goes on."""
    db = MemoryDb()

    async def fails(*_: object) -> int:
        await asyncio.sleep(0)
        raise KeyError("a bug")

    db.finish_expired = fails
    mine = expiry(db, Runs())
    async with asyncio.timeout(5):
        ends = [mine.expire(A, record(A, key)) for key in ("a", "b", "c")]
        found = await asyncio.gather(*ends, return_exceptions=True)
    assert {type(end) for end in found} == {asyncio.CancelledError}


async def test_failed_finish_is_no_end(caplog: pytest.LogCaptureFixture):
    db = MemoryDb()

    async def fails(*_: object) -> None:
        raise StorageUnavailable("away")

    db.finish_expired = fails
    await expiry(db, Runs()).expire(A, record(A, "k"))
    assert "expired key 'k' stays claimed: away" in caplog.text


@pytest.mark.parametrize(("listens", "asked"), [("KeyExpiry", 3), ("KeyExpiry[s]", 3), ("MESSAGE", 0)])
async def test_keys_that_were_given_up_are_all_tried_again_where_somebody_listens(listens: str, asked: int):
    db, left = MemoryDb(), [KV_RETRY_ROWS_MAX, KV_RETRY_ROWS_MAX, 1]

    async def retries(tenant: int) -> int:
        assert tenant == A
        return left.pop(0)

    db.retry_expired = retries
    await expiry(db, Runs(), listens).retry(A)
    assert len(left) == 3 - asked


async def test_storage_that_fails_a_second_try_is_told(caplog: pytest.LogCaptureFixture):
    db = MemoryDb()
    db.failing = True
    await expiry(db, Runs()).retry(A)
    assert "keys that were given up cannot be tried again" in caplog.text
