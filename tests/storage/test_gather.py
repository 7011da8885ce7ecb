"""`Gather`: what is asked at the same time is answered by one statement, and nobody hears of another's fault."""

import asyncio

import pytest

from pytw.errors import InternalError, RequestError, StorageUnavailable
from pytw.storage.gather import Gather


class Statements:
    """What was run, and a gate that holds it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        #: Asked alone, these meet a bug.
        self.bugs: set[int] = set()

    async def run(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        # A journey takes at least a turn of the loop.
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if len(items) == 1 and items[0] in self.bugs:
            raise KeyError(items[0])
        if 13 in items:
            raise RequestError("thirteen")
        return [item * 2 for item in items]


@pytest.fixture
def statements() -> Statements:
    return Statements()


def gather(statements: Statements, **bounds: int) -> Gather[int, int]:
    return Gather(statements.run, **({"together_max": 8, "in_flight_max": 1} | bounds))


async def test_one_alone_is_asked_alone(statements: Statements) -> None:
    assert await gather(statements).ask(4) == 8
    assert statements.batches == [[4]]


async def test_what_comes_in_one_tick_goes_together_behind_the_first_and_each_gets_its_own(
    statements: Statements,
) -> None:
    asks = gather(statements)
    assert await asyncio.gather(*(asks.ask(n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert statements.batches == [[0], [1, 2, 3, 4]]


async def test_what_comes_while_the_database_is_busy_goes_into_the_next(statements: Statements) -> None:
    asks = gather(statements)
    statements.gate.clear()
    tasks = [asyncio.create_task(asks.ask(0))]
    while not statements.batches:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(asks.ask(n)) for n in range(1, 12)]
    await asyncio.sleep(0)
    statements.gate.set()
    assert await asyncio.gather(*tasks) == [n * 2 for n in range(12)]
    assert statements.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]


async def test_only_who_is_at_fault_hears_of_it(statements: Statements) -> None:
    asks = gather(statements)
    found = await asyncio.gather(*(asks.ask(n) for n in (11, 12, 13, 14)), return_exceptions=True)
    assert (found[0], found[1], found[3]) == (22, 24, 28)
    assert isinstance(found[2], RequestError)
    assert statements.batches == [[11], [12, 13, 14], [12], [13], [14]]
    with pytest.raises(RequestError):
        await asks.ask(13)
    assert await asks.ask(15) == 30


async def test_a_bug_is_told_to_all_that_it_keeps_from_an_answer(statements: Statements) -> None:
    """Also to those who would be asked alone behind the one that met it."""
    asks = gather(statements)
    statements.failure = KeyError("a bug")
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(asks.ask(n) for n in range(3)), return_exceptions=True)
    assert [type(error) for error in found] == [KeyError, InternalError, InternalError]
    statements.failure, statements.bugs = None, {15}
    async with asyncio.timeout(5):
        found = await asyncio.gather(*(asks.ask(n) for n in (11, 13, 14, 15, 16)), return_exceptions=True)
    assert [type(answer) for answer in found] == [int, RequestError, int, InternalError, InternalError]
    assert await asks.ask(5) == 10


async def test_a_database_that_is_away_is_told_to_all_and_not_asked_again(statements: Statements) -> None:
    asks = gather(statements)
    statements.failure = StorageUnavailable("away")
    found = await asyncio.gather(*(asks.ask(n) for n in range(4)), return_exceptions=True)
    assert [str(error) for error in found] == ["away"] * 4
    assert len({id(error) for error in found}) == 4
    assert statements.batches == [[0]]
    statements.failure = None
    assert await asks.ask(5) == 10


async def test_who_gave_up_is_left_out_and_delays_nobody(statements: Statements) -> None:
    asks = gather(statements)
    statements.gate.clear()
    first = asyncio.create_task(asks.ask(1))
    while not statements.batches:
        await asyncio.sleep(0)
    late = [asyncio.create_task(asks.ask(n)) for n in (4, 5)]
    await asyncio.sleep(0)
    first.cancel()
    late[0].cancel()
    while len(statements.batches) < 2:
        await asyncio.sleep(0)
    statements.gate.set()
    assert await late[1] == 10
    assert first.cancelled()
    assert statements.batches == [[1], [5]]


async def test_several_statements_run_at_once_up_to_the_bound(statements: Statements) -> None:
    asks = gather(statements, together_max=2, in_flight_max=3)
    statements.gate.clear()
    tasks = [asyncio.create_task(asks.ask(n)) for n in range(9)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert statements.batches == [[0], [1, 2], [3, 4]]
    statements.gate.set()
    assert await asyncio.gather(*tasks) == [n * 2 for n in range(9)]


async def test_nobody_waits_for_a_second_statement_behind_one_without_an_answer(statements: Statements) -> None:
    asks = gather(statements, together_max=2)
    statements.gate.clear()
    statements.failure = StorageUnavailable("away")
    tasks = [asyncio.create_task(asks.ask(n)) for n in range(8)]
    while not statements.batches:
        await asyncio.sleep(0)
    statements.gate.set()
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["away"] * 8
    assert statements.batches == [[0]]
    statements.failure = None
    assert await asks.ask(5) == 10
