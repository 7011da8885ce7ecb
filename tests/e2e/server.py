"""A real `tw serve` for end-to-end tests: its own data folder and port, embedded PostgreSQL, the mock Discord."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READY_S_MAX = 60.0
POLL_S = 0.02


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def children(pid: int) -> list[int]:
    """All processes below *pid*."""
    found, todo = [], [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids = [int(word) for word in task.read_text().split()]
                found += pids
                todo += pids
    return found


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def gone(pids: list[int], within_s: float) -> list[int]:
    """Waits for the processes to end; returns those that live on."""
    give_up_at = time.monotonic() + within_s
    poll = select.poll()
    watched: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            watched[fd] = pid
            poll.register(fd, select.POLLIN)
    while watched and (left_s := give_up_at - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            os.close(fd)
            del watched[fd]
    for fd in watched:
        os.close(fd)
    return list(watched.values())


class Server:
    """`tw serve` as its own process."""

    def __init__(self, *args: str, data_dir: str | None = None, env: dict[str, str] | None = None) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="pytw-e2e-"))
        self.data_dir = Path(data_dir) if data_dir else self.dir / "data"
        self.port = free_port()
        self.env = {**os.environ, "TW_ADDRS_TEMPLATE_WORKER": f"127.0.0.1:{self.port}", **(env or {})}
        self.command = [sys.executable, "-m", "pytw.cli"]
        self._log = open(self.dir / "log", "wb")  # noqa: SIM115 - closed with the server
        self.process = subprocess.Popen(
            [*self.command, "serve", "--data-dir", str(self.data_dir), *args],
            env=self.env,
            cwd=self.dir,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return (self.dir / "log").read_text(errors="replace")

    def wait_ready(self, within_s: float = READY_S_MAX) -> Server:
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            if self.process.poll() is not None:
                raise AssertionError(f"tw serve ended with {self.process.returncode}:\n{self.log[-4000:]}")
            with contextlib.suppress(OSError):
                if self.call("GET", "/readyz")[0] == 200:
                    return self
            time.sleep(POLL_S)
        raise AssertionError(f"not ready in {within_s} s:\n{self.log[-4000:]}")

    def call(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def event(self, guild: int, **more: Any) -> tuple[int, Any]:
        return self.call("POST", "/test/event", {"type": "MESSAGE_CREATE", "guild_id": str(guild), **more})

    def tw(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Another `tw` against this server."""
        return subprocess.run(
            [*self.command, *args, "--data-dir", str(self.data_dir)],
            env=self.env,
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def put(self, guild: int, name: str, source: str) -> None:
        folder = self.dir / f"{guild}-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "init.luau").write_text(source)
        done = self.tw("template", "put", str(guild), name, str(folder))
        assert done.returncode == 0, done.stderr

    def workers(self) -> dict[int, int]:
        """Worker id -> pid, from the process titles."""
        found = {}
        for pid in children(self.process.pid):
            if match := re.search(r"--worker-id (\d+)", title(pid)):
                found[int(match[1])] = pid
        return found

    def wait_worker(self, worker_id: int, *, other_than: int, within_s: float = 10.0) -> int:
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            pid = self.workers().get(worker_id)
            if pid not in (None, other_than):
                assert pid is not None
                return pid
            time.sleep(POLL_S)
        raise AssertionError(f"worker {worker_id} did not come back:\n{self.log[-4000:]}")

    def wait_in_flight(self, events: int, within_s: float = 10.0) -> None:
        """Returns when the workers' heartbeats count that many running events."""
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            text = self.call("GET", "/metrics")[1].decode()
            counts = re.findall(r'tw_worker_stat\{[^}]*name="in_flight"[^}]*\} (\S+)', text)
            if sum(map(float, counts)) >= events:
                return
            time.sleep(POLL_S)
        raise AssertionError("the event does not run")

    def end(self, number: int = signal.SIGTERM, within_s: float = 15.0) -> tuple[int, list[int]]:
        """Exit code, and which of its processes live on 3 s later."""
        below = children(self.process.pid)
        self.process.send_signal(number)
        code = self.process.wait(within_s)
        return code, gone(below, 3.0)

    def close(self) -> None:
        below = children(self.process.pid)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        for pid in gone(below, 3.0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


@contextlib.contextmanager
def serving(*args: str, **more: Any) -> Iterator[Server]:
    server = Server(*args, **more)
    try:
        yield server.wait_ready()
    finally:
        server.close()
