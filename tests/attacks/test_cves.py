"""Section 1 of the catalogue: holes that other script engines have had, as scripts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import ATTACKER, Arena, Case, stands

OUT_OF_RANGE = """local wrong, n = {}, 0
local sizes = {0, 1, -1, 4, 7, 8, 9, 2^31 - 1, 2^31, -2^31, 2^32 - 1, 2^32, 2^53, -2^53, 1 / 0, -1 / 0, 0 / 0, 0.5}
local b = buffer.create(8)
local calls = {
    buffer.readi8, buffer.readu32, buffer.readf64, buffer.readstring, buffer.writeu8, buffer.writef64, buffer.writestring, buffer.fill, buffer.copy,
    buffer.readbits, buffer.writebits, string.byte, string.sub, string.rep, string.char, utf8.codepoint, utf8.offset, utf8.char, table.concat, table.move,
    table.create, table.unpack, table.insert, table.remove, select, math.random, bit32.extract, bit32.replace, bit32.lshift, bit32.rrotate, string.unpack,
    string.pack, string.packsize, string.format, tostring, tonumber, os.date, os.time, task.wait and math.ldexp, vector.create,
}
local firsts = {b, 'abc', '%d', '<i8', {1, 2, 3}, 5}
for _, f in calls do
    for _, first in firsts do
        for _, x in sizes do
            if not (f == table.create or f == string.rep or f == table.concat) or x ~= x or math.abs(x) < 1e5 or x > 2^40 then
                for _, y in sizes do pcall(f, first, x, y) pcall(f, first, x, y, x) n += 1 end
            end
        end
    end
end
return n > 1000"""

CASES = {
    "CVE-2025-49844 a chunk name that is collected while it is parsed": Case(
        "for i = 1, 300 do loadstring('local a = ' .. i .. ' return a', ('n' .. i):rep(500)) if i % 10 == 0 then local t = table.create(20000, i) end end return 1",
        {"ok"},
        1,
    ),
    "CVE-2025-46817 unpack over the whole range of integers": Case(
        """for _, range in {{1, 2^31 - 1}, {-2^31, 2^31 - 1}, {0, 2^32}, {-1e9, 1e9}, {2^31 - 2, 2^31 - 1}, {-2^53, 2^53}} do
            pcall(table.unpack, {1}, range[1], range[2]) pcall(unpack, {}, range[1], range[2]) end return 'fine'""",
        {"ok"},
        "fine",
    ),
    "CVE-2025-46818 metatables of basic types": Case(
        """local found = {}
        for _, v in {'', 1, true, print or pcall, coroutine.running(), buffer.create(1), vector.zero, newproxy(false)} do
            local meta = getmetatable(v)
            if meta and pcall(function() meta.__index = {} end) then found[#found + 1] = type(v) end
        end
        return table.concat(found, ' ')""",
        {"ok"},
        "",
    ),
    "CVE-2025-46819 out of bounds, and CVE-2024-31449 bit operations": Case(OUT_OF_RANGE, {"ok"}, True),
    "CVE-2024-46981 finalizers": Case(
        "for i = 1, 1e5 do setmetatable({}, {__gc = function() error('x') end}) end return (pcall(collectgarbage, 'collect'))",
        {"ok"},
        False,
    ),
    "CVE-2024-31228 a pattern that recurses": Case(
        "return (pcall(string.match, ('a'):rep(3e5), ('a?'):rep(3000) .. ('a'):rep(3000)))", {"ok", "unbreakable"}
    ),
    "CVE-2024-31228 a pattern that nests": Case(
        "return (pcall(string.find, ('('):rep(1e5), ('('):rep(1e5)))", {"ok"}, False
    ),
    "CVE-2023-25155 a pattern that backtracks": Case("return (('a'):rep(30000)):match('.-.-.-.-b')", {"unbreakable"}),
    "CVE-2022-24834 deep values": Case("local t = {} for _ = 1, 1e5 do t = {t} end return t", {"depth"}),
    "CVE-2022-24735 tampering before another call": Case(
        "local ok = pcall(function() pcall = nil error = nil table = nil string = nil end) return ok", {"ok"}, True
    ),
    "CVE-2021-32626 the stack in a callback": Case(
        "local function f(n) return string.gsub('a', 'a', function() return f(n + 1) end) end return (pcall(f, 1))",
        {"ok"},
        False,
    ),
    "CVE-2021-32626 many values on the stack": Case(
        "local function f(...) return f(1, 2, 3, 4, 5, 6, 7, 8, 9, ...) end return (pcall(f))", {"ok", "memory", "cpu"}
    ),
    "CVE-2022-0543 package": Case(
        "return package == nil and io == nil and os.execute == nil and os.getenv == nil and os.exit == nil",
        {"ok"},
        True,
    ),
    "CVE-2015-4335 bytecode": Case(
        "local n = 0 for v = 0, 255 do if loadstring(string.char(v) .. '\\3\\0\\0\\0\\0') then n += 1 end end return n < 10",
        {"ok"},
        True,
    ),
    "CVE-2015-8080 formats of pack": Case(
        """for _, f in {'!16i16', 'i17', '!17', 's16', 'c2147483647', 'c9999999999', 'i0', 'xXi16', 'Xz', ('i16'):rep(1000), '>!8 d', '=I16'} do
            pcall(string.pack, f, 1, 2, 3) pcall(string.unpack, f, ('x'):rep(64)) pcall(string.packsize, f) pcall(string.unpack, f, 'x', -5) end return 1""",
        {"ok"},
        1,
    ),
    "CVE-2021-44964 tables that change while they are walked": Case(
        """local t = {} for i = 1, 2000 do t[i] = {} t['k' .. i] = {} end
        for k in t do t[k] = nil t[{}] = 1 if #t % 100 == 0 then table.clear(t) end if math.random() < 0.01 then break end end
        table.sort({3, 1, 2, 5}, function(a, b) table.create(1000) return a < b end)
        local s = {} for i = 1, 200 do s[i] = {i} end
        pcall(table.sort, s, function(a, b) table.clear(s) return true end)
        table.foreach(t, function(k) t[k] = nil end)
        return 1""",
        {"ok"},
        1,
    ),
    "CVE-2021-43519 coroutines in coroutines": Case(
        "local f f = function() coroutine.wrap(f)() end return (pcall(coroutine.wrap(f)))", {"ok"}, False
    ),
    "CVE-2022-33099 errors in error handlers": Case(
        "local function h(e) error(e .. 'x') end return (xpcall(function() error('a') end, h))", {"ok"}, False
    ),
    "CVE-2022-33099 errors in a full stack": Case(
        "local function f() local ok, e = xpcall(f, function(e) return f() end) return f() end return (pcall(f))",
        {"ok", "cpu", "memory"},
    ),
    "CVE-2020-24369 upvalues of ended coroutines": Case(
        """local fs = {} for i = 1, 500 do local co = coroutine.wrap(function() local x = {i} fs[i] = function() x = {x} return x end coroutine.yield() error('end') end)
            co() if i % 2 == 0 then pcall(co) end end
        local n = 0 for i = 1, 500 do n += #fs[i]() end return n""",
        {"ok"},
        500,
    ),
    "CVE-2020-15888 the stack moves while a thread is resumed": Case(
        """local function deep(n) if n > 0 then return deep(n - 1), 1 end return coroutine.wrap(function() local t = table.create(5000, 1) return table.unpack(t) end)() end
        return select('#', deep(150)) > 0""",
        {"ok"},
        True,
    ),
    "CVE-2014-5461 many arguments of a vararg function": Case(
        """local names = {} for i = 1, 150 do names[i] = 'a' .. i end
        local f = loadstring('return function(' .. table.concat(names, ',') .. ', ...) return a150, ... end')()
        return select('#', f(table.unpack(table.create(7000, 1))))""",
        {"ok"},
        6851,
    ),
    "Luau 0.709 table.find beside a change": Case(
        "local t = {} for i = 1, 100 do t[i] = setmetatable({}, {__eq = function() table.clear(t) return false end}) end return table.find(t, setmetatable({}, {__eq = function() return false end})) == nil",
        {"ok"},
        True,
    ),
    "Luau 0.694 a walk over a table that shrinks": Case(
        "local t = table.create(1000, 1) local n = 0 for i in ipairs(t) do n += 1 if i == 10 then table.clear(t) end end for i in t do t[i] = nil end return n",
        {"ok"},
        10,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cve(name: str) -> None:
    stands(CASES[name], cpu_bucket_ms=2_000 if name.startswith("CVE-2025-46819") else 200)


def test_cve_2025_49844_hostile_sources_from_outside(arena: Callable[..., Arena]) -> None:
    a = arena()
    for source in (
        b"\x00",
        b"\x1bLua",
        b"\x06\x03\x00\x00",
        b"return '" + b"\xff" * 1000 + b"'",
        b"(" * 200_000,
        b"local " * 40_000,
        b"`{" * 100_000,
        b"--[" + b"=" * 200_000,
    ):
        a.wait(a.script(source, tenant=ATTACKER))
        a.recovers()
        a.sing()
