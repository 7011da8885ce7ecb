"""Processes of a PostgreSQL cluster, found by what they do: each has the cluster as its working directory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

POLL_S = 0.2


def _working_in(pid: int, cluster: os.stat_result) -> bool | None:
    """Whether the process lives and works in the cluster; None if we may not look."""
    try:
        # The state follows the name, which may hold anything but ends at the last parenthesis.
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        if state in "ZX":
            return False
        found = os.stat(f"/proc/{pid}/cwd")
    except PermissionError:
        return None
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (cluster.st_dev, cluster.st_ino)


def clear(cluster: Path) -> bool:
    """Whether an old server still lives on *cluster*; makes way for a new one if it does not.

    What a server that was killed leaves behind would make the next one refuse to start, or wait: a pid file that names a
    zombie or somebody else's process, and children of the dead server that are busy. Both go.
    """
    try:
        here = cluster.stat()
        first = (cluster / "postmaster.pid").read_text().split("\n", 1)[0]
    except OSError:
        return False
    # A server in single-user mode writes its number negated.
    server = abs(int(first)) if first.lstrip("-").isdigit() else 0
    if server and _working_in(server, here) is not False:
        return True
    orphans = [int(name) for name in os.listdir("/proc") if name.isdigit() and _working_in(int(name), here)]
    for pid in orphans:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    if orphans:
        return True
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    return False


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Return as soon as the child has ended, and reap it."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # no such call in this kernel, or the child has been reaped
        while process.poll() is None:  # noqa: ASYNC110 - nothing would set an event
            await asyncio.sleep(POLL_S)
        return
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()
