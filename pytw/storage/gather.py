"""`Gather`: one statement for what many ask at the same time.

A statement costs its journey, a connection's turn and, if it writes, a flush of the disk, however little it asks. What comes
while the database is busy with others goes together into the next statement; what comes alone starts at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from typing import Generic, TypeVar

from pytw.errors import InternalError, PytwError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
_Asked = tuple[Item, asyncio.Future[Result]]


class Gather(Generic[Item, Result]):
    """Answers each question as *run* does, several at a time.

    Args:
        run: the results for a list of questions, in its order. After an error other than `Unavailable` nothing may have
            changed: then each question is put alone, so that only who is at fault hears of it. Of `Unavailable` all hear,
            and all who wait: the statement may have run.
        together_max: questions in one statement.
        in_flight_max: statements at the same time.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        together_max: int,
        in_flight_max: int,
    ) -> None:
        self._run = run
        self._together_max = together_max
        self._in_flight_max = in_flight_max
        self._waiting: deque[_Asked[Item, Result]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._scheduled = False

    async def ask(self, item: Item) -> Result:
        """The result for *item*. Raises: what *run* does.

        Cancellation: what has not started never does; of what has, others may hear the end, and it may have changed things.
        """
        loop = asyncio.get_running_loop()
        if not (self._waiting or self._under_way):
            return await self._at_once(item, loop)
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, answer))
        self._schedule(loop)
        return await answer

    async def _at_once(self, item: Item, loop: asyncio.AbstractEventLoop) -> Result:
        """Nobody else asks: without a task, and without the turns of the loop that it takes."""
        self._under_way += 1
        try:
            return (await self._run([item]))[0]
        except Unavailable as error:
            self._give_up(error)
            raise
        finally:
            self._under_way -= 1
            if self._waiting:
                self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # At the end of the tick, so that what comes in one frame goes into one statement.
        if not self._scheduled and self._under_way < self._in_flight_max:
            self._scheduled = True
            loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        batch: list[_Asked[Item, Result]] = []
        while self._waiting and len(batch) < self._together_max:
            asked = self._waiting.popleft()
            if not asked[1].done():
                batch.append(asked)
        if batch:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._answer(batch))
            self._running.add(task)
            self._under_way += 1
            task.add_done_callback(self._ended)
            if self._waiting:
                self._schedule(loop)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._under_way -= 1
        if self._waiting:
            self._schedule(task.get_loop())

    async def _answer(self, batch: list[_Asked[Item, Result]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Unavailable as error:
            _fail(batch, error)
            self._give_up(error)
        except PytwError as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                try:
                    for asked in batch:
                        await self._answer([asked])
                finally:
                    # Those behind one that failed by a bug.
                    _fail(batch, InternalError("the statement failed"))
        except BaseException as error:
            _fail(batch, InternalError(f"the statement failed: {type(error).__name__}"))
            raise

    def _give_up(self, error: Unavailable) -> None:
        """Whoever waits behind a statement without an answer would wait as long again for the next one."""
        waiting, self._waiting = self._waiting, deque()
        _fail(waiting, error)


def _fail(batch: Iterable[_Asked[Item, Result]], error: PytwError) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(copy(error))


__all__ = ["Gather"]
