"""Keeps one worker process alive per slot: the asyncio shell around `slot.SlotMachine`.

It learns of a death from the process's pidfd, within a millisecond, fails what callers wait for, reads who was running
(`blame`), and starts the next process when the slot says so. How a process is made and spoken to is given as `Hands`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytw.errors import ConfigError, PytwError
from pytw.master import blame
from pytw.master.slot import TICK_S, Do, SlotMachine, State
from pytw.observe import tenant_name

log = logging.getLogger(__name__)

#: How long the fork server's word on an exit status is waited for before the death counts as unexplained.
STATUS_WAIT_S = 0.25


class Spawned(Protocol):
    """A worker process that was just made."""

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int: ...


class Hands(Protocol):
    """What the supervisor does to workers."""

    async def spawn(self, worker_id: int, epoch: int, blame_fd: int) -> Spawned:
        """Makes the process. Raises: PytwError, OSError."""

    def lost(self, worker_id: int, epoch: int) -> None:
        """The process is dead: what waits for it fails."""

    async def drain(self, worker_id: int, epoch: int) -> None:
        """Asks the worker to finish what runs and to end."""

    def quarantine(self, tenant: int, seconds: float) -> None:
        """The tenant's events get outcome ``quarantined`` for so long."""


@dataclass(slots=True)
class _Process:
    epoch: int
    pid: int
    pidfd: int
    blame_fd: int


@dataclass(slots=True)
class Notice:
    """Something an owner or operator should know."""

    at: float
    tenant: int
    """0: of no tenant."""
    text: str


@dataclass(slots=True)
class _Slot:
    machine: SlotMachine
    process: _Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Supervisor:
    """Starts, watches, restarts and ends the worker processes of a pool.

    Args:
        first: worker id of the first process (behind a hybrid pool's thread workers).
        on_crash_loop: called with the worker id when a slot has failed ten times in a row.
        on_refused: called with the reason when a worker cannot start as it is configured.
    """

    NOTICES_MAX = 1_000

    def __init__(
        self,
        workers: int,
        vm_threads: int,
        hands: Hands,
        *,
        first: int = 0,
        clock: Callable[[], float] = time.monotonic,
        on_crash_loop: Callable[[int], None] = lambda worker_id: None,
        on_refused: Callable[[ConfigError], None] = lambda error: None,
    ) -> None:
        self._hands = hands
        self._vm_threads = vm_threads
        self._clock = clock
        self._on_crash_loop = on_crash_loop
        self._on_refused = on_refused
        self._slots = {i: _Slot(SlotMachine(i)) for i in range(first, first + workers)}
        self._statuses: dict[int, asyncio.Future[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._oom_kills = blame.oom_kills()
        self.blame = blame.Blame(clock)
        self.notices: list[Notice] = []

    # ---- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all workers at once; `wait_ready` says when they take events."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick_forever(), name="supervisor")

    async def wait_ready(self) -> None:
        for slot in self._slots.values():
            await slot.ready.wait()

    async def close(self, timeout_s: float) -> bool:
        """Drains all workers. Returns whether they all ended in time; those that did not are killed.

        Args:
            timeout_s: 0 gives them none, so that none is late.
        """
        for slot in self._slots.values():
            self._act(slot, slot.machine.close(self._clock()))
            if slot.machine.state is State.CLOSED:
                slot.gone.set()
        try:
            async with asyncio.timeout(timeout_s):
                for slot in self._slots.values():
                    await slot.gone.wait()
        except TimeoutError:
            if timeout_s:
                log.warning("workers %s did not end in time", [i for i, s in self._slots.items() if s.process])
        in_time = not any(slot.process for slot in self._slots.values())
        self.kill()
        if self._ticker is not None:
            self._ticker.cancel()
        for task in list(self._tasks):
            task.cancel()
        return in_time

    def kill(self) -> None:
        """Kills what lives, at once."""
        for slot in self._slots.values():
            if slot.process is not None:
                self._signal(slot.process, signal.SIGKILL)

    async def replace_all(self) -> None:
        """Replaces workers one by one: the next one leaves when the one before is ready again."""
        for slot in self._slots.values():
            if slot.machine.state is not State.READY:
                continue
            slot.ready.clear()
            self._act(slot, slot.machine.leave(self._clock()))
            await slot.ready.wait()

    # ---- what is heard of workers --------------------------------------------------------------

    def ready(self, worker_id: int, epoch: int) -> None:
        """The worker takes events."""
        slot = self._slots[worker_id]
        if slot.machine.epoch == epoch and slot.machine.state is State.STARTING:
            slot.machine.ready(self._clock())
            slot.ready.set()

    def ends(self, worker_id: int, epoch: int, error: PytwError) -> None:
        """The worker says that it cannot start, and why; it is given the time to end."""
        slot = self._slots[worker_id]
        if slot.machine.epoch == epoch and slot.machine.ends(self._clock()):
            self._refused(worker_id, error if isinstance(error, ConfigError) else ConfigError(error.detail))

    def link_lost(self, worker_id: int, epoch: int, *, deaf: bool) -> None:
        """The worker's link is gone though its process may live; *deaf*: it no longer answered heartbeats."""
        slot = self._slots[worker_id]
        if slot.machine.epoch == epoch:
            self._act(slot, slot.machine.lost(deaf=deaf))

    def exit_status(self, pid: int, status: int) -> None:
        """What the fork server says of a process's end."""
        future = self._statuses.get(pid)
        if future is not None and not future.done():
            future.set_result(status)

    def blamed(self, tenant: int, milliseconds: int) -> None:
        """A tenant holds a VM thread of a worker that lives on."""
        log.warning("tenant has held a VM thread for %d ms", milliseconds, extra={"tenant": tenant})
        self._name([tenant])

    def status(self) -> list[dict[str, Any]]:
        """One map per slot for /healthz and `tw`."""
        return [
            {
                "worker": i,
                "state": slot.machine.state.value,
                "pid": slot.process.pid if slot.process else None,
                "epoch": slot.machine.epoch,
                "failures": slot.machine.failures,
                "restarts": slot.machine.restarts,
                "crash_loop": slot.machine.crash_loop,
            }
            for i, slot in self._slots.items()
        ]

    # ---- inside --------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        promised = self._clock()
        while True:
            now = self._clock()
            for slot in self._slots.values():
                self._act(slot, slot.machine.tick(now, now - promised))
            promised = self._clock() + TICK_S
            await asyncio.sleep(TICK_S)

    def _act(self, slot: _Slot, todo: list[Do]) -> None:
        machine = slot.machine
        for do in todo:
            if do is Do.SPAWN:
                slot.task = self._background(self._spawn(slot, machine.epoch))
            elif do is Do.KILL:
                slot.ready.clear()
                if slot.process is not None:
                    if machine.unstarted:
                        log.info(
                            "worker %d (pid %d) has not started yet: ending it", machine.worker_id, slot.process.pid
                        )
                    else:
                        cause = "is deaf" if machine.deaf else "lost its link or did not end in time"
                        log.warning("worker %d (pid %d) %s: killing it", machine.worker_id, slot.process.pid, cause)
                    self._signal(slot.process, signal.SIGKILL)
            elif do is Do.LEAVE:
                self._background(self._drain(machine.worker_id, machine.epoch))
            elif do is Do.ALARM:
                log.critical("worker %d is in a crash loop: one try a minute from here on", machine.worker_id)
                self._on_crash_loop(machine.worker_id)

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _drain(self, worker_id: int, epoch: int) -> None:
        try:
            await self._hands.drain(worker_id, epoch)
        except PytwError as e:
            log.info("worker %d left without an answer to drain: %s", worker_id, e.detail)

    async def _spawn(self, slot: _Slot, epoch: int) -> None:
        machine = slot.machine
        blame_fd = blame.create_slots(self._vm_threads)
        try:
            made = await self._hands.spawn(machine.worker_id, epoch, blame_fd)
        except (PytwError, OSError) as e:
            os.close(blame_fd)
            log.error("no process for worker %d: %s", machine.worker_id, e)
            self._ended(slot)
            return
        except BaseException:
            os.close(blame_fd)
            raise
        slot.process = process = _Process(epoch, made.pid, made.pidfd, blame_fd)
        loop = asyncio.get_running_loop()
        self._statuses[made.pid] = loop.create_future()
        loop.add_reader(made.pidfd, self._died, slot, process)
        if machine.state is State.KILLED:
            self._signal(process, signal.SIGKILL)

    def _died(self, slot: _Slot, process: _Process) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.pidfd)
        slot.process = None
        slot.ready.clear()
        self._hands.lost(slot.machine.worker_id, process.epoch)
        ran = blame.read_slots(process.blame_fd, self._vm_threads)
        os.close(process.blame_fd)
        deaf = slot.machine.deaf
        orderly = slot.machine.state is State.LEAVING or slot.machine.unstarted
        try:
            # Only a worker whose fork server died before it is our own child.
            ended = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            ended = None
        os.close(process.pidfd)
        if ended is not None:
            exited = ended.si_code == os.CLD_EXITED
            self.exit_status(process.pid, ended.si_status if exited else -ended.si_status)
        self._background(self._account(slot.machine.worker_id, process, ran, deaf=deaf, orderly=orderly))
        self._ended(slot)

    def _ended(self, slot: _Slot) -> None:
        todo = slot.machine.exited(self._clock())
        if slot.machine.state is State.CLOSED:
            slot.gone.set()
        self._act(slot, todo)

    async def _account(
        self, worker_id: int, process: _Process, ran: list[tuple[int, int]], *, deaf: bool, orderly: bool
    ) -> None:
        """Says how a worker ended, and names who may have ended it."""
        future = self._statuses[process.pid]
        status: int | None = None
        try:
            async with asyncio.timeout(STATUS_WAIT_S):
                status = await future
        except TimeoutError:
            status = None
        finally:
            self._statuses.pop(process.pid, None)
        if orderly:
            log.info("worker %d (pid %d) left with status %s", worker_id, process.pid, status)
            return
        kills = blame.oom_kills()
        out_of_memory, self._oom_kills = kills > self._oom_kills, kills
        log.error(
            "worker %d (pid %d) died with status %s%s, running tenants %s",
            worker_id,
            process.pid,
            status,
            ", deaf" if deaf else "",
            [tenant_name(tenant) for tenant, _ in ran],
        )
        if status == ConfigError.exit_code:
            self._refused(worker_id, ConfigError("it cannot be configured so", hint="the log of the worker says more"))
        if blame.is_tenants_fault(status, deaf=deaf, out_of_memory=out_of_memory):
            self._name([tenant for tenant, _ in ran])

    def _refused(self, worker_id: int, error: ConfigError) -> None:
        text = f"worker {worker_id} does not start: {error}"
        # It is tried again and again; what is said once more takes the place of what was said before.
        self.notices = [notice for notice in self.notices if notice.text != text]
        self._notice(0, text)
        self._on_refused(error)

    def _notice(self, tenant: int, text: str) -> None:
        self.notices = [*self.notices[-self.NOTICES_MAX + 1 :], Notice(time.time(), tenant, text)]

    def _name(self, tenants: list[int]) -> None:
        for found in self.blame.named(tenants):
            text = f"quarantined for {found.seconds:.0f} s: {found.named} times running when a worker died or hung"
            log.error("tenant is %s", text, extra={"tenant": found.tenant})
            if found.first:
                self._notice(found.tenant, text)
            self._hands.quarantine(found.tenant, found.seconds)

    def _signal(self, process: _Process, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            log.debug("worker process %d was gone already", process.pid)
