"""The master's hand on the fork server: a process forked off the clean interpreter that makes worker processes.

A fork of a preloaded process costs a few milliseconds and shares its modules' pages, where a fresh interpreter costs
200 ms and 27 MB. It is safe only while no thread, event loop or engine exists, so the master forks it before anything
else, and from then on only it forks workers. What runs inside is `forkloop`.

Messages are msgpack over a SOCK_SEQPACKET pair: ``[request, spec, token]`` with the blame memory's descriptor goes in;
``[STARTED, request, pid]`` with the worker's pidfd, ``[REFUSED, request, text]`` and ``[EXITED, pid, status]`` come out.
The pair is also the leash: a fork server ends when the master's end closes. If it dies first, its workers live on as
children of the master (PR_SET_CHILD_SUBREAPER), and `ForkServer` starts another one from a fresh interpreter.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgpack

from pytw.errors import Unavailable
from pytw.main import forkloop

log = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36
#: A fork server that dies again and again is started this often at most.
REPLACE_INTERVAL_S = 2.0

#: What a worker needs, imported once before the first fork so that it is shared and no worker imports with reduced rights.
PRELOAD = (
    "aiohttp",
    "uvloop",
    "orjson",
    "msgpack",
    "msgspec",
    "setproctitle",
    "pytw.main.worker",
)
#: The same where workers ask the database themselves.
PRELOAD_DIRECT = (*PRELOAD, "pytw.main.direct")


class Spawned(NamedTuple):
    """A worker process that was just forked. The receiver owns *pidfd*."""

    pid: int
    pidfd: int


class ForkServer:
    """Makes worker processes; replaced by itself when it dies."""

    def __init__(self, process: int, sock: socket.socket, entry: str, preload: Sequence[str]) -> None:
        self._pid = process
        self._sock = sock
        self._entry = entry
        self._preload = tuple(preload)
        self._child: subprocess.Popen[bytes] | None = None
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Spawned]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._started_at = float("-inf")
        self._starting: asyncio.TimerHandle | None = None
        self.on_exit: Callable[[int, int], None] = lambda pid, status: None

    @classmethod
    def start(cls, preload: Sequence[str] = PRELOAD, *, entry: str = "pytw.main.worker:run_forked") -> ForkServer:
        """Forks the fork server. Call before any thread, event loop or engine exists.

        Args:
            preload: modules that are imported here, so that master and workers share their pages.
            entry: ``module:function`` that a worker runs; it gets spec, token, blame descriptor, master's pidfd.
        """
        for name in preload:
            importlib.import_module(name)
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        master = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            forkloop.main(theirs, entry, preload, master)
        theirs.close()
        return cls(pid, ours, entry, preload)

    @property
    def pid(self) -> int:
        return self._pid

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on answers are read in *loop*."""
        self._loop = loop
        self._sock.setblocking(False)
        loop.add_reader(self._sock, self._readable)

    async def spawn(self, spec: bytes, token: str, fds: Sequence[int] = ()) -> Spawned:
        """Forks one worker.

        Raises:
            Unavailable: the fork server died or the machine refuses another process. A retry may succeed.
        """
        assert self._loop is not None
        request = next(self._requests)
        future: asyncio.Future[Spawned] = self._loop.create_future()
        self._waiting[request] = future
        try:
            socket.send_fds(self._sock, [msgpack.packb([request, spec, token])], list(fds))
        except OSError as e:
            del self._waiting[request]
            raise Unavailable(f"the fork server takes no requests: {e.strerror}") from e
        try:
            return await future
        finally:
            self._waiting.pop(request, None)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, forkloop.MESSAGE_BYTES_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._replace()
            return
        kind, number, rest = msgpack.unpackb(data)
        if kind == forkloop.EXITED:
            self.on_exit(number, rest)
            return
        waiter = self._waiting.pop(number, None)
        if kind == forkloop.STARTED and fds:
            if waiter is not None and not waiter.done():
                waiter.set_result(Spawned(rest, fds[0]))
                return
            # Nobody waits any more: a worker without an owner must not live.
            signal.pidfd_send_signal(fds[0], signal.SIGKILL)
            os.close(fds[0])
        elif waiter is not None and not waiter.done():
            waiter.set_exception(Unavailable(f"no worker process: {rest}"))

    def _replace(self) -> None:
        """The fork server died: what it was asked for fails, and a fresh interpreter takes its place."""
        assert self._loop is not None
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._reap()
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(Unavailable("the fork server died"))
        self._waiting.clear()
        if self._closing:
            return
        wait_s = max(0.0, self._started_at + REPLACE_INTERVAL_S - self._loop.time())
        log.error("fork server %d died; starting another one in %.1f s", self._pid, wait_s)
        self._starting = self._loop.call_later(wait_s, self._start_fresh)

    def _start_fresh(self) -> None:
        assert self._loop is not None
        self._started_at = self._loop.time()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-m", "pytw.main.forkloop", str(theirs.fileno()), self._entry, *self._preload]
            self._child = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._pid = self._child.pid
        self._sock = ours
        self.attach(self._loop)

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait()
            self._child = None
            return
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            log.debug("fork server %d was reaped elsewhere", self._pid)

    def close(self) -> None:
        """Lets the fork server go; it ends at once, workers that still run do not."""
        if self._closing:
            return
        self._closing = True
        if self._starting is not None:
            self._starting.cancel()
        if self._sock.fileno() < 0:
            # It has died and was reaped; no other one is there yet.
            return
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
        self._sock.close()
        self._reap()
