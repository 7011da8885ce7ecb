"""What a shard is given in these tests: plain, recording implementations of its interfaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from pytw.fauxpas.mockdiscord import MockDiscord
from pytw.gateway import Shard
from pytw.types import CreateEvent, Cursor, Outcome

INTENTS = 53_608_447
GUILD = 5 << 22


@dataclass
class Spec:
    token: str
    gateway_url: str
    shards: int = 1
    intents: int = INTENTS
    application_id: int = 0


class Cursors:
    """A CursorSink that keeps what it is told."""

    def __init__(self) -> None:
        self.kept: dict[int, Cursor] = {}
        self.reports: list[Cursor | None] = []
        self._news = asyncio.Event()

    async def load(self, shards: int) -> dict[int, Cursor]:
        return dict(self.kept)

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        self.reports.append(cursor)
        if cursor is None:
            self.kept.pop(shard, None)
        else:
            self.kept[shard] = cursor
        self._news.set()

    async def until(self, fits: Callable[[Cursor], bool], timeout_s: float = 10.0) -> Cursor:
        """The first kept cursor of shard 0 that *fits*."""
        async with asyncio.timeout(timeout_s):
            while 0 not in self.kept or not fits(self.kept[0]):
                self._news.clear()
                await self._news.wait()
            return self.kept[0]


class Slots:
    def __init__(self) -> None:
        self.taken: list[int] = []

    async def acquire(self, shard: int) -> None:
        self.taken.append(shard)


class Forwards:
    def __init__(self, *outcomes: Outcome) -> None:
        self.events: list[tuple[int, CreateEvent, bool]] = []
        self._outcomes = list(outcomes)
        self.news = asyncio.Event()

    async def forward(self, tenant: int, event: CreateEvent) -> Outcome:
        self.events.append((tenant, event, event.redelivered))
        self.news.set()
        return self._outcomes.pop(0) if self._outcomes else Outcome.OK


class Offers:
    """Takes events; ends them at once unless `hold` says to keep them."""

    def __init__(self, hold: Callable[[str], bool] = lambda _: False) -> None:
        self.events: list[tuple[int, CreateEvent]] = []
        self.held: dict[str, Callable[[Outcome], None]] = {}
        self._hold = hold
        self._news = asyncio.Event()

    def __call__(self, tenant: int, event: CreateEvent, done: Callable[[Outcome], None]) -> None:
        self.events.append((tenant, event))
        text = content(event)
        if self._hold(text):
            self.held[text] = done
        else:
            asyncio.get_running_loop().call_soon(partial(done, Outcome.OK))
        self._news.set()

    @property
    def texts(self) -> list[str]:
        return [content(event) for _, event in self.events]

    @property
    def flagged(self) -> list[str]:
        return [content(event) for _, event in self.events if event.redelivered]

    async def until(self, count: int, timeout_s: float = 10.0) -> None:
        """Return when *count* events have been offered."""
        async with asyncio.timeout(timeout_s):
            while len(self.events) < count:
                self._news.clear()
                await self._news.wait()

    def release(self) -> None:
        for done in self.held.values():
            done(Outcome.OK)
        self.held.clear()


def content(event: CreateEvent) -> str:
    return str(msgspec.json.decode(event.payload).get("content"))


class Running:
    """A shard at work."""

    def __init__(self, shard: Shard, states: asyncio.Queue[str]) -> None:
        self.shard = shard
        self.states = states
        self.task = asyncio.create_task(shard.run())

    async def until(self, state: str, timeout_s: float = 10.0) -> None:
        """Return when the shard enters *state*."""
        async with asyncio.timeout(timeout_s):
            while await self.states.get() != state:
                pass

    async def kill(self) -> None:
        """End as a killed process does: the socket is gone, nothing is reported."""
        self.shard._reporter._sink = Cursors()
        socket = self.shard._socket
        if socket is not None and socket._response.connection is not None:
            transport = socket._response.connection.transport
            if transport is not None:
                transport.abort()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.shard.close()


@asynccontextmanager
async def running(
    mock: MockDiscord,
    offers: Offers,
    *,
    cursors: Cursors | None = None,
    listens: Callable[[int, str], bool] = lambda tenant, event: event == "MESSAGE",
    slots: Slots | None = None,
    forwards: Any = None,
    worker_id: int = 0,
    workers: int = 1,
    shard: int = 0,
    shards: int = 1,
    token: str | None = None,
    ready: bool = True,
    clock: Callable[[], float] = time.monotonic,
):
    states: asyncio.Queue[str] = asyncio.Queue()
    made = Shard(
        Spec(token or mock.token, mock.gateway_url, shards),
        shard,
        offers,
        listens,
        slots or Slots(),
        cursors or Cursors(),
        forwards or Forwards(),
        worker_id,
        workers,
        on_state=lambda _, state: states.put_nowait(state),
        clock=clock,
    )
    at_work = Running(made, states)
    try:
        if ready:
            await at_work.until("ready")
        yield at_work
    finally:
        await made.close()
        await asyncio.gather(at_work.task, return_exceptions=True)


@asynccontextmanager
async def mocked(**options: Any):
    options.setdefault("identify_window_s", 0.0)
    mock = MockDiscord(**options)
    await mock.start()
    try:
        yield mock
    finally:
        await mock.close()
