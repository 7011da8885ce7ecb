"""A template run by hand: one worker with its real VM, a database in memory, and the mock as its Discord."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pytw.commands.sources import OnLeftOut, read_files, warn_left_out
from pytw.discord.rest import DiscordRest
from pytw.fauxpas.mockdiscord import MockDiscord
from pytw.types import BUILTINS, EVERY_CAPABILITY, CreateEvent, DispatchResult, TemplateSource
from pytw.worker.context.boundary import OnCall
from pytw.worker.memory import MemoryDb
from pytw.worker.spec import WorkerSpec
from pytw.worker.template import Template
from pytw.worker.worker import Worker

#: The guild that a template runs for unless the author names another one.
GUILD_ID = 1 << 22


class LocalWorker:
    """Runs one template for one guild, as `tw serve` would."""

    def __init__(self, worker: Worker, db: MemoryDb, guild: int) -> None:
        self._worker = worker
        self._db = db
        self._guild = guild

    async def events_of(self, source: TemplateSource) -> list[str]:
        """The events that its entry names. Raises: ScriptError, LimitExceeded."""
        return await self._worker.check_template(self._guild, Template(source))

    async def deploy(self, source: TemplateSource) -> None:
        """Make it the guild's only template."""
        self._db.put(self._guild, source)
        await self._worker.refresh_tenant(self._guild)

    async def run(self, event: CreateEvent, timeout_ms: int) -> DispatchResult:
        """What became of an event."""
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(body: bytes) -> None:
            if not ended.done():
                ended.set_result(body)

        self._worker.dispatch.dispatch(self._guild, event, done, timeout_ms)
        return DispatchResult(await ended)


@asynccontextmanager
async def local_worker(guild: int, on_call: OnCall | None = None) -> AsyncIterator[LocalWorker]:
    """A worker of this process, ready to run, which takes nothing from outside and leaves nothing behind."""
    mock = MockDiscord(guilds=[guild])
    await mock.start()
    rest = DiscordRest(mock.api_base, mock.token)
    db = MemoryDb()
    try:
        worker = Worker(WorkerSpec(vm_threads=1), db, rest, on_call=on_call)
        await worker.start()
        try:
            yield LocalWorker(worker, db, guild)
        finally:
            await worker.close()
    finally:
        await rest.close()
        await mock.close()


def read_template(
    place: Path,
    *,
    entry: str,
    caps: tuple[str, ...],
    events: frozenset[str],
    on_left_out: OnLeftOut = warn_left_out,
) -> TemplateSource:
    """The template of a file or folder. Raises: RequestError: there is none."""
    files = {path: text.encode() for path, text in read_files(place, on_left_out).items()}
    name = place.resolve().stem if place.is_file() else place.resolve().name
    return TemplateSource(
        name=name or BUILTINS.removeprefix("$"),
        entry=entry,
        files=files,
        events=events,
        allowed_caps=caps or (EVERY_CAPABILITY,),
    )
