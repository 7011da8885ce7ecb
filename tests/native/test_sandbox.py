# ruff: noqa: E501 (a table of one-line scripts)
"""No native function holds the thread, whatever fits in a VM's memory. What a script can reach is in tests/luau/sandbox."""

from __future__ import annotations

import pytest

from pytw.types import Outcome

from .conftest import on_a_busy_machine

# Each makes its arguments as large as 20 MiB allow, then calls one native function. `since` is set right before it.
CALLS = {
    "rep": "since = os.clock() local s = string.rep('a', 9000000)",
    "rep empty": "since = os.clock() local s = string.rep('', 2^31 - 1)",
    "upper": "local s = string.rep('a', 6000000) since = os.clock() s = string.upper(s)",
    "reverse": "local s = string.rep('a', 6000000) since = os.clock() s = string.reverse(s)",
    "byte": "local s = string.rep('a', 6000000) since = os.clock() pcall(string.byte, s, 1, -1)",
    "format q": "local s = string.rep('\"', 3000000) since = os.clock() s = string.format('%q', s)",
    "format": "local f = string.rep('%99.99f', 7000) since = os.clock() pcall(string.format, f, unpack(table.create(7000, 1e300)))",
    "format star": "local s = string.rep('a', 6000000) since = os.clock() s = string.format('%*%*', s, 1)",
    "find plain": "local a = string.rep('a', 6000000) local b = string.rep('a', 2000000) .. 'b' since = os.clock() string.find(a, b, 1, true)",
    "find set": "local a = string.rep('b', 4000000) local p = '[' .. string.rep('a', 9000) .. 'b]*c' since = os.clock() pcall(string.find, a, p)",
    "find small set": "local a = string.rep('b', 5000000) since = os.clock() pcall(string.find, a, '[abcdefg]*c')",
    "find backtracking": "local a = string.rep('a', 5000000) since = os.clock() pcall(string.find, a, 'a*a*a*b')",
    "find long": "local a = string.rep('a', 5000000) since = os.clock() pcall(string.find, a, a .. '%')",
    "match balance": "local a = string.rep('(', 5000000) since = os.clock() pcall(string.match, a, '%b()')",
    "gsub": "local a = string.rep('a', 2000000) since = os.clock() pcall(string.gsub, a, 'a', 'b')",
    "gsub expand": "local a = string.rep('a', 10000) since = os.clock() pcall(string.gsub, a, 'a', string.rep('%0', 1000000))",
    "gmatch": "local a = string.rep('a', 5000000) since = os.clock() for _ in string.gmatch(a, 'b') do end",
    "split": "local a = string.rep('a', 5000000) local b = string.rep('a', 2000000) .. 'b' since = os.clock() pcall(string.split, a, b)",
    "split all": "local a = string.rep(',', 300000) since = os.clock() pcall(string.split, a, ',')",
    "concat": "local t = table.create(400000, 'abcde') since = os.clock() pcall(table.concat, t, ',')",
    "concat numbers": "local t = table.create(300000, 1.23456789e100) since = os.clock() pcall(table.concat, t, ',')",
    "sort": "local t = {} for i = 1, 500000 do t[i] = (i * 7919) % 500009 end since = os.clock() pcall(table.sort, t)",
    "sort native": "local t = {} for i = 1, 500000 do t[i] = i end since = os.clock() pcall(table.sort, t, rawequal)",
    "sort strings": "local t, p = {}, string.rep('a', 10000) for i = 1, 500 do t[i] = p .. (i * 7919) % 503 end since = os.clock() pcall(table.sort, t)",
    "move": "local t = {} since = os.clock() pcall(table.move, t, 1, 2^31 - 2, 1, {})",
    "move negative": "local t = {1} since = os.clock() pcall(table.move, t, -2^30, 2^30 - 2, 5)",
    "move dense": "local t = table.create(500000, 1) since = os.clock() pcall(table.move, t, 1, 500000, 2)",
    "move sparse": "local t = {} for i = 1, 200000 do t[i * 7] = i end since = os.clock() pcall(table.move, t, 1, 1400000, 3)",
    "insert first": "local t = table.create(1000000, 1) since = os.clock() pcall(table.insert, t, 1, 1)",
    "insert hash": "local t = {} for i = 300000, 1, -1 do t[i] = i end since = os.clock() pcall(table.insert, t, 1, 1)",
    "remove hash": "local t = {} for i = 300000, 1, -1 do t[i] = i end since = os.clock() pcall(table.remove, t, 1)",
    "create": "since = os.clock() pcall(table.create, 1200000, 1)",
    "create huge": "since = os.clock() pcall(table.create, 2^31 - 1, 1)",
    "clone": "local t = {} for i = 1, 150000 do t['k' .. i] = i end since = os.clock() pcall(table.clone, t)",
    "clear": "local t = {} for i = 1, 150000 do t['k' .. i] = i end since = os.clock() table.clear(t)",
    "table find": "local t = table.create(1200000, 1) since = os.clock() table.find(t, 2)",
    "maxn": "local t = table.create(1200000, 1) since = os.clock() table.maxn(t)",
    "foreach": "local t = table.create(1200000, 1) since = os.clock() pcall(table.foreach, t, rawequal)",
    "foreachi": "local t = table.create(1200000, 1) since = os.clock() pcall(table.foreachi, t, rawequal)",
    "unpack": "local t = table.create(1200000, 1) since = os.clock() pcall(table.unpack, t)",
    "rawset grow": "local t = {} for i = 1, 262144 do t[i * 3] = 1 end since = os.clock() t[5] = 1",
    "buffer create": "since = os.clock() pcall(buffer.create, 2^30)",
    "buffer fill": "local b = buffer.create(18000000) since = os.clock() buffer.fill(b, 0, 1)",
    "buffer copy": "local b = buffer.create(18000000) since = os.clock() buffer.copy(b, 1, b, 0, 17999999)",
    "buffer string": "local b = buffer.create(9000000) since = os.clock() pcall(buffer.tostring, b)",
    "utf8 len": "local s = string.rep('é', 4000000) since = os.clock() utf8.len(s)",
    "utf8 offset": "local s = string.rep('é', 4000000) since = os.clock() utf8.offset(s, 3999999)",
    "utf8 codepoint": "local s = string.rep('é', 4000000) since = os.clock() pcall(utf8.codepoint, s, 1, -1)",
    "date": "local f = string.rep('%c', 1000000) since = os.clock() pcall(os.date, f)",
    "date short": "local f = string.rep('%c', 128) since = os.clock() pcall(os.date, f)",
    "tonumber": "local s = string.rep('1', 6000000) since = os.clock() tonumber(s)",
    "tonumber fraction": "local s = '0.' .. string.rep('0', 6000000) .. '1' since = os.clock() tonumber(s)",
    "tonumber base": "local s = string.rep('1', 6000000) since = os.clock() pcall(tonumber, s, 2)",
    "compare": "local a, b = string.rep('a', 5000000), string.rep('a', 5000000) .. 'b' since = os.clock() local c = a < b",
    "pack": "local f = string.rep('x', 6000000) since = os.clock() pcall(string.pack, f)",
    "unpack format": "local f = string.rep('x', 3000000) local s = string.rep('a', 3000000) since = os.clock() pcall(string.unpack, f, s)",
    "packsize": "local f = string.rep('x', 6000000) since = os.clock() pcall(string.packsize, f)",
    "loadstring": "local s = string.rep('x=1 ', 60000) since = os.clock() pcall(loadstring, s)",
    "loadstring nested": "local s = 'return ' .. string.rep('(', 100000) since = os.clock() pcall(loadstring, s)",
    "select": "since = os.clock() select('#', unpack(table.create(7000, 1)))",
    "traceback": "local function f(n) if n > 0 then return f(n - 1) + 1 end since = os.clock() debug.traceback() return 0 end pcall(f, 15000)",
}


@pytest.mark.parametrize("name", CALLS)
def test_no_native_function_holds_the_thread(make, name):
    """100 ms, for any arguments that fit in memory; loops in which Luau polls are stopped by their cap or the slice."""
    driver = make(cpu_bucket_ms=10_000, unbreakable_ms=50)

    @on_a_busy_machine
    def held() -> None:
        number = driver.script(CALLS[name] + " return (os.clock() - since) * 1000")
        done = driver.done(number)
        assert done.outcome in (Outcome.OK, Outcome.LIMIT_EXCEEDED), done
        if done.outcome is Outcome.OK:
            assert min(done.value, done.cpu_us / 1_000) < 100

    held()


def test_allocating_never_ends_the_engine(driver):
    for source in (
        "local t = {} while true do t[#t + 1] = {} end",
        "local s = 'a' while true do s ..= s end",
        "while true do buffer.create(10000000) end",
        "local t = {} for i = 1, 1e9 do t[i] = loadstring('return ' .. i) end",
        "local ctx = ... local t = {} for i = 1, 1e9 do t[i] = coroutine.create(function() end) end",
    ):
        assert driver.bad(source).outcome is Outcome.LIMIT_EXCEEDED
        driver.engine.drop_tenant(1, driver._next())
        assert driver.done(driver.script("return 1", tenant=2)).value == 1
