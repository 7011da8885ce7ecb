"""2.2 of the catalogue: memory is bounded for the process, too, and garbage alone kills nobody."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from tests.native.conftest import Driver

from .conftest import ATTACKER, Arena, Case, ending

Make = Callable[..., Arena]

MIB = 1 << 20
VM_MIB = 25
#: What a worker may hold beside the memory of its VMs.
BESIDE_MIB = 64

CASES = {
    "M01": Case("local t = {} while true do t[#t + 1] = ('x'):rep(100) .. #t end", {"memory"}),
    "M01-in pcall": Case(
        "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end", {"memory"}
    ),
    "M01-in a comparator": Case(
        "local t = {} table.sort({2, 1}, function() while true do pcall(function() while true do t[#t + 1] = {} end end) end end)",
        {"memory", "unbreakable"},
    ),
    "M01-in a coroutine": Case(
        "local t = {} coroutine.wrap(function() while true do pcall(function() while true do t[#t + 1] = {} end end) end end)()",
        {"memory"},
    ),
    "M01-in a spawned thread": Case(
        "local t = {} task.spawn(function() while true do t[#t + 1] = {} end end) task.wait(60)", {"memory"}
    ),
    "M01-doubling": Case("local s = 'a' while true do s ..= s end", {"memory"}),
    "M02-string": Case("return (pcall(string.rep, 'x', 2^30))", {"ok"}, False),
    "M02-buffer": Case("return (pcall(buffer.create, 2^30))", {"ok"}, False),
    "M02-table": Case("return (pcall(table.create, 2^26))", {"ok"}, False),
    "M04": Case("local n = 0 for i = 1, 50 do local s = ('z'):rep(10 * 2^20) .. i n += 1 end return n", {"ok"}, 50),
    "M04-1 MiB": Case("local n = 0 for i = 1, 200 do local s = ('z'):rep(2^20) .. i n += 1 end return n", {"ok"}, 200),
    "M04-buffers": Case("local n = 0 for i = 1, 300 do local b = buffer.create(2^20) n += 1 end return n", {"ok"}, 300),
    "M04-tables": Case(
        "local n = 0 for i = 1, 300 do local t = table.create(2^16, i) n += 1 end return n", {"ok"}, 300
    ),
    "M04-native callback": Case(
        "local n = 0 table.foreach(table.create(300, 2^20), function(_, b) buffer.create(b) n += 1 end) return n",
        {"ok"},
        300,
    ),
    "M04-purely native callback": Case("table.foreach(table.create(40, 3e5), buffer.create) return 1", {"ok"}, 1),
    "M06": Case(
        "local t = {} while true do t[#t + 1] = coroutine.create(function() coroutine.yield() end) coroutine.resume(t[#t]) end",
        {"memory"},
    ),
    "M07": Case(
        """local t = {} while true do
            local co = coroutine.create(function() coroutine.yield(#{table.unpack(table.create(100000, 1))}) end)
            coroutine.resume(co) t[#t + 1] = co
        end""",
        {"memory", "cpu"},
    ),
    "M08": Case("return table.unpack(table.create(500000, 1))", {"ok"}, 1),
    "M08-from a coroutine": Case(
        "return #{coroutine.wrap(function() return table.unpack(table.create(200000, 1)) end)()}", {"ok", "error"}
    ),
    "M09": Case("return pcall(host, 'x', table.unpack(table.create(390000, 1)))", {"ok"}, False),
    "M09-257": Case("host('x', table.unpack(table.create(257, 1)))", {"size"}),
    "M09-256": Case("host('x', table.unpack(table.create(256, 1))) return 'sent'", {"ok"}, "sent"),
    "M09-large": Case("host('x', table.unpack(table.create(200, ('x'):rep(2^20))))", {"size"}),
    "M09-large and many": Case(
        "local s = ('x'):rep(3 * 2^20) for i = 1, 1000 do task.spawn(host, 'never', s) end host('never', s)", {"calls"}
    ),
    "M15": Case("local t = {} t.t = t return t", {"depth"}),
    "M15-caught": Case("local t = {} t.t = t return (pcall(host, 'x', t))", {"ok"}, False),
    "M15-wide": Case("local t = {} for i = 1, 20 do t = table.create(100, t) end return t", {"size"}),
    "M15-key": Case("local t = {} for i = 1, 70 do t = {[t] = 1} end return t", {"depth"}),
    "M17": Case("error(('x'):rep(10 * 2^20))", {"error"}),
    "M17-no text": Case("error(('\\xff'):rep(10 * 2^20), 0)", {"error"}),
    "M17-spawned": Case("for i = 1, 20 do task.spawn(error, ('\\xff'):rep(2^20), 0) end return 'on'", {"ok"}, "on"),
    "M19": Case("local t = {} while true do t[#t + 1] = newproxy(true) end", {"memory"}),
    "M19-closures": Case("local t = {} while true do t[#t + 1] = function() return t end end", {"memory"}),
    "M19-strings": Case("local t = {} while true do t[#t + 1] = 'k' .. #t end", {"memory"}),
    "M19-weak": Case(
        "local t = setmetatable({}, {__mode = 'k'}) for i = 1, 3e5 do t[{}] = i end return 'alive'", {"ok"}, "alive"
    ),
    "M20": Case("return (pcall(table.concat, table.create(1000, ('x'):rep(1e5))))", {"ok", "memory"}, False),
    "M20-format": Case(
        "return (pcall(string.format, ('%s'):rep(100), table.unpack(table.create(100, ('x'):rep(2^20)))))",
        {"ok", "memory"},
        False,
    ),
    "M20-gsub": Case("return (pcall(string.gsub, ('a'):rep(1000), 'a', ('x'):rep(1e5)))", {"ok", "memory"}, False),
    "M20-compiled": Case(
        "local t = {} while true do t[#t + 1] = loadstring('return {' .. ('1,'):rep(5000) .. '}') end",
        {"memory", "cpu"},
    ),
}


def status(field: str) -> int:
    """A field of this process's memory, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def forget_peak() -> int:
    """From here on the peak counts anew; gives what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


@pytest.mark.parametrize("name", CASES)
def test_memory(arena: Make, name: str) -> None:
    a = arena(vm_memory_bytes=VM_MIB * MIB, cpu_bucket_ms=2_000)
    before = forget_peak()
    seen = a.watch(a.script(CASES[name].source, tenant=ATTACKER))
    assert ending(seen.done) in CASES[name].ends, seen.done
    if CASES[name].value is not None and ending(seen.done) == "ok":
        assert seen.done.value == CASES[name].value, seen.done
    assert len(getattr(seen.done, "error", "").encode()) <= 4_096
    a.recovers()
    a.sing()
    assert status("VmHWM") - before <= (VM_MIB + BESIDE_MIB) * MIB
    assert max(seen.latencies) < 1


# What lives and what is garbage, for a VM of 20 MiB: (live data, what is done with the rest).
LIVE = {
    "tables": "local live = {} for i = 1, 100000 do live[i] = {i} end",
    "strings": "local live = {} for i = 1, 130000 do live[i] = 'some text number ' .. i end",
    "one buffer": "local live = buffer.create(9e6)",
    "one text": "local live = ('x'):rep(9e6)",
    "threads": "local live = {} for i = 1, 7000 do live[i] = coroutine.create(function() end) end",
}
CHURN = {
    "tables": "for i = 1, 4e5 do local g = {i, i} end",
    "texts": "for i = 1, 4e5 do local g = 'x' .. i end",
    "buffers": "for i = 1, 300 do local g = buffer.create(2^20) end",
    "large buffers": "for i = 1, 60 do local g = buffer.create(6 * 2^20) end",
    "large texts": "for i = 1, 60 do local g = ('x'):rep(3 * 2^20) .. i end",
    "growing tables": "for i = 1, 8 do local g = {} for j = 1, 1e5 do g[j] = j end end",
    "closures": "for i = 1, 3e5 do local g = function() return i end end",
    "coroutines": "for i = 1, 2e4 do coroutine.wrap(function() return {i} end)() end",
    "loadstring": "for i = 1, 200 do loadstring('return {' .. ('1,'):rep(1000) .. i .. '}') end",
}


@pytest.mark.parametrize("churn", CHURN)
@pytest.mark.parametrize("live", LIVE)
def test_live_data_of_half_the_limit_never_dies_of_garbage(make: Callable[..., Driver], live: str, churn: str) -> None:
    d = make(vm_memory_bytes=20 * MIB, cpu_bucket_ms=20_000)
    assert d.ok(f"{LIVE[live]} {CHURN[churn]} return live ~= nil") is True
    assert d.engine.stats()["replaced"] == 0


def test_m16_a_payload_that_is_deep_or_wide_is_refused_when_it_is_read(arena: Make) -> None:
    a = arena(vm_memory_bytes=VM_MIB * MIB, cpu_bucket_ms=2_000)
    a.load(("t", "return function(ctx) return type(ctx:event().data) end"), tenant=ATTACKER)
    before = forget_peak()
    for payload, ends in (
        (b"[" * 100_000 + b"]" * 100_000, {"depth"}),
        (b"[" + b"[]," * 1_000_000 + b"1]", {"memory", "size"}),
        (b'[{"a":' * 30_000 + b"1" + b"}]" * 30_000, {"depth"}),
        (b"[" + b"1," * 2_000_000 + b"1]", {"memory", "size"}),
        (b'"' + b"\\u0061" * 600_000 + b'"', {"ok"}),
    ):
        seen = a.watch(a.event(payload, tenant=ATTACKER))
        assert ending(seen.done) in ends, (payload[:10], seen.done)
        assert max(seen.latencies) < 1
        a.recovers()
    assert status("VmHWM") - before <= (VM_MIB + BESIDE_MIB) * MIB


def test_m18_an_answer_that_is_too_long_is_an_error_where_the_call_was_made(arena: Make) -> None:
    a = arena(vm_memory_bytes=VM_MIB * MIB)
    a.holding = True
    for source, ends in (("host('x')", "size"), ("return (pcall(host, 'x'))", "ok")):
        number = a.script(source)
        a.until(lambda: bool(a.calls))
        a.engine.answer(a.calls.pop()[0], msgpack.packb(["x" * (30 * MIB)]))
        assert ending(a.wait(number)) == ends
    a.recovers()
    assert a.engine.stats()["replaced"] == 0


@pytest.mark.parametrize("reserve", [0, 2 * MIB])
def test_m21_each_allocation_may_fail(make: Callable[..., Driver], reserve: int) -> None:
    """tests/fuzz sweeps the limits more finely."""
    source = "local t = {} for i = 1, 500 do t[i] = {tostring(i), {i}} end host('x', t) t[1] = function() return t end return #t"
    for limit in range(400_000, 800_000, 40_009):
        d = make(vm_memory_bytes=limit, vm_reserve_bytes=reserve, cpu_bucket_ms=2_000)
        assert ending(d.wait(d.script(source))) in ("ok", "memory")
        d.engine.close()
