"""A worker's rights, tried out in a child process that gives them up."""

import json
import os
import platform
import subprocess
import sys
import textwrap

import pytest

from pytw.main import seccomp

PROLOGUE = """
import ctypes, errno, json, os, socket, sys, threading
from pytw.main import rights
KEEP_UID = False
if KEEP_UID:
    rights._own_uid = lambda worker_id: False
report = rights.refuse_calls() | rights.reduce(3)
def fails(do):
    try:
        do()
    except OSError as e:
        return errno.errorcode[e.errno]
    return None
"""


def try_out(body: str, *, keep_uid: bool = False) -> dict:
    code = (
        PROLOGUE.replace("KEEP_UID = False", f"KEEP_UID = {keep_uid}")
        + textwrap.dedent(body)
        + "\nprint(json.dumps(out))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_reduced_worker_cannot_write_start_or_fork_but_reads_and_threads() -> None:
    out = try_out("""
        threads = []
        thread = threading.Thread(target=lambda: threads.append(1)); thread.start(); thread.join()
        out = {"report": report, "write": fails(lambda: open("/tmp/pytw-rights", "w")),
               "read": fails(lambda: open("/etc/passwd").read()), "exec": fails(lambda: os.execv("/bin/true", ["true"])),
               "fork": fails(os.fork), "threads": threads, "uid": os.getuid()}
    """)
    assert out["report"]["no_new_privs"]
    assert out["threads"] == [1]
    assert out["read"] is None
    if out["report"]["seccomp"]:
        assert out["exec"] == "EPERM"
        assert out["fork"] == "EPERM"
    if out["report"]["landlock"]:
        assert out["write"] == "EACCES"
    if os.getuid() == 0:
        assert out["uid"] == 62_003


def test_landlock_leaves_the_interpreters_modules_readable() -> None:
    out = try_out(
        """
        import wave, colorsys
        out = {"ok": True}
    """,
        keep_uid=True,
    )
    assert out == {"ok": True}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filter_is_whole_instructions_and_within_the_kernels_bound(machine: str) -> None:
    code = seccomp.program(machine)
    assert code is not None
    assert len(code) % 8 == 0
    assert len(code) // 8 <= 4096


def test_unknown_machine_has_no_filter() -> None:
    assert seccomp.program("riscv64") is None
    assert platform.machine()
