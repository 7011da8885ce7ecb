"""What runs inside the fork server: one thread, one poll, a fork per request. See `forkserver` for the messages."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import msgpack
import setproctitle

MESSAGE_BYTES_MAX = 65_536
TITLE = "tw forkserver"

STARTED, REFUSED, EXITED = 1, 2, 3

_KEPT_VARIABLES = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ"}
)
_KEPT_PREFIXES = ("LC_", "LD_", "MALLOC_", "PYTHON", "VIRTUAL_ENV")

_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
_M_TRIM_THRESHOLD = -1


def main(sock: socket.socket, entry: str, preload: Sequence[str], master: int) -> NoReturn:
    """Serves until the master's end closes. Never returns into the caller's stack."""
    status = 1
    try:
        _settle(master)
        for name in preload:
            importlib.import_module(name)
        _warm(importlib.import_module(entry.partition(":")[0]))
        status = _Server(sock, entry, master).run()
    except BaseException:  # noqa: BLE001 - a forked process must not run on in its parent's stack
        traceback.print_exc()
    finally:
        os._exit(status)


def _settle(master: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != master:
        os._exit(0)
    # As many arenas as a worker has busy threads: each costs an idle worker little, too few make VM threads wait for each other.
    libc.mallopt(_M_ARENA_MAX, 4)
    libc.mallopt(_M_TRIM_THRESHOLD, 131_072)
    # First the title, which is written over the memory where the environment stood at the start.
    setproctitle.setproctitle(TITLE)
    _forget_environment()
    # The terminal signals its whole group; only the master decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _forget_environment() -> None:
    """Leaves what the interpreter and libraries look at: the master's may hold a database's password and other keys."""
    for name in set(os.environ) - _KEPT_VARIABLES:
        if not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]


def _warm(entry: ModuleType) -> None:
    """Runs what the standard library imports or loads only at first use, so that it is shared and needs no rights later.

    An entry module may have a `rehearse` function, which runs what its workers will run, as far as that leaves nothing behind.
    """
    "pytw.test".encode("idna")
    socket.getaddrinfo("localhost", 0)
    ssl.create_default_context()
    for name in ("asyncio.base_subprocess", "concurrent.futures.thread", "_strptime", "linecache", "encodings.latin_1"):
        importlib.import_module(name)
    rehearse = getattr(entry, "rehearse", None)
    # Entries made by imports would be replaced in every worker, each with a write to a page of names.
    sys._clear_type_cache()
    # Collections on the way need not look at what has come to stay.
    gc.collect()
    gc.freeze()
    if rehearse is not None:
        rehearse()
    gc.collect()
    _plug_holes()
    gc.freeze()


def _plug_holes() -> None:
    """Fills what imports left free inside pools of the object allocator.

    A worker's new objects would go into these holes and make each page around them its own; so they go to fresh pages.
    """
    for size in range(_BLOCK_STEP, _BLOCK_MAX + 1, _BLOCK_STEP):
        payload = size - _BYTES_OVERHEAD
        while payload > 1:
            block = bytes(payload)
            _plugs.append(block)
            if id(block) % _POOL_BYTES == _POOL_HEADER:
                break


#: CPython's small object allocator (obmalloc.c): blocks of multiples of 16 bytes in pools of 16 KiB.
_BLOCK_STEP = 16
_BLOCK_MAX = 512
_POOL_BYTES = 16_384
_POOL_HEADER = 48
_BYTES_OVERHEAD = sys.getsizeof(b"")
_plugs: list[bytes] = []


class _Server:
    def __init__(self, sock: socket.socket, entry: str, master: int) -> None:
        self._sock = sock
        module, _, name = entry.partition(":")
        self._run: Any = getattr(importlib.import_module(module), name)
        self._master_pidfd = os.pidfd_open(master)
        self._workers: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def run(self) -> int:
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._sock.fileno():
                    try:
                        data, fds, _, _ = socket.recv_fds(self._sock, MESSAGE_BYTES_MAX, 4)
                    except ConnectionResetError:
                        # The master's end closed before it read the last word.
                        return 0
                    if not data:
                        return 0
                    self._spawn(data, fds)
                else:
                    self._reap(fd)

    def _send(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._sock, [msgpack.packb(message)], list(fds))
        except OSError:
            os._exit(0)

    def _spawn(self, data: bytes, fds: list[int]) -> None:
        request, spec, token = msgpack.unpackb(data)
        try:
            pid = os.fork()
        except OSError as e:
            self._send([REFUSED, request, str(e.strerror)])
            for fd in fds:
                os.close(fd)
            return
        if pid == 0:
            self._become_worker(spec, token, fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._send([STARTED, request, pid], [pidfd])

    def _reap(self, pidfd: int) -> None:
        pid = self._workers.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send([EXITED, pid, os.waitstatus_to_exitcode(status)])

    def _become_worker(self, spec: bytes, token: str, fds: list[int]) -> NoReturn:
        status = 1
        try:
            kept = sorted({0, 1, 2, self._master_pidfd, *fds})
            for low, high in zip(kept, [*kept[1:], 4096], strict=True):
                os.closerange(low + 1, high)
            self._sock.detach()
            gc.enable()
            status = self._run(spec, token, fds[0] if fds else -1, self._master_pidfd)
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 1
        except BaseException:  # noqa: BLE001 - a forked process must not run on in its parent's stack
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:], os.getppid())
