"""What must hold when scripts, memory, time or the engine's own code go wrong."""

from __future__ import annotations

import gc
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pytw import _native
from pytw.types import Outcome

from .conftest import Driver, Failed, in_child, on_a_busy_machine

Make = Callable[..., Driver]

FILL = "local hold = {} pcall(function() for i = 1, 1e9 do hold[i] = {i} end end) "
FULL = [
    FILL
    + "local co = coroutine.create(function() end) while pcall(task.delay, 1e6, co) do end for i = 1, 3e7 do end return 1",
    FILL
    + "local co = coroutine.create(function() end) while pcall(task.delay, 1e6, co, 1, 2) do end for i = 1, 3e7 do end return 1",
    FILL
    + "while pcall(task.spawn, function() for i = 1, 1e7 do end end) and #hold < 1e9 do hold[#hold + 1] = 1 end return 1",
    "local co = coroutine.wrap(function() "
    + FILL
    + "while pcall(task.defer, coroutine.running()) do end for i = 1, 3e7 do end return 1 end) return co()",
    FILL + "return pcall(host, 'x', hold)",
    FILL
    + "while true do if not pcall(coroutine.wrap, print) then break end end task.wait(0.06) return string.rep('x', 100)",
]


@pytest.mark.parametrize("source", FULL)
def test_a_full_memory_never_ends_the_process(source: str, tmp_path: pathlib.Path) -> None:
    """Allocation fails at many different places: each limit is another one."""
    code = """
import select, sys, time
import msgpack
from pytw import _native
program = msgpack.packb([["t", "init", {"init.luau": "return function(ctx) return ctx:event().data end"}, ["*"], ["*"]]])
for limit in range(420_000, 1_420_000, 50_021):
    e = _native.Engine(vm_memory_bytes=limit, vm_reserve_bytes=0, cpu_bucket_ms=400, test_hooks=True)
    e.set_program(1, program)
    e.submit_script(1, 1, "s", sys.argv[1].encode(), "E", b"{}")
    e.submit_event(1, 2, "E", b'{"a":[1,2,3]}')
    left, end = {1, 2}, time.monotonic() + 5
    while left and time.monotonic() < end:
        select.select([e.fileno()], [], [], 1)
        for kind, _, number, _ in e.drain():
            if kind < 2:
                left.discard(number)
            elif kind == 2:
                e.answer(number, msgpack.packb([{"a": "b"}]))
    assert not left, (limit, left)
    e.close()
"""
    done = in_child(code, tmp_path, source)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "source",
    [
        "panic()",
        "pcall(panic)",
        "coroutine.wrap(function() pcall(panic) end)()",
        "table.sort({3, 1, 2}, panic)",
        "task.defer(panic) task.wait(1)",
    ],
)
def test_a_panic_costs_one_tenant(make: Make, source: str) -> None:
    d = make()
    waiting = d.script("return host('never', 1)", tenant=1)
    other = d.script("task.wait(0.3) return 'fine'", tenant=2)
    failed = d.wait(d.script(source, tenant=1))
    assert isinstance(failed, Failed) and failed.code == "internal"
    assert isinstance(d.wait(waiting), Failed)
    assert d.ok("return 'new'", tenant=1) == "new"
    assert d.done(other).value == "fine"
    assert d.engine.stats()["replaced"] == 1


def test_requests_that_have_not_started_survive_the_vm(make: Make) -> None:
    d = make()
    d.script("while true do end", tenant=2, timeout_ms=500)
    first = d.script("panic()", tenant=1)
    later = [d.script(f"return {i}", tenant=1) for i in range(20)]
    assert isinstance(d.wait(first), Failed)
    assert [d.done(number).value for number in later] == list(range(20))


def test_a_failed_thread_answers_everything_and_takes_nothing_more(make: Make) -> None:
    d = make()
    pending = [d.script("return host('never', 1)"), d.script("while true do end", tenant=2)]
    d.until(lambda: bool(d.calls))
    d.engine.panic()
    for number in pending:
        failed = d.wait(number)
        assert isinstance(failed, Failed) and failed.code == "internal" and "failed" in failed.detail
    with pytest.raises(RuntimeError, match="failed"):
        for _ in range(1000):
            d.script("return 1")
            d.pump(0.01)


def test_panic_needs_the_hooks() -> None:
    engine = _native.Engine()
    with pytest.raises(RuntimeError):
        engine.panic()
    engine.close()


@on_a_busy_machine
def test_dropping_an_engine_releases_the_gil() -> None:
    e = _native.Engine(unbreakable_ms=200)
    e.submit_script(1, 1, "s", b"table.sort({3, 1, 2}, function() while true do end end)", "E", b"{}")
    while e.stats()["slices"] == 0:
        pass
    ticks, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.monotonic()
    del e
    gc.collect()
    took = time.monotonic() - start
    stop.set()
    thread.join()
    assert took > 0.05 and ticks > took * 100, (took, ticks)


def test_a_script_that_is_not_text_is_a_script_error(driver: Driver) -> None:
    assert driver.bad(b"\x06\x03\x00\x00").outcome is Outcome.SCRIPT_ERROR


def test_errors_say_template_file_and_line(driver: Driver) -> None:
    driver.load(("greet", "local function inner()\n error('oh no')\nend\nreturn function(ctx)\n inner()\nend"))
    error = driver.done(driver.event()).error
    assert "oh no" in error and "init.luau:2" in error and "greet" in error


# The watchdog ends its process, so each of these needs one of its own.

DEAF = """
import os, select, sys, time
from pytw import _native
e = _native.Engine(unbreakable_ms=60_000, cpu_bucket_ms=60_000)
_native.watchdog(-1, 300, sys.argv[1] == "exit")
e.submit_script(77, 1, "s", b"table.sort({3, 1, 2}, function() while true do end end)", "E", b"{}")
end = time.monotonic() + 20
while time.monotonic() < end:
    select.select([e.fileno()], [], [], 1)
    for kind, tenant, number, _ in e.drain():
        if kind == _native.DEAF:
            print(tenant, number >= 300)
            os._exit(0)
"""


def test_the_watchdog_ends_a_process_with_a_deaf_thread(tmp_path: pathlib.Path) -> None:
    assert in_child(DEAF, tmp_path, "exit").returncode == 70


def test_the_watchdog_reports_a_deaf_thread(tmp_path: pathlib.Path) -> None:
    done = in_child(DEAF, tmp_path, "report")
    assert (done.returncode, done.stdout.strip()) == (0, "77 True"), done.stderr


def test_the_watchdog_leaves_busy_threads_alone(tmp_path: pathlib.Path) -> None:
    code = """
import select
from pytw import _native
e = _native.Engine(cpu_bucket_ms=60_000)
_native.watchdog(-1, 200, True)
e.submit_script(1, 1, "s", b"while true do end", "E", b"{}", 1_000)
while not e.drain():
    select.select([e.fileno()], [], [], 1)
e.close()
"""
    assert in_child(code, tmp_path).returncode == 0


def test_the_watchdog_ends_a_process_without_its_master(tmp_path: pathlib.Path) -> None:
    """Although Python is busy and holds the GIL."""
    code = """
import os, sys
from pytw import _native
_native.watchdog(os.pidfd_open(int(sys.argv[1])), 60_000, True)
print("ready", flush=True)
sum(range(10**12))
"""
    with subprocess.Popen(["sleep", "60"]) as master:
        worker = subprocess.Popen([sys.executable, "-c", code, str(master.pid)], stdout=subprocess.PIPE, cwd=tmp_path)
        assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        master.kill()
        assert worker.wait(5) == 71
        worker.stdout.close()


def test_blame_names_who_runs(tmp_path: pathlib.Path) -> None:
    import mmap
    import os
    import struct

    path = tmp_path / "blame"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDWR)
    d = Driver(blame_fd=fd, blame_slot=3, cpu_bucket_ms=60_000)
    view = mmap.mmap(fd, 4096)
    assert d.ok("return 1", tenant=5) == 1
    number = d.script("while true do end", tenant=9, timeout_ms=1_000)
    seen = set()
    while number not in d.answers:
        seen.add(struct.unpack_from("<QQ", view, 48))
        d.pump(0.001)
    assert (9, number) in seen
    d.engine.close()
    assert struct.unpack_from("<QQ", view, 48) == (0, 0)
    with pytest.raises(OSError):
        _native.Engine(blame_fd=fd, blame_slot=256)
    os.close(fd)
