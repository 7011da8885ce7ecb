"""The pool of workers, threads and processes, with what keeps it alive: supervisor, Mesophyll server, shards."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pytw.config import Config
from pytw.errors import ConfigError
from pytw.limits import DEAF_MS, DRAIN_S
from pytw.main.console import port_of
from pytw.main.forkserver import ForkServer
from pytw.main.options import ServeOptions
from pytw.main.processes import Processes
from pytw.main.specs import common_spec
from pytw.main.threads import Threads
from pytw.main.topology import Topology
from pytw.main.upstream import Upstream
from pytw.master.forwarder import PoolForwarder
from pytw.master.identify import IdentifySlots
from pytw.master.supervisor import Supervisor
from pytw.mesophyll.server import MesophyllServer
from pytw.mesophyll.services import Services
from pytw.storage.stores import Stores
from pytw.worker.pool import WorkerPool
from pytw.worker.process import WorkerProcessHandle
from pytw.worker.spec import WorkerSpec
from pytw.worker.vms import start_watchdog

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Surroundings:
    """What workers are given."""

    config: Config
    options: ServeOptions
    topology: Topology
    upstream: Upstream
    stores: Stores
    fork_server: ForkServer | None
    #: Where worker processes find this master: ``HOST:PORT``, ``unix:PATH``, or empty for any port on loopback.
    mesophyll: str
    #: Hears of a worker that has failed ten times in a row.
    on_crash_loop: Callable[[int], None]
    #: Hears why a worker cannot start as it is configured.
    on_refused: Callable[[ConfigError], None]
    #: What worker processes ask themselves; empty where they ask the master.
    database: str = ""
    #: The group in which they may.
    database_group: int = 0


class Workers:
    """All workers of this master. `pool` is what callers use."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        topology = around.topology
        self._handles = {
            i: WorkerProcessHandle(i, around.config.limits) for i in range(topology.threads, topology.workers)
        }
        specs = [self._spec(i, 1) for i in range(topology.threads)]
        self._threads = Threads(specs, around.stores, around.upstream.rest, topology.shards_of, on_blame=self._blame)
        self.pool = WorkerPool([*self._threads.members, *self._handles.values()])
        self._slots = IdentifySlots(around.upstream.max_concurrency, clock=time.monotonic)
        self._forwarder = PoolForwarder(self.pool)
        self._server: MesophyllServer | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._processes = Processes(
            around.fork_server, self._handles, self._spec, self.pool.quarantine, topology.workers
        )
        self.supervisor = self._processes.supervisor = Supervisor(
            topology.processes,
            around.options.threads_worker,
            self._processes,
            first=topology.threads,
            on_crash_loop=around.on_crash_loop,
            on_refused=around.on_refused,
        )
        if around.fork_server is not None:
            around.fork_server.on_exit = self.supervisor.exit_status

    def _blame(self, tenant: int, milliseconds: int) -> None:
        self.supervisor.blamed(tenant, milliseconds)

    def _spec(self, worker_id: int, epoch: int) -> WorkerSpec:
        around = self._around
        process = worker_id >= around.topology.threads
        return msgspec.structs.replace(
            common_spec(around.config, around.options),
            worker_id=worker_id,
            workers=around.topology.workers,
            epoch=epoch,
            mesophyll=self._server.address if process and self._server is not None else "",
            database=around.database if process else "",
            database_group=around.database_group if process else 0,
            discord=around.upstream.spec(around.topology.shards),
            console_port=port_of(worker_id) if process and around.options.console else 0,
            exit_on_deaf=process or around.options.exit_on_deaf_thread,
            drop_rights=process,
        )

    # ---- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts all workers; `wait_ready` says when they take events."""
        around = self._around
        if self._handles:
            services = Services(
                around.topology.workers,
                shards=around.topology.shards,
                db=around.stores,
                cursors=around.stores.cursors,
                slots=self._slots,
                forwarder=self._forwarder,
                limits=around.config.limits,
            )
            self._server = self._processes.server = MesophyllServer(
                {**services.handlers(), **self._processes.handlers()}, on_lost=self._processes.link_lost
            )
            await self._server.start(around.mesophyll)
            self.supervisor.start()
        if self._threads.members:
            start_watchdog(deaf_ms=DEAF_MS, exit_on_deaf=around.options.exit_on_deaf_thread)
            await self._threads.start()

    async def wait_ready(self) -> None:
        """Returns when every worker takes events; then in-process shards connect too."""
        await self.supervisor.wait_ready()
        self._threads.connect(slots=self._slots, cursors=self._around.stores.cursors, forwarder=self._forwarder)

    async def drain(self) -> bool:
        """Intake stops, what runs ends, cursors are reported. Returns whether all of it did in time."""
        if self._replacing is not None:
            self._replacing.cancel()
        return all(await asyncio.gather(self._threads.drain(DRAIN_S), self.supervisor.close(DRAIN_S)))

    async def close(self) -> None:
        """Ends what is left."""
        await self.supervisor.close(0)
        await self._threads.close()
        if self._server is not None:
            await self._server.close()

    def kill(self) -> None:
        """Kills the worker processes at once."""
        self.supervisor.kill()

    def replace_all(self) -> None:
        """Replaces worker processes one by one, in the background."""
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.create_task(self.supervisor.replace_all(), name="replace workers")

    # ---- what is known -------------------------------------------------------------------------

    def parts(self) -> dict[int, dict[str, bool]]:
        """What is up, by worker id; a worker that is not there has no parts."""
        found = self._threads.parts()
        for worker_id in self._handles:
            said = self._processes.parts.get(worker_id, {})
            found[worker_id] = {name: up for name, up in said.items() if not name.startswith("rights.")}
        return found

    def rights(self) -> dict[str, bool]:
        """Which reductions of rights hold in every worker process that is up."""
        held: dict[str, bool] = {}
        for said in self._processes.parts.values():
            for name, up in said.items():
                if name.startswith("rights."):
                    held[name[7:]] = held.get(name[7:], True) and up
        return held

    @property
    def loop_mode(self) -> bool | None:
        """Whether the built-in template is a loop (DESIGN 6); None before a worker has said. All run the same tree."""
        if not self._around.options.builtins_dir:
            return False
        said = self._threads.loop_mode
        return self._processes.loop_mode if said is None else said

    @property
    def ready(self) -> bool:
        """Every worker takes events."""
        return all(parts.get("gates", False) for parts in self.parts().values())

    @property
    def gateway_ready(self) -> bool:
        return all(parts.get("gateway", False) for parts in self.parts().values())

    def status(self) -> list[dict[str, Any]]:
        """One map per worker, for /healthz."""
        found: list[dict[str, Any]] = [
            {"worker": member.id, "kind": "thread", "state": "ready", "pid": os.getpid()}
            for member in self._threads.members
        ]
        return found + [{"kind": "process", **slot} for slot in self.supervisor.status()]

    def stats(self) -> dict[int, dict[str, float]]:
        """Each worker's numbers, by worker id."""
        found = self._threads.stats()
        if self._server is not None:
            found |= {worker_id: dict(link.stats) for worker_id, link in self._server.links.items()}
        return found
