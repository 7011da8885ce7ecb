"""Work on background threads: it is waited for, bounded, paid for by its tenant, and no other tenant's matter."""

from __future__ import annotations

from pathlib import Path

from pytw.types import Outcome

from .conftest import in_child

# The package that is tested, whatever is installed.
ROOT = Path(__file__).parents[2]
ON = 'local datamgmt = require("@antiraid/datamgmt") '
# A megabyte that takes brotli's best level about a second.
NOISE = (
    "local parts, seed = table.create(2^18), 1 for i = 1, 2^18 do seed = (seed * 69069 + 1) % 2^32 "
    "parts[i] = string.char(seed // 2^24, i % 7, i % 251, 65 + seed // 2^20 % 16) end local noise = table.concat(parts) "
)


def handler(body: str) -> tuple[str, str]:
    return ("t", f"{ON}return function(ctx) {body} end")


def test_other_tenants_run_meanwhile(make):
    driver = make(cpu_bucket_ms=5_000)
    driver.load(handler('for _ = 1, 10 do datamgmt.aes256encrypt("x", "key") end return "slow"'))
    driver.load(handler('return "quick"'), tenant=2)
    slow = driver.event()
    quick = driver.event(tenant=2)
    driver.wait(quick)
    assert slow not in driver.answers
    assert driver.done(slow).value == "slow"


def test_the_tenant_pays_for_it(make):
    driver = make(cpu_bucket_ms=5_000)
    driver.load(handler('datamgmt.aes256encrypt("x", "key")'))
    assert driver.done(driver.event()).cpu_us > 10_000, "64 MiB are not filled in less"


def test_who_owes_for_it_waits(make):
    driver = make(cpu_bucket_ms=20, cpu_refill_percent=1)
    driver.load(handler('datamgmt.aes256encrypt("x", "key")'))
    assert driver.done(driver.event(timeout_ms=500)).outcome is Outcome.TIMEOUT
    done = driver.done(driver.event())
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "cpu")


def test_a_job_may_use_what_its_tenant_has_left(make):
    driver = make(cpu_bucket_ms=150, cpu_refill_percent=50)
    driver.load(handler(NOISE + 'return #datamgmt.compress("brotli", noise)'))
    done = driver.done(driver.event())
    assert (done.outcome, done.limit) == (Outcome.LIMIT_EXCEEDED, "cpu")
    assert "this takes more than" in done.error


def test_jobs_of_one_event_run_side_by_side_up_to_the_bound_on_host_calls(make):
    driver = make(cpu_bucket_ms=10_000, host_calls_max=2)
    driver.load(
        handler(
            "local done, all = 0, coroutine.running() for i = 1, 6 do task.spawn(function() "
            'local sealed = datamgmt.aes256encrypt(tostring(i), "key") '
            'assert(buffer.tostring(datamgmt.aes256decrypt(sealed, "key"):tobuffer()) == tostring(i)) done += 1 '
            "end) end while done < 6 do task.wait() end return done"
        )
    )
    assert driver.done(driver.event()).value == 6


def test_a_tenants_jobs_hold_a_bounded_number_of_bytes(make):
    driver = make(cpu_bucket_ms=10_000, vm_memory_bytes=100 << 20, host_calls_max=20)
    driver.load(
        handler(
            "local content, errors = buffer.create(2^23), {} for i = 1, 6 do task.spawn(function() "
            'local ok, err = pcall(datamgmt.aes256encrypt, content, "key") if not ok then table.insert(errors, err) end '
            "end) end task.wait(0.2) return errors[1]"
        )
    )
    assert "too much background work at once" in driver.done(driver.event()).value


def test_a_check_starts_no_work(make):
    driver = make()
    answer = driver.wait(driver.check(ON + 'datamgmt.aes256encrypt("x", "key") return function() end'))
    assert "being checked cannot start work" in answer.detail


def test_a_job_of_a_dropped_tenant_is_nobodys(make):
    driver = make(cpu_bucket_ms=10_000)
    driver.load(handler('for _ = 1, 4 do task.spawn(datamgmt.aes256encrypt, "x", "key") end task.wait(60)'))
    event = driver.event()
    driver.drop()
    assert driver.done(event).outcome is Outcome.CANCELLED
    driver.load(handler('return #datamgmt.aes256encrypt("x", "key")'))
    assert driver.done(driver.event()).value == 8 + 12 + 1 + 16


def test_closing_an_engine_does_not_wait_for_its_jobs():
    """The thread goes on by itself, with nobody to tell."""
    code = """
import msgpack, select
from pytw import _native
engine = _native.Engine(cpu_bucket_ms=10_000, test_hooks=True)
source = 'local d = require("@antiraid/datamgmt") return function() for _ = 1, 6 do task.spawn(d.aes256encrypt, "x", "k") end host("begun") end'
engine.set_program(1, msgpack.packb([["t", "init", {"init.luau": source}, ["*"], ["*"]]]))
engine.submit_event(1, 1, "E", b"{}", timeout_ms=60_000)
select.select([engine.fileno()], [], [], 20)
engine.close()
print("closed")
"""
    done = in_child(code, ROOT)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


def test_a_forked_child_has_its_own_thread():
    code = """
import msgpack, os, select
from pytw import _native

def run():
    engine = _native.Engine(cpu_bucket_ms=10_000)
    source = 'local d = require("@antiraid/datamgmt") return function() return #d.aes256encrypt("x", "k") end'
    engine.set_program(1, msgpack.packb([["t", "init", {"init.luau": source}, ["*"], ["*"]]]))
    engine.submit_event(1, 1, "E", b"{}", timeout_ms=60_000)
    select.select([engine.fileno()], [], [], 20)
    (item,) = engine.drain()
    engine.close()
    return msgpack.unpackb(item[3])[2][0][3] == 37

assert run()
child = os.fork()
if child == 0:
    os._exit(0 if run() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("both")
"""
    done = in_child(code, ROOT)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
