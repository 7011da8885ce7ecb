"""In-process workers: the same `Worker` with its VM threads in the master, its database reached directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pytw.main.shards import ShardSet
from pytw.storage.stores import Stores
from pytw.types import CursorSink, Forwarder, IdentifySlots
from pytw.worker.context.discord import Rest
from pytw.worker.spec import WorkerSpec
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker


class Threads:
    """The pool's in-process members with their shards.

    Args:
        on_blame: hears of tenants that hold a VM thread.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        stores: Stores,
        rest: Rest,
        shards_of: Callable[[int], range],
        *,
        on_blame: Callable[[int, int], None],
    ) -> None:
        self._shards_of = shards_of
        self.members = [WorkerThread(Worker(spec, stores, rest, on_blame=on_blame)) for spec in specs]
        self._shards: list[ShardSet] = []

    async def start(self) -> None:
        for member in self.members:
            await member.start()

    def connect(self, *, slots: IdentifySlots, cursors: CursorSink, forwarder: Forwarder) -> None:
        """Starts the shards."""
        for member in self.members:
            discord = member.worker.spec.discord
            if discord is not None:
                shards = ShardSet(
                    discord,
                    self._shards_of(member.id),
                    member.worker,
                    slots=slots,
                    cursors=cursors,
                    forwarder=forwarder,
                )
                shards.start()
                self._shards.append(shards)

    @property
    def loop_mode(self) -> bool | None:
        """Whether the built-in template is a loop; None before a worker runs."""
        ready = [member.worker for member in self.members if member.worker.parts["builtins"]]
        return ready[0].loop_mode if ready else None

    def parts(self) -> dict[int, dict[str, bool]]:
        """What is up, by worker id."""
        found = {member.id: dict(member.worker.parts) for member in self.members}
        for member, shards in zip(self.members, self._shards, strict=False):
            found[member.id]["gateway"] = shards.ready
        return found

    def stats(self) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {member.id: {**member.worker.stats()} for member in self.members}
        for member, shards in zip(self.members, self._shards, strict=False):
            found[member.id] |= shards.counts()
        return found

    async def drain(self, timeout_s: float) -> bool:
        """Stops intake, lets what runs end, reports cursors."""
        for shards in self._shards:
            shards.stop_intake()
        # All at the same time: the master has one such time for its whole end.
        in_time = await asyncio.gather(*(member.drain(timeout_s) for member in self.members))
        await asyncio.gather(*(shards.close() for shards in self._shards))
        return all(in_time)

    async def close(self) -> None:
        for member in self.members:
            await member.kill()
