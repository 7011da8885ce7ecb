"""The fork server with real processes. A script of its own holds the master, which must fork before pytest's threads."""

import json
import os
import select
import subprocess
import sys
import textwrap

MASTER = """
import asyncio, ctypes, json, os, signal, sys
from pytw.main.forkserver import ForkServer

def entry(spec, token, blame_fd, master_pidfd):
    import select
    if spec == b"exit":
        return 7
    if spec == b"fds":
        os.write(blame_fd, json.dumps({"fds": sorted(int(f) for f in os.listdir("/proc/self/fd")),
            "environ": [n for n in os.environ if n.startswith("TW_")] + [open("/proc/self/environ").read().count("hunter2")],
            "title": open("/proc/self/cmdline").read().strip(chr(0)), "token": token}).encode().ljust(4096))
        return 0
    poll = select.poll(); poll.register(master_pidfd, select.POLLIN); poll.poll()
    return 71
"""


def run_master(body: str) -> dict:
    """Runs *body* as `async def main(server)` of a master and returns the JSON that it prints."""
    code = (
        MASTER
        + "\nasync def main(server):\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + textwrap.dedent("""
        if __name__ == "__main__":
            sys.modules["forktest"] = sys.modules["__main__"]
            server = ForkServer.start(["msgpack"], entry="forktest:entry")
            async def go():
                server.attach(asyncio.get_running_loop())
                try:
                    return await main(server)
                finally:
                    server.close()
            print(json.dumps(asyncio.run(go())))
    """)
    )
    env = {**os.environ, "TW_DATABASE_URL": "postgres://u:hunter2@h/d"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_exit_status_of_a_worker_is_reported() -> None:
    got = run_master("""
        ended = asyncio.get_running_loop().create_future()
        server.on_exit = lambda pid, status: ended.set_result([pid, status])
        made = await server.spawn(b"exit", "t")
        return [made.pid, *await ended]
    """)
    assert got[0] == got[1]
    assert got[2] == 7


def test_worker_inherits_only_standard_streams_blame_memory_and_the_masters_pidfd() -> None:
    got = run_master("""
        fd = os.memfd_create("blame"); os.ftruncate(fd, 0)
        ended = asyncio.get_running_loop().create_future()
        server.on_exit = lambda pid, status: ended.set_result(status)
        first = await server.spawn(b"wait", "t")
        await server.spawn(b"fds", "secret", [fd])
        assert await ended == 0
        os.kill(first.pid, signal.SIGKILL)
        return json.loads(os.pread(fd, 4096, 0))
    """)
    assert len(got["fds"]) == 6  # 0, 1, 2, blame, pidfd, and the folder being listed
    assert got["title"].startswith("tw forkserver")
    assert got["token"] == "secret"
    assert got["environ"] == [0]


def test_pidfd_tells_of_a_killed_worker() -> None:
    got = run_master("""
        made = await server.spawn(b"wait", "t")
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(made.pidfd, gone.set)
        alive = not gone.is_set()
        os.kill(made.pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), 5)
        asyncio.get_running_loop().remove_reader(made.pidfd)
        return alive
    """)
    assert got is True


def test_dead_fork_server_is_replaced_and_its_workers_live_on() -> None:
    got = run_master("""
        import pathlib
        server._entry = "tests.main.test_forkserver:idle"
        made = await server.spawn(b"wait", "t")
        old = server.pid
        os.kill(old, signal.SIGKILL)
        while server.pid == old:
            await asyncio.sleep(0.01)
        status = pathlib.Path(f"/proc/{made.pid}/status").read_text()
        parent = status.split("PPid:")[1].split()[0]
        again = await asyncio.wait_for(server.spawn(b"exit", "t"), 10)
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)
        return [int(parent) == os.getpid(), again.pid > 0]
    """)
    assert got == [True, True]


def idle(spec: bytes, token: str, blame_fd: int, master_pidfd: int) -> int:
    """A worker that ends at once."""
    return 0


def test_spawn_while_the_fork_server_is_dead_fails_clearly() -> None:
    got = run_master("""
        from pytw.errors import Unavailable
        os.kill(server.pid, signal.SIGKILL)
        server._closing = True
        try:
            await asyncio.wait_for(server.spawn(b"exit", "t"), 5)
        except Unavailable as e:
            return e.code
    """)
    assert got == "unavailable"


def test_fork_server_ends_with_the_master() -> None:
    code = MASTER + textwrap.dedent("""
        sys.modules["forktest"] = sys.modules["__main__"]
        server = ForkServer.start(["msgpack"], entry="forktest:entry")
        print(server.pid, flush=True)
        signal.pause()
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        pid = int(master.stdout.readline())
        pidfd = os.pidfd_open(pid)
        master.kill()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(3_000)
        os.close(pidfd)
