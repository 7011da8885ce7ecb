"""`Gather`: one statement for what many ask at the same time.

A statement costs its journey, a connection's turn and, if it writes, a flush of the disk, however little it asks. What comes
while the database is busy with others goes together into the next statement; what comes alone starts at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from copy import copy
from functools import partial
from typing import Generic, TypeVar

from pytw.errors import InternalError, PytwError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
_Asked = tuple[Item, asyncio.Future[Result]]


class Gather(Generic[Item, Result]):
    """Answers each question as *run* does, several at a time.

    Args:
        run: the results for a list of questions, in its order. After an error other than `Unavailable` nothing may have
            changed: then each question is put alone, so that only who is at fault hears of it. Of `Unavailable` all hear:
            the statement may have run.
        together_max: questions in one statement.
        in_flight_max: statements at the same time.
        alone: what of two questions with the same value must not be under way at the same time; they go in their order.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        together_max: int,
        in_flight_max: int,
        alone: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self._run = run
        self._together_max = together_max
        self._in_flight_max = in_flight_max
        self._alone = alone
        self._busy: set[Hashable] = set()
        self._waiting: deque[_Asked[Item, Result]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def ask(self, item: Item) -> Result:
        """The result for *item*. Raises: what *run* does.

        Cancellation: what has not started never does; what has, ends unheard.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, answer))
        self._schedule(loop)
        return await answer

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # At the end of the tick, so that what comes in one frame goes into one statement.
        if not self._scheduled and len(self._running) < self._in_flight_max:
            self._scheduled = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        batch = self._next()
        if batch:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._answer(batch))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, [item for item, _ in batch]))
            if self._waiting:
                self._schedule(loop)

    def _next(self) -> list[_Asked[Item, Result]]:
        batch: list[_Asked[Item, Result]] = []
        left: deque[_Asked[Item, Result]] = deque()
        while self._waiting and len(batch) < self._together_max:
            asked = self._waiting.popleft()
            if asked[1].done():
                continue
            if self._alone is not None:
                place = self._alone(asked[0])
                if place in self._busy:
                    left.append(asked)
                    continue
                self._busy.add(place)
            batch.append(asked)
        self._waiting.extendleft(reversed(left))
        return batch

    def _ended(self, items: list[Item], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._alone is not None:
            self._busy.difference_update(map(self._alone, items))
        if self._waiting:
            self._schedule(task.get_loop())

    async def _answer(self, batch: list[_Asked[Item, Result]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except PytwError as error:
            if len(batch) == 1 or isinstance(error, Unavailable):
                _fail(batch, error)
            else:
                for asked in batch:
                    await self._answer([asked])
        except BaseException as error:
            _fail(batch, InternalError(f"the statement failed: {type(error).__name__}"))
            raise


def _fail(batch: list[_Asked[Item, Result]], error: PytwError) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(copy(error))


__all__ = ["Gather"]
