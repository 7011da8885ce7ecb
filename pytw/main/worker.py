"""The main of a worker process: one `Worker`, its shards, one link to the master. It ends with either of the two.

In order: title, rights away, watchdog, link, VM threads, gates, READY, shards. Rights go before the first thread exists,
and after everything that needs them: what is imported and read later must be readable by a worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import platform
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import setproctitle

from pytw import observe
from pytw.discord import DiscordRest
from pytw.errors import ConfigError, PytwError, to_wire
from pytw.limits import DEAF_MS, DRAIN_S
from pytw.main import rights, seccomp
from pytw.main.console import console, port_of
from pytw.main.loop import new_event_loop
from pytw.main.options import ServeOptions
from pytw.main.shards import ShardSet
from pytw.main.specs import common_spec
from pytw.main.topology import shards_of
from pytw.mesophyll.client import MesophyllClient
from pytw.mesophyll.proxies import CursorClient, ForwardClient, IdentifyClient, db_client
from pytw.mesophyll.records import Kind
from pytw.worker.serve import WorkerServe
from pytw.worker.spec import LOOP_MODE, WorkerSpec
from pytw.worker.vms import NATIVE_ENGINE, EngineMaker, start_watchdog
from pytw.worker.worker import Worker

if TYPE_CHECKING:
    from pytw.config import Config
    from pytw.main.direct import DirectDb

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "MESOPHYLL_CLIENT_TOKEN"
#: Two hops more than an event that arrived at home.
FORWARD_GRACE_S = 2.0
#: How a worker ends whose link was lost: the supervisor starts another one.
LINK_LOST = 72
_encode = msgspec.msgpack.Encoder().encode


def title(worker_id: int, workers: int) -> str:
    """What `pgrep -f "worker-id 0"` finds."""
    return f"tw --worker-type processpoolworker --worker-id {worker_id} --process-workers {workers}"


def run_forked(spec: bytes, token: str, blame_fd: int, master_pidfd: int) -> int:
    """The entry of the fork server's children."""
    return run(msgspec.msgpack.decode(spec, type=WorkerSpec), token, blame_fd=blame_fd, master_pidfd=master_pidfd)


def run_by_hand(config: Config, options: ServeOptions) -> int:
    """`tw serve --worker-type processpoolworker`, for debugging: without gateway shards, and with the rights of its caller."""
    assert options.worker_id is not None
    assert options.process_workers is not None
    if options.worker_db == "direct" and not config.meta.postgres_url:
        raise ConfigError("--worker-db direct by hand needs the address of a database", hint="set meta.postgres_url")
    spec = msgspec.structs.replace(
        common_spec(config, options),
        database=config.meta.postgres_url if options.worker_db == "direct" else "",
        worker_id=options.worker_id,
        workers=options.process_workers,
        mesophyll=options.mesophyll,
        console_port=port_of(options.worker_id) if options.console else 0,
        exit_on_deaf=True,
    )
    return run(spec, os.environ.get(TOKEN_VARIABLE, ""))


def run(spec: WorkerSpec, token: str, *, blame_fd: int = -1, master_pidfd: int = -1) -> int:
    """Runs one worker to its end; returns the exit code."""
    setproctitle.setproctitle(title(spec.worker_id, spec.workers))
    # Whoever reads our environment later shall not find it.
    os.environ.pop(TOKEN_VARIABLE, None)
    # The terminal's Ctrl-C reaches us too; the master says when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    observe.setup_logging(spec.log_level, json_lines=spec.log_json, worker=spec.worker_id)
    held = rights.refuse_calls() if spec.drop_rights else {}
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            return runner.run(_main(spec, token, blame_fd, master_pidfd, held))
        except ConfigError as e:
            log.error("%s", e)
            return e.exit_code
        except PytwError as e:
            log.error("worker ends: %s", e)
            return 1


def rehearse() -> None:
    """What the fork server does before its first fork, so that workers share what it leaves in memory."""
    from pytw.main import rehearsal

    seccomp.program(platform.machine())
    rehearsal.rehearse()


async def _main(spec: WorkerSpec, token: str, blame_fd: int, master_pidfd: int, held: dict[str, bool]) -> int:
    return await Process(spec, blame_fd, held).run(token, master_pidfd)


class Process:
    """What lives in a worker process, and who tells whom."""

    def __init__(
        self, spec: WorkerSpec, blame_fd: int, held: dict[str, bool], *, engine: EngineMaker = NATIVE_ENGINE
    ) -> None:
        self._spec = spec
        self._ending = asyncio.Event()
        self._code = 0
        self._client = client = MesophyllClient(
            spec.worker_id, spec.epoch, {}, on_lost=self._link_lost, stats=self._stats
        )
        self._cursors = CursorClient(client)
        self._rest = DiscordRest(spec.discord.api_base, spec.discord.token) if spec.discord else DiscordRest("", "")
        db = db_client(client)
        self._direct: DirectDb | None = None
        if spec.database:
            # Stores and their driver: only where they are used, for each worker carries its own.
            from pytw.main.direct import DirectDb

            self._direct = DirectDb(spec, db)
            db = self._direct.operations
        self._worker = Worker(spec, db, self._rest, on_blame=self._blame, blame_fd=blame_fd, engine=engine)
        self._serve = WorkerServe(self._worker, on_drain=self._stop_intake, drained=self._drained)
        client.serve(self._serve.handlers())
        self._shards: ShardSet | None = None
        if spec.discord is not None:
            self._shards = ShardSet(
                spec.discord,
                shards_of(spec.worker_id, spec.workers, spec.discord.shards),
                self._worker,
                slots=IdentifyClient(client),
                cursors=self._cursors,
                forwarder=ForwardClient(client, timeout_s=spec.limits.event_deadline_ms / 1000 + FORWARD_GRACE_S),
                on_change=self._tell_ready,
            )
        self._rights = held
        self._started = False

    async def run(self, token: str, master_pidfd: int) -> int:
        """Up, until the master or its link says it is over; then down in order. Returns the exit code."""
        with ExitStack() as stack:
            return await self._run(token, master_pidfd, stack)

    async def _run(self, token: str, master_pidfd: int, stack: ExitStack) -> int:
        spec = self._spec
        stack.enter_context(console(spec.console_port))
        self._settle(master_pidfd)
        await self._client.connect(spec.mesophyll, token)
        try:
            try:
                if self._direct is not None:
                    await self._direct.open()
                await self._worker.start()
            except ConfigError as error:
                # Said before the link ends: the master kills a worker whose link is gone for no reason.
                log.error("%s", error)
                self._client.send(Kind.ENDS, 0, _encode(to_wire(error)))
                self._ending.set()
                return error.exit_code
            self._started = True
            self._tidy()
            self._tell_ready()
            if self._shards is not None:
                self._shards.start()
            await self._ending.wait()
        finally:
            await self._close()
        return self._code

    def _settle(self, master_pidfd: int) -> None:
        """What cannot be taken back: rights go, the watchdog starts."""
        spec = self._spec
        if spec.drop_rights:
            readable: list[str] = []
            if self._direct is not None:
                self._direct.find()
                readable = self._direct.files
            self._rights |= rights.reduce(
                spec.worker_id,
                readable=readable,
                may_bind=bool(spec.console_port),
                ports=_ports(spec) | (self._direct.ports if self._direct is not None else set()),
                groups=[spec.database_group] if spec.database_group else (),
            )
        start_watchdog(master_pidfd=master_pidfd, deaf_ms=DEAF_MS, exit_on_deaf=spec.exit_on_deaf)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminated)

    def _tidy(self) -> None:
        """Gives back what starting left behind: 0.4 MB of an idle worker."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)

    async def _close(self) -> None:
        if self._shards is not None:
            await self._shards.close()
        await self._worker.close()
        if self._direct is not None:
            await self._direct.close()
        await self._rest.close()
        with suppress(PytwError):
            await self._client.close("the worker ends")

    # ---- what the link brings ------------------------------------------------------------------

    def _link_lost(self, reason: str) -> None:
        if not self._ending.is_set():
            log.error("the link to the master is gone (%s): ending", reason)
            self._code = LINK_LOST
            self._ending.set()

    async def _stop_intake(self) -> None:
        if self._shards is not None:
            self._shards.stop_intake()

    async def _drained(self) -> None:
        if self._shards is not None:
            await self._shards.close()
        # The answer to DRAIN leaves first: the link is flushed when it is closed.
        asyncio.get_running_loop().call_soon(self._ending.set)

    def _terminated(self) -> None:
        log.info("SIGTERM: finishing what runs")
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._stop_intake()
        await self._worker.drain(DRAIN_S)
        await self._drained()

    # ---- what the master is told ---------------------------------------------------------------

    def _tell_ready(self) -> None:
        if not self._started:
            return
        parts = dict(self._worker.parts)
        if self._shards is not None:
            parts["gateway"] = self._shards.ready
        parts |= {f"rights.{name}": held for name, held in self._rights.items()}
        parts[LOOP_MODE] = self._worker.loop_mode
        self._client.send(Kind.READY, 0, _encode(parts))

    def _blame(self, tenant: int, milliseconds: int) -> None:
        self._client.send(Kind.BLAME, tenant, _encode((milliseconds,)))

    def _stats(self) -> dict[str, float]:
        shards = self._shards.counts() if self._shards is not None else {}
        return {**self._worker.stats(), **shards, **(self._direct.counts() if self._direct is not None else {})}


def _ports(spec: WorkerSpec) -> set[int]:
    """The ports of what a worker talks to, where they are not those of the web."""
    discord = spec.discord
    urls = [spec.mesophyll, *((discord.api_base, discord.gateway_url) if discord is not None else ())]
    return {port for url in urls if (port := urlsplit(url).port) is not None}
