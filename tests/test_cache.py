"""`Cache`: bounded in number and life, one load for all that ask at once."""

from __future__ import annotations

import asyncio

import pytest

from pytw.cache import Cache


class Source:
    """Counts how often each key is read; a read waits while `gate` is shut."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads: list[str] = []
        self.value = 1
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def clock(self) -> float:
        return self.now

    async def read(self, key: str) -> int:
        self.reads.append(key)
        found, error = self.value, self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return found


@pytest.fixture
async def source() -> Source:
    return Source()


def _cache(source: Source, entries_max: int = 3, life_s: float = 10) -> Cache[str, int]:
    return Cache(entries_max, life_s, clock=source.clock)


async def _get(cache: Cache[str, int], source: Source, key: str) -> int:
    return await cache.get(key, lambda: source.read(key))


async def test_a_value_is_read_once_in_its_life(source: Source) -> None:
    cache = _cache(source)
    for now in (0, 1, 9.9):
        source.now = now
        assert await _get(cache, source, "a") == 1
    assert source.reads == ["a"]
    source.now, source.value = 10, 2
    assert await _get(cache, source, "a") == 2
    assert cache.counts() == {"entries": 1, "hits": 2, "misses": 2, "evictions": 0}


async def test_the_least_recently_asked_for_goes_first(source: Source) -> None:
    cache = _cache(source)
    for key in ("a", "b", "c", "a", "d"):
        await _get(cache, source, key)
    assert (len(cache), cache.evictions) == (3, 1)
    source.reads.clear()
    for key in ("a", "c", "d", "b"):
        await _get(cache, source, key)
    assert source.reads == ["b"]


async def test_many_that_ask_at_once_wait_for_one_read(source: Source) -> None:
    cache = _cache(source)
    source.gate.clear()
    asking = [asyncio.create_task(_get(cache, source, "a")) for _ in range(100)]
    while not source.reads:
        await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*asking) == [1] * 100
    assert source.reads == ["a"]


async def test_an_error_reaches_all_that_wait_and_is_not_kept(source: Source) -> None:
    cache = _cache(source)
    source.error = ValueError("away")
    told = await asyncio.gather(*(_get(cache, source, "a") for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in told] == ["away"] * 3
    source.error = None
    assert await _get(cache, source, "a") == 1


async def test_who_gives_up_does_not_end_the_read_of_others(source: Source) -> None:
    cache = _cache(source)
    source.gate.clear()
    first, second = (asyncio.create_task(_get(cache, source, "a")) for _ in range(2))
    while not source.reads:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    assert await second == 1


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_what_is_forgotten_while_it_is_read_is_not_kept(source: Source, all_of_them: bool) -> None:
    cache = _cache(source)
    source.gate.clear()
    before = asyncio.create_task(_get(cache, source, "a"))
    while not source.reads:
        await asyncio.sleep(0)
    if all_of_them:
        cache.forget_where(lambda value: value == 7)
    else:
        cache.forget("a")
    source.value = 2
    after = asyncio.create_task(_get(cache, source, "a"))
    while len(source.reads) < 2:
        await asyncio.sleep(0)
    source.gate.set()
    assert (await before, await after) == (1, 2)
    assert await _get(cache, source, "a") == 2
    assert source.reads == ["a", "a"]


async def test_forgetting_by_value_leaves_the_others(source: Source) -> None:
    cache = _cache(source)
    for key, value in (("a", 1), ("b", 2)):
        source.value = value
        await _get(cache, source, key)
    cache.forget_where(lambda value: value == 1)
    source.reads.clear()
    await _get(cache, source, "b")
    await _get(cache, source, "a")
    assert source.reads == ["a"]


async def test_each_value_may_have_its_own_life(source: Source) -> None:
    cache: Cache[str, int] = Cache(3, lambda value: value, clock=source.clock)
    source.value = 0
    await _get(cache, source, "a")
    assert len(cache) == 0
    source.value = 5
    await _get(cache, source, "a")
    source.now = 4.9
    await _get(cache, source, "a")
    assert source.reads == ["a", "a"]
