"""The supervisor with real processes: `sleep` stands for a worker."""

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from pytw.errors import Unavailable
from pytw.master.supervisor import Supervisor
from tests.worker.fakes import until


@dataclass
class Made:
    pid: int
    pidfd: int


@dataclass
class SleepingHands:
    """Makes processes that sleep, and notes what the supervisor does to them."""

    refuse: bool = False
    ready: bool = True
    supervisor: Supervisor | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    lost_workers: list[int] = field(default_factory=list)
    quarantines: list[tuple[int, float]] = field(default_factory=list)
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def make(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"])

    async def spawn(self, worker_id: int, epoch: int, blame_fd: int) -> Made:
        if self.refuse:
            self.died.set()
            raise Unavailable("no more processes")
        process = self.make()
        self.processes.append(process)
        if self.ready:
            assert self.supervisor is not None
            asyncio.get_running_loop().call_soon(self.supervisor.ready, worker_id, epoch)
        return Made(process.pid, os.pidfd_open(process.pid))

    def lost(self, worker_id: int, epoch: int) -> None:
        self.lost_workers.append(worker_id)
        self.died.set()

    async def drain(self, worker_id: int, epoch: int) -> None:
        self.processes[-1].terminate()

    def quarantine(self, tenant: int, seconds: float) -> None:
        self.quarantines.append((tenant, seconds))


@pytest.fixture
async def hands() -> AsyncIterator[SleepingHands]:
    hands = SleepingHands()
    hands.supervisor = Supervisor(1, 2, hands)
    hands.supervisor.start()
    yield hands
    await hands.supervisor.close(2)
    for process in hands.processes:
        process.wait(5)


async def test_killed_worker_is_lost_at_once_and_a_new_one_starts(hands: SleepingHands) -> None:
    assert hands.supervisor is not None
    await hands.supervisor.wait_ready()
    hands.processes[0].kill()
    await asyncio.wait_for(hands.died.wait(), 2)
    await asyncio.wait_for(hands.supervisor.wait_ready(), 2)
    assert len(hands.processes) == 2
    assert hands.supervisor.status()[0]["restarts"] == 1


async def test_stopped_worker_without_a_link_is_killed_and_replaced(hands: SleepingHands) -> None:
    assert hands.supervisor is not None
    await hands.supervisor.wait_ready()
    hands.processes[0].send_signal(signal.SIGSTOP)
    hands.supervisor.link_lost(0, 1, deaf=True)
    await asyncio.wait_for(hands.died.wait(), 4)
    assert hands.lost_workers == [0]


async def test_replacement_starts_after_the_old_process_is_gone(hands: SleepingHands) -> None:
    assert hands.supervisor is not None
    await hands.supervisor.wait_ready()
    await asyncio.wait_for(hands.supervisor.replace_all(), 5)
    assert len(hands.processes) == 2
    assert hands.processes[0].poll() is not None
    assert hands.supervisor.status()[0]["failures"] == 0


async def test_close_ends_all_and_says_whether_they_left_in_time(hands: SleepingHands) -> None:
    assert hands.supervisor is not None
    await hands.supervisor.wait_ready()
    assert await hands.supervisor.close(5)
    assert hands.supervisor.status()[0]["state"] == "closed"


async def test_close_reports_none_as_killed_that_ends_when_it_is_told(
    hands: SleepingHands, caplog: pytest.LogCaptureFixture
) -> None:
    assert hands.supervisor is not None
    await hands.supervisor.wait_ready()
    with caplog.at_level(logging.INFO):
        assert await hands.supervisor.close(5)
    assert "left with status -15" in caplog.text
    assert "killing it" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_worker_that_has_not_started_is_ended_by_close_and_reported_as_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hands = SleepingHands(ready=False)
    supervisor = hands.supervisor = Supervisor(1, 2, hands)
    supervisor.start()
    await until(lambda: supervisor.status()[0]["pid"], "the process")
    with caplog.at_level(logging.INFO):
        await supervisor.close(0)
        await hands.died.wait()
        await until(lambda: "left with status" in caplog.text, "the account of its end")
    hands.processes[0].wait(5)
    assert "has not started yet: ending it" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_worker_that_does_not_end_when_it_is_told_is_reported_as_late(caplog: pytest.LogCaptureFixture) -> None:
    class WithoutWord(SleepingHands):
        async def drain(self, worker_id: int, epoch: int) -> None: ...

    hands = WithoutWord()
    supervisor = hands.supervisor = Supervisor(1, 2, hands)
    supervisor.start()
    await supervisor.wait_ready()
    assert not await supervisor.close(0.01)
    assert hands.processes[0].wait(5) == -signal.SIGKILL
    assert "workers [0] did not end in time" in caplog.text


async def test_refused_spawn_is_a_failure_of_the_slot_only() -> None:
    hands = SleepingHands(refuse=True)
    hands.supervisor = Supervisor(1, 1, hands)
    hands.supervisor.start()
    await hands.died.wait()
    assert await hands.supervisor.close(1)
    assert hands.supervisor.status()[0]["state"] == "closed"


async def test_tenant_named_by_two_dead_workers_is_quarantined(hands: SleepingHands) -> None:
    assert hands.supervisor is not None
    hands.supervisor.blamed(42, 2_000)
    assert hands.quarantines == []
    hands.supervisor.blamed(42, 2_000)
    assert hands.quarantines == [(42, 10.0)]
    assert [n.tenant for n in hands.supervisor.notices] == [42]
