"""Takes from a worker process every right that it does not need. What the kernel lacks is skipped and reported.

Two steps. `refuse_calls` (no_new_privs and seccomp: which system calls) comes before the event loop exists, since libuv opens
an io_uring where it may and ends the process when it then may not use it. `reduce` (limits, identity, and Landlock: which
files) comes when everything is read that a worker reads at all: what is imported or opened later must be readable under
the result, which is why the fork server preloads.
"""

from __future__ import annotations

import ctypes
import os
import resource
import site
import struct
import sys
from collections.abc import Iterable, Sequence

from pytw.main import seccomp

#: Worker i runs as this uid plus i where the master is root: no worker may signal or trace another one.
UID_FIRST = 62_000
UID_COUNT = 1_000
NOFILE_MAX = 4_096
THREADS_MAX = 1_024
OOM_SCORE_ADJ = 500
#: In this group a worker may enter the socket directory of the embedded database (`--worker-db direct`).
DATABASE_GID = 61_999
#: What names are resolved and Discord and the web are reached through.
PORTS = (53, 80, 443)

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_LANDLOCK_CREATE = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT = 446
_FS_READ = (1 << 2) | (1 << 3)  # READ_FILE, READ_DIR
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> number of file-system rights it knows; 5 and later know 16
_NET_BIND_TCP = 1
_NET_CONNECT_TCP = 2
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2
_SCOPES = 3  # abstract unix sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_calls() -> dict[str, bool]:
    """Gives up starting programs, forking and looking into processes, for good; says which measures took hold."""
    no_new_privs = _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return {"no_new_privs": no_new_privs, "seccomp": no_new_privs and seccomp.install()}


def reduce(
    worker_id: int,
    *,
    readable: Sequence[str] = (),
    may_bind: bool = False,
    ports: Iterable[int] = (),
    groups: Sequence[int] = (),
) -> dict[str, bool]:
    """Reduces what this process may reach, for good, and says which measures took hold. After `refuse_calls`.

    Args:
        readable: folders that stay readable besides the interpreter's and the system's.
        may_bind: whether it may listen on TCP ports (the debug console).
        ports: TCP ports that it may connect to besides those of names and of the web.
        groups: what it stays a member of.
    """
    report = {"oom_score": _oom_score(), "rlimits": _rlimits(), "own_uid": _own_uid(worker_id, groups)}
    report["landlock"] = _landlock(readable, may_bind, ports)
    return report


def _oom_score() -> bool:
    try:
        with open("/proc/self/oom_score_adj", "w") as f:
            f.write(str(OOM_SCORE_ADJ))
    except OSError:
        return False
    return True


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _rlimits() -> bool:
    try:
        _lower(resource.RLIMIT_NOFILE, NOFILE_MAX)
        _lower(resource.RLIMIT_CORE, 0)
        if os.geteuid() == 0:
            # The kernel counts by account: a worker's own has nothing else, an ordinary user's may have more already.
            _lower(resource.RLIMIT_NPROC, THREADS_MAX)
    except (OSError, ValueError):
        return False
    return True


def _own_uid(worker_id: int, groups: Sequence[int] = ()) -> bool:
    """Leaves root. A worker of an ordinary user keeps that user's uid; seccomp then keeps workers apart."""
    if os.geteuid() != 0:
        return False
    uid = UID_FIRST + worker_id % UID_COUNT
    try:
        os.setgroups(list(groups))
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:
        return False
    # With a uid of its own nobody but root may look inside; a shared uid would hide it from its own operator.
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return True


def _readable_folders(extra: Sequence[str]) -> list[str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    fixed = [
        "/etc",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/share",
        "/run/systemd/resolve",
        "/proc/self",
    ]
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, package, *site.getsitepackages()]
    devices = ["/dev/null", "/dev/urandom", "/dev/random"]
    return [p for p in dict.fromkeys([*fixed, *python, *devices, *extra]) if p and p != "/" and os.path.exists(p)]


def _landlock(readable: Sequence[str], may_bind: bool, ports: Iterable[int]) -> bool:
    abi = _libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return False
    handled_fs = (1 << _FS_BITS.get(abi, 16)) - 1
    handled_net = (_NET_CONNECT_TCP | (0 if may_bind else _NET_BIND_TCP)) if abi >= 4 else 0
    scopes = _SCOPES if abi >= 6 else 0
    attributes = struct.pack("=QQQ", handled_fs, handled_net, scopes)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _libc.syscall(_LANDLOCK_CREATE, ctypes.c_char_p(attributes), size, 0)
    if ruleset < 0:
        return False
    try:
        for path in _readable_folders(readable):
            _allow_reading(ruleset, path)
        for port in {*PORTS, *ports} if handled_net else ():
            rule = struct.pack("=QQ", _NET_CONNECT_TCP, port)
            _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_NET_PORT, ctypes.c_char_p(rule), 0)
        return bool(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what this process cannot reach needs no rule
    try:
        rights = _FS_READ if os.path.isdir(path) else 1 << 2
        rule = struct.pack("=Qi", rights, fd)
        _libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(fd)
