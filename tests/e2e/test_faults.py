"""What dies comes back, and nothing outlives the master."""

import os
import signal
import threading
import time

from tests.e2e.server import children, gone, serving, title
from tests.e2e.test_serve import ECHO


def test_killed_worker_returns_with_its_templates_and_others_do_not_notice() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        mine, other = (8 << 22), (9 << 22)
        server.put(mine, "echo", ECHO)
        server.put(other, "echo", ECHO)
        first = server.workers()[0]
        os.kill(first, signal.SIGKILL)
        assert server.event(other)[0] == 200
        server.wait_worker(0, other_than=first)
        server.wait_ready(10)
        status, body = server.event(mine)
        assert status == 200
        assert "ok" in str(body)


def test_kill_9_of_the_master_leaves_nothing() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        below = children(server.process.pid)
        assert len(below) >= 4
        server.process.kill()
        server.process.wait(5)
        assert [title(pid) for pid in gone(below, 3)] == []


def test_stopped_worker_is_replaced() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        first = server.workers()[0]
        os.kill(first, signal.SIGSTOP)
        assert server.wait_worker(0, other_than=first) != first
        server.wait_ready(10)


def test_killed_fork_server_is_replaced_and_its_workers_live_on() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        worker = server.workers()[0]
        (fork_server,) = [pid for pid in children(server.process.pid) if title(pid).startswith("tw forkserver")]
        os.kill(fork_server, signal.SIGKILL)
        assert gone([fork_server], 3) == []
        assert server.event(8 << 22)[0] == 200
        assert server.workers()[0] == worker
        os.kill(worker, signal.SIGKILL)
        server.wait_worker(0, other_than=worker)
        server.wait_ready(10)


def test_sighup_replaces_the_workers_one_by_one() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        before = server.workers()
        server.process.send_signal(signal.SIGHUP)
        for worker_id, pid in before.items():
            server.wait_worker(worker_id, other_than=pid, within_s=20)
        server.wait_ready(10)


def test_killed_postgresql_is_back_within_2_seconds() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        guild = 8 << 22
        server.put(
            guild, "count", "return { MESSAGE = function(ctx) ctx.KV:set('a', 1, { 's' }) return 'stored' end }\n"
        )
        postgres = next(pid for pid in children(server.process.pid) if "postgres -D" in title(pid))
        os.kill(postgres, signal.SIGKILL)
        assert gone([postgres], 2) == []
        server.wait_ready(5)
        give_up_at = time.monotonic() + 2
        while "stored" not in str(server.event(guild)[1]):
            assert time.monotonic() < give_up_at


def test_sigterm_lets_running_events_end() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        guild = 8 << 22
        server.put(guild, "slow", "return { MESSAGE = function() task.wait(3) return 'late' end }\n")
        got: list[object] = []
        caller = threading.Thread(target=lambda: got.append(server.event(guild)))
        caller.start()
        server.wait_in_flight(1)
        code, left = server.end()
        caller.join(10)
        assert (code, left) == (0, [])
        assert "late" in str(got)
