"""The gateway shards that feed one worker, wherever it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from pytw.errors import PytwError
from pytw.gateway import Shard
from pytw.types import CursorSink, Forwarder, IdentifySlots
from pytw.worker.spec import DiscordSpec
from pytw.worker.worker import Worker

log = logging.getLogger(__name__)

AGAIN_S = 5.0


class ShardSet:
    """Shards ``{s : s % workers == worker_id}`` of one worker.

    Args:
        on_change: told when a shard becomes ready or stops being so.
    """

    def __init__(
        self,
        discord: DiscordSpec,
        shard_ids: Iterable[int],
        worker: Worker,
        *,
        slots: IdentifySlots,
        cursors: CursorSink,
        forwarder: Forwarder,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_change = on_change
        self._tasks: list[asyncio.Task[None]] = []
        self.shards = [
            Shard(
                discord,
                shard_id,
                worker.offer,
                worker.listens,
                slots,
                cursors,
                forwarder,
                worker.spec.worker_id,
                worker.spec.workers,
                on_state=self._changed,
            )
            for shard_id in shard_ids
        ]

    def _changed(self, _shard: int, _state: str) -> None:
        self._on_change()

    @property
    def ready(self) -> bool:
        return all(shard.ready for shard in self.shards)

    def counts(self) -> dict[str, int]:
        """The shards' totals, added up, for statistics."""
        totals: dict[str, int] = {}
        for shard in self.shards:
            for name, count in shard.counts.items():
                totals[f"gateway_{name}"] = totals.get(f"gateway_{name}", 0) + count
        return totals

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(shard), name=f"shard {shard.id}") for shard in self.shards]

    async def _run(self, shard: Shard) -> None:
        while True:
            try:
                return await shard.run()
            except PytwError as e:
                # Discord will not have us: the worker goes on serving the API, and /readyz names the gateway.
                return log.critical("shard %d is given up: %s", shard.id, e)
            except Exception:
                # A bug of ours must not cost the guilds of this shard everything from here on.
                log.exception("shard %d failed; it begins again in %.0f s", shard.id, AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    def stop_intake(self) -> None:
        for shard in self.shards:
            shard.stop_intake()

    async def close(self) -> None:
        """Reports the last cursors. After this nothing of the shards runs."""
        await asyncio.gather(*(shard.close() for shard in self.shards))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
