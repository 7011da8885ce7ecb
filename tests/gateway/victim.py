"""A process with one shard, to be killed. Writes what it starts (`S text redelivered`) and its cursors (`C json`) to stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import msgspec

from pytw.gateway import Shard
from pytw.types import CreateEvent, Cursor, Outcome
from tests.gateway.parts import Forwards, Slots, Spec, content


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


class PipedCursors:
    def __init__(self, kept: Cursor | None) -> None:
        self._kept = kept

    async def load(self, shards: int) -> dict[int, Cursor]:
        return {} if self._kept is None else {0: self._kept}

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        tell("C " + msgspec.json.encode(cursor).decode())


def offer(tenant: int, event: CreateEvent, done) -> None:
    tell(f"S {content(event)} {int(event.redelivered)}")
    # Every tenth takes longer than a report does.
    text = content(event)
    asyncio.get_running_loop().call_later(0.12 if text.endswith("0") else 0.002, partial(done, Outcome.OK))


async def main(url: str, token: str, cursor: str) -> None:
    kept = msgspec.json.decode(cursor, type=Cursor | None)
    shard = Shard(
        Spec(token, url),
        0,
        offer,
        lambda tenant, event: event == "MESSAGE",
        Slots(),
        PipedCursors(kept),
        Forwards(),
        0,
        1,
    )
    await shard.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
