"""Identify slots with a clock that only moves when somebody sleeps."""

import asyncio

from pytw.master.identify import IdentifySlots


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def test_one_identify_per_window_and_bucket_in_the_order_of_asking() -> None:
    time = Time()
    slots = IdentifySlots(1, clock=time.clock, sleep=time.sleep)
    got: list[tuple[int, float]] = []

    async def ask(shard: int) -> None:
        await slots.acquire(shard)
        got.append((shard, time.now))

    await asyncio.gather(*(ask(shard) for shard in (3, 1, 2)))
    assert got == [(3, 0.0), (1, 5.0), (2, 10.0)]


async def test_buckets_do_not_wait_for_each_other() -> None:
    time = Time()
    slots = IdentifySlots(16, clock=time.clock, sleep=time.sleep)
    await asyncio.gather(*(slots.acquire(shard) for shard in range(16)))
    assert time.now == 0.0
    await slots.acquire(16)
    assert time.now == 5.0


async def test_daily_budget_holds_until_the_oldest_is_a_day_old() -> None:
    time = Time()
    slots = IdentifySlots(16, clock=time.clock, sleep=time.sleep, per_day_max=2)
    await slots.acquire(0)
    await slots.acquire(1)
    await slots.acquire(2)
    assert time.now == 86_400.0


async def test_cancelled_asker_spends_nothing() -> None:
    time = Time()
    slots = IdentifySlots(1, clock=time.clock, sleep=lambda seconds: asyncio.Event().wait())  # type: ignore[arg-type,return-value]
    await slots.acquire(0)
    task = asyncio.create_task(slots.acquire(0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    time.now = 5.0
    await slots.acquire(0)
    assert time.now == 5.0
