"""What only one master may have: its data folder and its address. Claimed before anything is started."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
from pathlib import Path

from pytw.config import split_address
from pytw.errors import AddressInUse, AlreadyRunning, ConfigError, StorageRefused

LOCK_FILE = "master.lock"
#: Where a master that is root meets workers with accounts of their own, whatever the rights of its data folder's parents.
RUN_DIR = Path("/run/pytw")
#: What fits into a socket's address, its end included.
SOCKET_PATH_BYTES_MAX = 107


class DataDir:
    """The data folder, held by a lock that the kernel lets go when this process ends, however it ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def claim(cls, data_dir: str) -> DataDir:
        """Makes the folder where there is none, and takes its lock.

        Raises:
            StorageRefused: no right to write there, or no space.
            AlreadyRunning: another master has it; says which.
        """
        path = Path(os.path.expanduser(data_dir)).absolute()
        try:
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError as e:
            raise StorageRefused(f"{path} is not a folder", hint="choose one with --data-dir") from e
        except OSError as e:
            raise StorageRefused(
                f"cannot write to {path}: {e.strerror}", hint="choose another folder with --data-dir"
            ) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"already running on {path} (pid {owner})", hint="another instance needs another --data-dir"
            ) from e
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            os.fsync(fd)
        except OSError as e:
            os.close(fd)
            raise StorageRefused(f"cannot write to {path}: {e.strerror}") from e
        return cls(path, fd)

    def release(self) -> None:
        os.close(self._fd)


def bind(address: str, *, key: str, flag: str | None = None) -> socket.socket:
    """A socket bound to *address* that does not listen yet: who connects before the server is ready is refused.

    Args:
        key, flag: what in the configuration and on the command line changes the address, for the error.
    Raises:
        AddressInUse, ConfigError.
    """
    host, port = split_address(address)
    change = (
        f"{flag} HOST:PORT or TW_{key.replace('.', '_').upper()}" if flag else f"TW_{key.replace('.', '_').upper()}"
    )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise ConfigError(f"{key}: {host} is no address of this machine", hint=f"change it with {change}") from e
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        try:
            sock.bind(where)
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise AddressInUse(f"{address} is in use", hint=f"change it with {change}") from e
            raise ConfigError(f"cannot listen on {address}: {e.strerror}", hint=f"change it with {change}") from e
        undo.pop_all()
    return sock


def mesophyll_address(data_dir: Path) -> str:
    """Where workers meet this master if nothing is configured: a UNIX socket, or "" (loopback) where none can be had.

    A round trip over it is about 15 us shorter than over loopback. One path per data folder, so a master that was
    killed leaves nothing that the next one does not replace.
    """
    path = data_dir / "mesophyll.sock"
    if os.geteuid() == 0:
        path = RUN_DIR / f"{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}.sock"
        try:
            RUN_DIR.mkdir(mode=0o711, exist_ok=True)
        except OSError:
            return ""
    return f"unix:{path}" if len(os.fsencode(path)) < SOCKET_PATH_BYTES_MAX else ""
