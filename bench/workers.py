"""One worker in this process, or in a process of its own behind a real Mesophyll link, with its database in memory."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from pytw.limits import Limits
from pytw.mesophyll.records import Kind
from pytw.mesophyll.server import MesophyllServer
from pytw.mesophyll.services import Services
from pytw.mesophyll.tokens import new_token
from pytw.types import TemplateSource
from pytw.worker.like import WorkerLike
from pytw.worker.process import WorkerProcessHandle
from pytw.worker.spec import WorkerSpec
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker
from pytw.workerdb import WorkerDb
from tests.worker.fakes import MemoryDb, MemoryDiscord

LIMITS = Limits(cpu_bucket_ms=600_000, cpu_refill_percent=100, queue_events_max=10_000)
SPEC = WorkerSpec(vm_threads=1, limits=LIMITS)
TENANT = 1 << 22
CHILD = """
import os, sys
from pytw.main.worker import run_forked
sys.exit(run_forked(bytes.fromhex(sys.argv[1]), os.environ.pop("TOKEN"), -1, -1))
"""


@dataclass
class Bench:
    """A worker, and the process that runs its VMs."""

    worker: WorkerLike
    pid: int


def memory_database(source: str) -> MemoryDb:
    db = MemoryDb()
    db.put(TENANT, TemplateSource("bench", {"init.luau": source.encode()}, frozenset({"MESSAGE"})))
    return db


@asynccontextmanager
async def in_process(source: str) -> AsyncIterator[Bench]:
    """A `WorkerThread` whose one template is *source*."""
    worker = WorkerThread(Worker(SPEC, memory_database(source), MemoryDiscord()))
    await worker.start()
    try:
        yield Bench(worker, os.getpid())
    finally:
        await worker.kill()


@asynccontextmanager
async def in_a_process(source: str, db: WorkerDb | None = None) -> AsyncIterator[Bench]:
    """A `WorkerProcessHandle` over a process that runs what `tw serve` forks; with *db*, that has the templates."""
    ready = asyncio.Event()
    handle = WorkerProcessHandle(0, LIMITS)

    def is_ready(link: object, call: object) -> None:
        handle.attach(link)  # type: ignore[arg-type]
        ready.set()

    services = Services(1, shards=1, db=db or memory_database(source), cursors=None, slots=None, forwarder=None)
    server = MesophyllServer({**services.handlers(), Kind.READY: is_ready}, on_lost=lambda link, _: handle.detach(link))
    folder = tempfile.TemporaryDirectory()
    # A UNIX socket, as the master has by default (main/claims.py).
    address, token = await server.start(f"unix:{folder.name}/mesophyll.sock"), new_token()
    await server.expect(0, 1, token)
    told = msgspec.msgpack.encode(msgspec.structs.replace(SPEC, epoch=1, mesophyll=address))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, told.hex(), env={**os.environ, "TOKEN": token}
    )
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        yield Bench(handle, child.pid)
    finally:
        child.kill()
        await child.wait()
        await server.close()
        folder.cleanup()
