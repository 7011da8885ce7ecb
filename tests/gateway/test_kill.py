"""A process that is killed over and over loses no event and runs few twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

from pytw.limits import CURSOR_WINDOW_EVENTS
from tests.gateway.parts import GUILD, mocked

KILLS = 4
EVENTS_BETWEEN_KILLS = 120
#: The pace of messages, so that a kill falls among them.
PAUSE_S = 0.002
ROOT = Path(__file__).parents[2]


class Victim:
    """One process after the other, each going on from the cursor that the last one reported."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self.cursor = "null"
        self.starts: list[tuple[str, bool, int]] = []
        self.lives = 0
        self._news = asyncio.Event()

    async def start(self) -> None:
        self.lives += 1
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.gateway.victim", self._url, self._token, self.cursor),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            kind, _, rest = line.decode().strip().partition(" ")
            if kind == "C":
                self.cursor = rest
            else:
                text, flag = rest.split()
                self.starts.append((text, flag == "1", self.lives))
            self._news.set()

    async def connected(self) -> None:
        """Return when there is a session to go on from."""
        async with asyncio.timeout(20):
            while self.cursor == "null":
                self._news.clear()
                await self._news.wait()

    async def until(self, count: int) -> None:
        """Return when *count* different events have been started."""
        async with asyncio.timeout(20):
            while len({text for text, _, _ in self.starts}) < count:
                self._news.clear()
                await self._news.wait()

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reader


async def test_killed_process_loses_nothing_and_flags_what_ran_twice():
    async with mocked() as mock:
        victim = Victim(mock.gateway_url, mock.token)
        await victim.start()
        sent = 0
        await victim.connected()
        for _ in range(KILLS):
            goal = sent + EVENTS_BETWEEN_KILLS
            reached = asyncio.create_task(victim.until(sent + EVENTS_BETWEEN_KILLS // 2))
            while sent < goal:
                await mock.say(GUILD, str(sent))
                sent += 1
                await asyncio.sleep(PAUSE_S)
            await reached
            await victim.kill()
            for _ in range(20):
                await mock.say(GUILD, str(sent))
                sent += 1
            await victim.start()
        await victim.until(sent)
        await victim.kill()

    started = Counter(text for text, _, _ in victim.starts)
    assert set(started) == {str(i) for i in range(sent)}
    first: set[str] = set()
    for text, flagged, _ in victim.starts:
        assert flagged or text not in first, f"{text} ran twice without a flag"
        first.add(text)
    twice = Counter(
        life for i, (text, _, life) in enumerate(victim.starts) if text in {t for t, _, _ in victim.starts[:i]}
    )
    assert max(twice.values(), default=0) <= CURSOR_WINDOW_EVENTS
    flags = Counter(life for _, flagged, life in victim.starts if flagged)
    assert max(flags.values(), default=0) <= CURSOR_WINDOW_EVENTS
    assert len(mock.sessions) == 1
