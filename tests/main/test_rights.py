"""A worker's rights, tried out in a child process that gives them up."""

import ctypes
import json
import os
import platform
import socket
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
    rights._own_uid = lambda worker_id, groups: False
PORTS = ()
report = rights.refuse_calls() | rights.reduce(3, ports=PORTS)
def fails(do):
    try:
        do()
    except OSError as e:
        return errno.errorcode[e.errno]
    return None
"""


def try_out(body: str, *, keep_uid: bool = False, ports: tuple[int, ...] = ()) -> dict:
    code = (
        PROLOGUE.replace("KEEP_UID = False", f"KEEP_UID = {keep_uid}").replace("PORTS = ()", f"PORTS = {ports}")
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


def test_a_worker_reaches_the_ports_it_was_given_and_no_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as allowed, socket.create_server(("127.0.0.1", 0)) as other:
        given, elsewhere = allowed.getsockname()[1], other.getsockname()[1]
        out = try_out(
            f"""
            def connect(port):
                socket.create_connection(("127.0.0.1", port), 2).close()
            out = {{"report": report, "given": fails(lambda: connect({given})), "elsewhere": fails(lambda: connect({elsewhere})),
                   "ssh": fails(lambda: connect(22)), "listen": fails(lambda: socket.create_server(("127.0.0.1", 0)))}}
        """,
            keep_uid=True,
            ports=(given,),
        )
    assert out["given"] is None
    if out["report"]["landlock"]:
        assert {out["elsewhere"], out["ssh"], out["listen"]} == {"EACCES"}


def test_a_worker_reads_no_memory_of_its_master() -> None:
    secret = bytearray(b"the database's password")
    address = ctypes.addressof((ctypes.c_char * len(secret)).from_buffer(secret))
    out = try_out(f"""
        pid, libc = os.getppid(), ctypes.CDLL(None, use_errno=True)
        class Range(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
        mine = ctypes.create_string_buffer({len(secret)})
        here = Range(ctypes.addressof(mine), len(mine))
        got = libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(Range({address}, {len(secret)})), 1, 0)
        def seize():
            if libc.ptrace(0x4206, pid, 0, 0) < 0:
                raise OSError(ctypes.get_errno(), "ptrace")
        out = {{"report": report, "readv": got, "ptrace": fails(seize), "mem": fails(lambda: open(f"/proc/{{pid}}/mem", "rb")),
               "environ": fails(lambda: open(f"/proc/{{pid}}/environ", "rb").read()), "seen": bytes(mine.raw).hex()}}
    """)
    assert bytes.fromhex(out["seen"]) != secret
    assert out["readv"] == -1 and out["ptrace"] is not None and out["mem"] is not None
    assert out["environ"] is not None


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
