"""`Finishing`: handled keys are deleted together, as many as were handled while the deletion before was under way."""

from __future__ import annotations

import asyncio

from pytw.errors import PytwError
from pytw.workerdb import WorkerDb


class Finishing:
    """One operation of a tenant at a time; the first goes at once, and whoever comes meanwhile shares the next."""

    def __init__(self, db: WorkerDb) -> None:
        self._db = db
        self._waiting: dict[int, list[tuple[str, int, asyncio.Future[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def finish(self, tenant: int, record_id: str, version: int) -> None:
        """Returns when the key is deleted, or was found changed. Raises: PytwError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(tenant)
        if waiting is None:
            self._waiting[tenant] = [(record_id, version, done)]
            task = asyncio.create_task(self._run(tenant))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            waiting.append((record_id, version, done))
        await done

    async def _run(self, tenant: int) -> None:
        batch: list[tuple[str, int, asyncio.Future[None]]] = []
        try:
            while batch := self._waiting[tenant]:
                self._waiting[tenant] = []
                error: PytwError | None = None
                try:
                    await self._db.finish_expired(tenant, [(record_id, version) for record_id, version, _ in batch])
                except PytwError as raised:
                    error = raised
                for _, _, done in batch:
                    if done.done():
                        continue
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)
        finally:
            # Whoever was not told: this ends by `close`, or by a bug.
            for _, _, done in (*batch, *self._waiting.pop(tenant)):
                done.cancel()

    async def close(self) -> None:
        """What is under way is given up; those keys are handled once more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
