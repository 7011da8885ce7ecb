"""Reaps processes that became the master's children when their parents died (it is their subreaper).

Children that somebody waits for by process id (PostgreSQL, the fork server, workers) are reaped there first; what is
still a zombie at the second look belongs to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

LOOK_S = 2.0


def zombies() -> set[int]:
    """Our children that have ended and wait to be reaped."""
    found: set[int] = set()
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(word) for word in children.read_text().split()]
        except OSError:
            continue
        found.update(pid for pid in pids if _is_zombie(pid))
    return found


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"


def reap(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


async def reap_strangers() -> None:
    """Looks every `LOOK_S` until it is cancelled."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(LOOK_S)
        now = zombies()
        reap(now & before)
        before = now
