"""A worker's first second, gone through inside the fork server before the first fork.

What the interpreter makes when code first runs (specialised code, caches of types and of patterns) is then shared by all
workers instead of made by each. So the rehearsal is the whole way from the link to a ready gateway, against a master and
a mock Discord in the same loop. Left out is what would stay: rights that cannot be had back, VM threads, the watchdog.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Sequence
from typing import Any, cast

import msgpack

from pytw import observe
from pytw.eventnames import EVERY_EVENT
from pytw.fauxpas.mockdiscord import MockDiscord
from pytw.limits import Limits
from pytw.main.worker import Process
from pytw.mesophyll.channel import Call
from pytw.mesophyll.records import Kind
from pytw.mesophyll.server import Link, MesophyllServer
from pytw.mesophyll.services import Services
from pytw.types import CreateEvent, Cursor, KvReleased, Outcome, TenantGate
from pytw.worker.spec import DiscordSpec, WorkerSpec
from pytw.worker.vms import RESULT
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)

#: The interpreter specialises code after eight runs or more.
LIVES = 16
LIVES_S = 10.0


def rehearse() -> None:
    """Lives through `LIVES` workers, one after the other. Without uvloop: libuv keeps threads and files beyond its loops."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    failure: BaseException | None = None
    try:
        with open(os.devnull, "w") as nowhere:
            for _ in range(LIVES):
                observe.setup_logging(worker=0, stream=nowhere)
            with asyncio.Runner() as runner:
                runner.run(_all_lives())
    except Exception as e:  # noqa: BLE001 - whatever went wrong, workers can be made
        failure = e
    root.handlers[:] = handlers
    root.setLevel(level)
    if failure is not None:
        log.warning("workers need more memory than they could, for their rehearsal failed", exc_info=failure)


async def _all_lives() -> None:
    async with asyncio.timeout(LIVES_S):
        await _Stage().lives()


class _Stage:
    """The master and the Discord of a rehearsal."""

    def __init__(self) -> None:
        self._mock = MockDiscord(shards=LIVES, max_concurrency=LIVES)
        nothing = _Nothing()
        services = Services(
            LIVES,
            shards=LIVES,
            db=cast(WorkerDb, nothing),
            cursors=nothing,
            slots=nothing,
            forwarder=nothing,
            limits=Limits(),
        )
        self._server = MesophyllServer({**services.handlers(), Kind.READY: self._heard})
        self._connected = asyncio.Event()

    def _heard(self, _link: Link, call: Call) -> None:
        if msgpack.unpackb(call.body)["gateway"]:
            self._connected.set()
        call.answer()

    async def lives(self) -> None:
        await self._mock.start()
        await self._server.start()
        try:
            for worker_id in range(LIVES):
                await self._life(worker_id)
        finally:
            await self._server.close()
            await self._mock.close()

    async def _life(self, worker_id: int) -> None:
        mock, token = self._mock, secrets.token_hex()
        discord = DiscordSpec(
            token=mock.token, api_base=mock.api_base, gateway_url=mock.gateway_url, shards=LIVES, intents=1
        )
        spec = WorkerSpec(worker_id=worker_id, workers=LIVES, mesophyll=self._server.address, discord=discord)
        await self._server.expect(worker_id, spec.epoch, token)
        self._connected.clear()
        worker = _Rehearsed(spec, -1, {}, engine=_NoEngine)
        living = asyncio.create_task(worker.run(token, -1))
        connected = asyncio.create_task(self._connected.wait())
        try:
            await asyncio.wait((living, connected), return_when=asyncio.FIRST_COMPLETED)
            worker.beat()
            worker.end()
            await living
        finally:
            living.cancel()
            connected.cancel()


class _Rehearsed(Process):
    """A worker that keeps its rights."""

    def _settle(self, master_pidfd: int) -> None:
        pass

    def _tidy(self) -> None:
        pass

    def beat(self) -> None:
        """What each heartbeat and each second bring."""
        self._stats()
        self._worker.dispatch.sweep()

    def end(self) -> None:
        self._ending.set()


class _NoEngine:
    """An engine without a thread, whose templates name no events."""

    def __init__(self, **_options: Any) -> None:
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._out: list[tuple[int, int, int, bytes]] = []

    def fileno(self) -> int:
        return self._event_fd

    def submit_check(self, tenant: int, request: int, _template: bytes, _timeout_ms: int = 0) -> None:
        self._out.append((RESULT, tenant, request, msgpack.packb([EVERY_EVENT])))
        os.eventfd_write(self._event_fd, 1)

    def set_current_user(self, _user: bytes) -> None:
        pass

    def drain(self) -> list[tuple[int, int, int, bytes]]:
        if not self._out:
            return []
        os.eventfd_read(self._event_fd)
        out, self._out = self._out, []
        return out

    def stats(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        if self._event_fd >= 0:
            os.close(self._event_fd)
            self._event_fd = -1


class _Nothing:
    """A database without rows, and slots without waiting."""

    async def gates(self, _worker_id: int, _workers: int) -> list[TenantGate]:
        return []

    async def claim_expired(
        self, _worker_id: int, _workers: int, *, limit: int, busy: Sequence[int] = ()
    ) -> list[tuple[int, Any]]:
        return []

    async def release_claims(self, _worker_id: int, _workers: int) -> KvReleased:
        return KvReleased(0, 0)

    async def resume_keys(self, _worker_id: int, _workers: int, _after: str, _limit: int) -> list[Any]:
        return []

    async def load(self, _shards: int) -> dict[int, Cursor]:
        return {}

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        pass

    async def acquire(self, _shard: int) -> None:
        pass

    async def forward(self, _tenant: int, _event: CreateEvent) -> Outcome:
        return Outcome.NOT_SUBSCRIBED
