"""The rehearsal runs in a process of its own, as in the fork server."""

import json
import subprocess
import sys

CODE = """
import json, logging, os, signal, time
from pytw.main import rehearsal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
before = sorted(os.listdir("/proc/self/fd"))
root = logging.getLogger()
handlers, level = root.handlers[:], root.level
rehearsal.rehearse()
# A thread that was joined is listed until the kernel has ended it.
until = time.monotonic() + 2
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < until:
    os.sched_yield()
print(json.dumps({
    "threads": len(os.listdir("/proc/self/task")),
    "files": sorted(os.listdir("/proc/self/fd")) == before,
    "logging": root.handlers == handlers and root.level == level,
    "signals": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
}))
"""


def test_rehearsal_succeeds_and_leaves_nothing_behind() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"threads": 1, "files": True, "logging": True, "signals": True}
