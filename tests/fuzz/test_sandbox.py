"""P6 and P8: random programs, and allocations that fail one after the other, in a process whose end would be seen."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import SECONDS, Budget, keep
from .programs import Author

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Child:
    """The process of tests/fuzz/child.py."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.fuzz.child"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def run(self, seed: int) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{seed}\n")
        if not select.select([self.process.stdout], [], [], 30)[0]:
            return "the process hangs"
        return self.process.stdout.readline().strip() or f"the process ended with {self.process.wait(10)}"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def verdict(child: Child, seed: int) -> tuple[Child, str]:
    """What is slow must be slow three times, each in a process of its own: others have the core, too."""
    said = child.run(seed)
    for _ in range(2):
        if said == "fine":
            break
        child.close()
        child = Child()
        if said.startswith("slow"):
            said = child.run(seed)
    return child, said


def test_random_programs_hurt_nobody() -> None:
    budget, child = Budget("sandbox", 7), Child()
    try:
        for seed in budget.rounds_of_seeds():
            child, said = verdict(child, seed)
            if said != "fine":
                place = keep("sandbox", seed, f"-- {said}\n{Author(seed).write()}")
                pytest.fail(f"seed {seed}: {said}\n{place}")
    finally:
        child.close()
    budget.summary()


#: Each allocates in its own way, and is as good as any for the first thousand allocations after its start.
SWEPT = [
    "local t = {} for i = 1, 60 do t[i] = {i} end return #t",
    "local s = '' for i = 1, 60 do s ..= 'text ' .. i end return #s",
    "local n = 0 for i = 1, 30 do n += coroutine.wrap(function() coroutine.yield(i) return i end)() end return n",
    "local t = {} for i = 1, 20 do task.spawn(function() task.wait(0.05) t[i] = {} end) end task.wait(0.1) return #t",
    "for i = 1, 20 do task.defer(function(...) return {...} end, i, 'x', {}) end task.wait() return 1",
    "return host('x', {a = {1, 2, {b = 'c'}}, d = ('e'):rep(500)})",
    "local t = {} for i = 1, 10 do t[i] = loadstring('local a = ' .. i .. ' return function() return a end')() end return #t",
    "local e = {} for i = 1, 20 do e[i] = select(2, pcall(error, {i})) end return #e",
    "local ctx = ... ctx.store.x = ctx:event().data local _ = ctx.KV return ctx:event().name",
    "local t = {} for i = 1, 20 do t[i] = setmetatable({}, {__index = function(_, k) return k .. i end}).x end table.sort(t, function(a, b) return a < b end) return t",
    "local s = (('abc '):rep(50)):gsub('%w+', function(w) return w:upper() .. #w end) return {s, string.split(s, ' '), string.format('%s%d', s, 1)}",
    "local json = require('@antiraid/json') return json.fromjsonstring(json.tojsonstring({a = {1, 2, 3}, b = 'c'}))",
    "local d = require('@antiraid/datamgmt') local b = d.newblob(('x'):rep(5000)) return d.base64encode(b)",
    "local d = require('@antiraid/datetime') return tostring(d.UTC:fromTime(1) + d.timedelta_days(1))",
    "local y = require('@antiraid/typesext') local m = y.newlazystringmap({a = 'b'}) return {tostring(y.U64(5)), y.bitu64 ~= nil, m}",
]
SWEEP = """
import select, sys
import msgpack
from pytw import _native
source, first, step, reserve = sys.argv[1].encode(), *map(int, sys.argv[2:])

def run(limit, text):
    e = _native.Engine(vm_memory_bytes=limit, vm_reserve_bytes=reserve, cpu_bucket_ms=2_000, test_hooks=True)
    e.submit_script(1, 1, "s", text, "E", b'{"a":[1,{"b":"c"}]}', 5_000)
    while True:
        ready = select.select([e.fileno()], [], [], 20)[0]
        assert ready, limit
        for kind, _, number, payload in e.drain():
            if kind == 0:
                e.close()
                return msgpack.unpackb(payload, strict_map_key=False)[0] == 0
            assert kind != 1, (limit, payload)
            if kind == 2:
                e.answer(number, msgpack.packb([{"a": ["b"] * 20}]))

low, high = 100_000, 4_000_000
while high - low > 1_000:
    middle = (low + high) // 2
    if run(middle, b"return 1"):
        high = middle
    else:
        low = middle
limit, steps, good = low + first, 0, 0
while good < 3 and steps < 20_000:
    good = good + 1 if run(limit, source) else 0
    limit += step
    steps += 1
assert good == 3
print(steps)
"""


def test_allocations_that_fail_one_after_the_other_end_nothing(tmp_path: Path) -> None:
    """SQLite's method: the limit grows in steps of 64 bytes until the script succeeds. A short run takes larger steps."""
    budget = Budget("allocations", 6)
    for seed in budget.rounds_of_seeds():
        r = random.Random(seed)
        source = SWEPT[(budget.rounds - 1) % len(SWEPT)]
        step = 64 if SECONDS >= 60 else 64 * 37
        first, reserve = r.randrange(64), r.choice([0, 0, 3_000, 50_000])
        command = [sys.executable, "-c", SWEEP, source, str(first), str(step), str(reserve)]
        done = subprocess.run(
            command, env=ENVIRONMENT, cwd=tmp_path, timeout=SECONDS + 110, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            place = keep(
                "allocations",
                seed,
                f"{source}\nfirst {first} step {step} reserve {reserve}\n{done.returncode}\n{done.stderr}",
            )
            pytest.fail(f"the process ended with {done.returncode}: {place}\n{done.stderr[-1_000:]}")
    budget.summary()
