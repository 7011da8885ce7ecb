"""`WorkerProcessHandle` over a real Mesophyll link on loopback."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from pytw.errors import NotReady
from pytw.mesophyll.client import MesophyllClient
from pytw.mesophyll.records import Kind
from pytw.mesophyll.server import MesophyllServer
from pytw.mesophyll.services import Services
from pytw.mesophyll.tokens import new_token
from pytw.types import Outcome
from pytw.worker.pool import WorkerPool
from pytw.worker.process import WorkerProcessHandle
from pytw.worker.serve import WorkerServe
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, until
from .workerlike_contract import LIMITS, WAIT, A, B, Rig, WorkerLikeContract, event, spec

#: Imports once, then forks a worker for each line: an import of everything for each test would take a second each.
FORKING = """
import os, signal, sys
from pytw.main.worker import run_forked
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in iter(sys.stdin.readline, ""):
    spec, token = line.split()
    if not (pid := os.fork()):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os._exit(run_forked(bytes.fromhex(spec), token, -1, -1))
    print(pid, flush=True)
"""


@pytest.fixture(scope="module")
def forking():
    """Starts worker processes: spec and token -> pid."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:

        def fork(spec: bytes, token: str) -> int:
            parent.stdin.write(f"{spec.hex()} {token}\n")
            parent.stdin.flush()
            return int(parent.stdout.readline())

        yield fork
        parent.stdin.close()


@asynccontextmanager
async def linked(places: list[int], workers: int, db: MemoryDb, discord: MemoryDiscord):
    """Handles whose workers are at the other end of real links, in this process so that the test holds their database."""
    served: dict[int, tuple[Worker, MesophyllClient]] = {}

    async def kill(place: int) -> None:
        client = served[place][1]
        client.abort("killed")

    handles = {place: WorkerProcessHandle(place, LIMITS, kill=lambda p=place: kill(p)) for place in places}
    server = MesophyllServer(
        on_link=lambda link: handles[link.worker_id].attach(link),
        on_lost=lambda link, reason: handles[link.worker_id].detach(link),
    )
    address = await server.start()
    for place in places:
        worker = Worker(spec(place, workers, vm_threads=1), db, discord)
        await worker.start()
        client = MesophyllClient(place, 1, WorkerServe(worker).handlers(), on_lost=lambda reason: None)
        served[place] = worker, client
        token = new_token()
        await server.expect(place, 1, token)
        await client.connect(address, token)
    await until(lambda: all(handle.ready for handle in handles.values()), "the links")
    try:
        yield handles, served
    finally:
        for worker, client in served.values():
            await client.close()
            await worker.close()
        await server.close()


class TestProcess(WorkerLikeContract):
    @pytest.fixture
    async def rig(self):
        db, discord = MemoryDb(), MemoryDiscord()
        async with linked([0], 1, db, discord) as (handles, _):
            yield Rig(handles[0], db, discord)


class TestPoolOfProcesses(WorkerLikeContract):
    SIZE = 2

    @pytest.fixture
    async def rig(self):
        db, discord = MemoryDb(), MemoryDiscord()
        async with linked([0, 1], 2, db, discord) as (handles, _):
            yield Rig(WorkerPool([handles[0], handles[1]]), db, discord)


class TestRealProcess(WorkerLikeContract):
    """A process of its own, as the supervisor starts it; its database is this process's, over the link."""

    LOGS_HERE = False

    @pytest.fixture
    async def rig(self, forking):
        db = MemoryDb()
        token = new_token()

        async def kill() -> None:
            os.kill(pid, signal.SIGKILL)

        handle = WorkerProcessHandle(0, LIMITS, kill=kill)
        services = Services(1, shards=1, db=db, cursors=None, slots=None, forwarder=None)
        server = MesophyllServer(
            {**services.handlers(), Kind.READY: lambda link, call: handle.attach(link)},
            on_lost=lambda link, reason: handle.detach(link),
        )
        told = msgspec.structs.replace(spec(), epoch=1, mesophyll=await server.start())
        await server.expect(0, 1, token)
        pid = await asyncio.to_thread(forking, msgspec.msgpack.encode(told), token)
        try:
            await until(lambda: handle.ready, "the process")
            yield Rig(handle, db)
        finally:
            with suppress(ProcessLookupError):
                await kill()
            await server.close()


class TestHybrid(WorkerLikeContract):
    """Threads first, then processes, one formula over both."""

    SIZE = 2

    @pytest.fixture
    async def rig(self):
        db, discord = MemoryDb(), MemoryDiscord()
        thread = WorkerThread(Worker(spec(0, 2), db, discord))
        await thread.start()
        async with linked([1], 2, db, discord) as (handles, _):
            yield Rig(WorkerPool([thread, handles[1]]), db, discord)
        await thread.kill()


async def test_without_a_link_nothing_runs():
    handle = WorkerProcessHandle(0, LIMITS)
    assert (await handle.dispatch_event(A, event())).outcome is Outcome.NOT_READY
    assert (await handle.run_script(A, "x", "return 1")).outcome is Outcome.NOT_READY
    handle.dispatch_event_nowait(A, event())
    with pytest.raises(NotReady):
        await handle.refresh_tenant(A)


async def test_lost_link_answers_at_once_and_cancels_what_ran():
    db = MemoryDb()
    async with linked([0], 1, db, MemoryDiscord()) as (handles, served):
        rig = Rig(handles[0], db)
        await rig.put(A, WAIT)
        worker, client = served[0]
        pending = asyncio.create_task(handles[0].dispatch_event(A, event()))
        await until(lambda: worker.dispatch.in_flight, "the event to arrive")
        client.abort("gone")
        async with asyncio.timeout(0.5):
            assert (await pending).outcome is Outcome.WORKER_LOST
        await until(lambda: not worker.dispatch.in_flight, "the handler to be cancelled")
        assert (await handles[0].dispatch_event(A, event())).outcome is Outcome.NOT_READY


async def test_end_of_an_older_link_does_not_touch_a_newer_one():
    handle = WorkerProcessHandle(0, LIMITS)
    older, newer = FakeLink(), FakeLink()
    handle.attach(older)
    handle.attach(newer)
    handle.detach(older)
    assert handle.ready
    handle.detach(newer)
    assert not handle.ready


async def test_quarantine_is_told_to_a_link_that_comes_later():
    handle = WorkerProcessHandle(0, LIMITS)
    handle.quarantine(A, 4e9)
    link = FakeLink()
    handle.attach(link)
    assert [tenant for _, tenant in link.sent] == [A]


async def test_change_that_a_starting_worker_may_have_missed_is_told_to_its_link():
    """It reads its tenants' gates before it is ready; what changes in between finds no link."""
    handle = WorkerProcessHandle(0, LIMITS)
    for tenant in (A, B, A):
        with pytest.raises(NotReady):
            await handle.refresh_tenant(tenant)
    first, second = FakeLink(), FakeLink()
    handle.attach(first)
    assert first.sent == [(Kind.REFRESH, B), (Kind.REFRESH, A)]
    handle.attach(second)
    assert second.sent == []


async def test_foreign_tenant_is_refused():
    db = MemoryDb()
    async with linked([1], 2, db, MemoryDiscord()) as (handles, _):
        assert not (await handles[1].dispatch_event(A, event("MESSAGE"))).outcome.ran


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []

    def send(self, kind: int, tenant: int, body: bytes) -> None:
        self.sent.append((kind, tenant))
