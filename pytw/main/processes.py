"""The hands of the supervisor: worker processes by fork server and Mesophyll."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from pytw.errors import ProtocolError, from_wire
from pytw.limits import DRAIN_S
from pytw.main.forkserver import ForkServer, Spawned
from pytw.master.supervisor import Supervisor
from pytw.mesophyll.channel import Call
from pytw.mesophyll.records import Kind
from pytw.mesophyll.server import Link, LinkHandler, MesophyllServer
from pytw.mesophyll.tokens import new_token
from pytw.routing import worker_of
from pytw.worker.process import WorkerProcessHandle
from pytw.worker.spec import LOOP_MODE, WorkerSpec

#: What a link's end says when its worker has stopped to answer.
NO_HEARTBEAT = "no heartbeat"
_decode_parts = msgspec.msgpack.Decoder(dict[str, bool]).decode
_decode_blame = msgspec.msgpack.Decoder(tuple[int]).decode
_decode_error = msgspec.msgpack.Decoder(tuple[str, str, str | None]).decode


class Processes:
    """Makes worker processes and hears from them; satisfies `master.supervisor.Hands`.

    Args:
        spec_of: what a worker is told, by worker id and epoch.
        quarantine: tells the tenant's worker, whichever kind it is.
    """

    def __init__(
        self,
        fork_server: ForkServer | None,
        handles: Mapping[int, WorkerProcessHandle],
        spec_of: Callable[[int, int], WorkerSpec],
        quarantine: Callable[[int, float], None],
        workers: int,
    ) -> None:
        self._workers = workers
        self._fork_server = fork_server
        self._handles = handles
        self._spec_of = spec_of
        self._quarantine = quarantine
        self.server: MesophyllServer
        self.supervisor: Supervisor
        #: Worker id -> what its last READY said; ``rights.`` parts say which reductions took hold.
        self.parts: dict[int, dict[str, bool]] = {}
        #: What the last worker that became ready said; None before there was one.
        self.loop_mode: bool | None = None

    # ---- Hands ---------------------------------------------------------------------------------

    async def spawn(self, worker_id: int, epoch: int, blame_fd: int) -> Spawned:
        assert self._fork_server is not None
        token = new_token()
        await self.server.expect(worker_id, epoch, token)
        spec = msgspec.msgpack.encode(self._spec_of(worker_id, epoch))
        return await self._fork_server.spawn(spec, token, [blame_fd])

    def lost(self, worker_id: int, epoch: int) -> None:
        self.server.forget(worker_id, epoch)
        self._handles[worker_id].detach()
        self.parts.pop(worker_id, None)
        link = self.server.links.get(worker_id)
        if link is not None and link.epoch == epoch:
            link.abort("the worker process died")

    async def drain(self, worker_id: int, epoch: int) -> None:
        await self._handles[worker_id].drain(DRAIN_S)

    def quarantine(self, tenant: int, seconds: float) -> None:
        self._quarantine(tenant, time.time() + seconds)

    # ---- what workers say ----------------------------------------------------------------------

    def handlers(self) -> dict[Kind, LinkHandler]:
        return {Kind.READY: self._ready, Kind.BLAME: self._blame, Kind.ENDS: self._ends}

    def link_lost(self, link: Link, reason: str) -> None:
        self._handles[link.worker_id].detach(link)
        self.supervisor.link_lost(link.worker_id, link.epoch, deaf=reason == NO_HEARTBEAT)

    def _ready(self, link: Link, call: Call) -> None:
        parts = _decode_parts(call.body)
        self.loop_mode = parts.pop(LOOP_MODE, False)
        self.parts[link.worker_id] = parts
        self._handles[link.worker_id].attach(link)
        self.supervisor.ready(link.worker_id, link.epoch)
        call.answer()

    def _blame(self, link: Link, call: Call) -> None:
        if worker_of(call.tenant, self._workers) != link.worker_id:
            raise ProtocolError("BLAME of a tenant that lives elsewhere")
        (milliseconds,) = _decode_blame(call.body)
        self.supervisor.blamed(call.tenant, milliseconds)
        call.answer()

    def _ends(self, link: Link, call: Call) -> None:
        self.supervisor.ends(link.worker_id, link.epoch, from_wire(*_decode_error(call.body)))
        call.answer()
