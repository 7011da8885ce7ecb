"""2.1 of the catalogue: whatever a script does with its CPU time, it is stopped in time and the neighbour is unharmed."""

from __future__ import annotations

import pytest

from .conftest import Case, stands

LOOP = "function() while true do end end"

#: Metamethods, with an expression that calls each on `x`.
META = {
    "__index": "x.y",
    "__newindex": "(function() x.y = 1 end)()",
    "__eq": "x == setmetatable({}, getmetatable(x))",
    "__lt": "x < x",
    "__le": "x <= x",
    "__concat": "x .. 'a'",
    "__len": "#x",
    "__call": "x()",
    "__iter": "(function() for _ in x do end end)()",
    "__unm": "-x",
    "__idiv": "x // 2",
    "__add": "x + 1",
    "__mod": "x % 2",
    "__pow": "x ^ 2",
    "__tostring": "tostring(x)",
}

#: Texts that are cheap to write and might be dear to compile.
BOMBS = {
    "parentheses": "('return ' .. ('('):rep(1e5) .. '1' .. (')'):rep(1e5))",
    "tables": "('return ' .. ('{'):rep(1e5) .. ('}'):rep(1e5))",
    "elseif": "('if a then ' .. ('elseif a then '):rep(15000) .. 'end')",
    "not": "('return ' .. ('not '):rep(5e4) .. 'a')",
    "minus": "('return ' .. ('- '):rep(1e5) .. 'a')",
    "concat": "('return ' .. ('a..'):rep(6e4) .. 'a')",
    "functions": "('return ' .. ('function() return '):rep(5000) .. 'a ' .. ('end '):rep(5000))",
    "types": "('local x: ' .. ('{'):rep(1e5) .. ('}'):rep(1e5))",
    "type parameters": "('local x: ' .. ('A<'):rep(6e4) .. 'a' .. ('>'):rep(6e4))",
    "interpolation": "('return ' .. ('`{'):rep(6e4))",
    "do": "(('do '):rep(4e4) .. ('end '):rep(4e4))",
    "locals": "('local a = 1 '):rep(20000)",
    "constants": "('return {' .. ('1.5,'):rep(5e4) .. '}')",
    "indexes": "('return a' .. ('.b'):rep(1e5))",
    "calls": "('return a' .. ('()'):rep(1e5))",
    "if expressions": "('return ' .. ('if a then '):rep(20000))",
    "comment": "('--[[' .. ('='):rep(2e5))",
    "unions": "('local x: ' .. ('A|'):rep(1e5) .. 'A')",
    "constant folding": "('return ' .. ('1+'):rep(1e5) .. '1')",
    "loops": "('for i=1,9 do '):rep(8000) .. ('end '):rep(8000)",
    "attributes": "('@native '):rep(30000) .. 'function f() end'",
}

CASES = {
    "C01": Case("while true do end", {"cpu"}),
    "C02": Case(f"while true do pcall({LOOP}) end", {"cpu"}),
    "C03": Case("local function f() pcall(f) pcall(f) end f()", {"cpu"}),
    "C04": Case(f"xpcall(function() error('x') end, {LOOP})", {"ok"}),
    "C04-in a loop": Case(f"while true do xpcall(error, {LOOP}) end", {"cpu"}),
    "C05": Case("local function h(e) return (xpcall(error, h, e)) end return (pcall(xpcall, error, h, 'x'))", {"ok"}),
    "C07": Case(
        "local t = {} for _ = 1, 150 do t = setmetatable({}, {__index = t}) end return (pcall(function() return t.x end))",
        {"ok"},
        False,
    ),
    "C08": Case(f"table.sort({{3, 1, 2}}, {LOOP})", {"unbreakable"}),
    "C08-in a loop": Case(f"while true do pcall(table.sort, {{3, 1, 2}}, {LOOP}) end", {"cpu"}),
    "C09": Case(
        "local t = {} for i = 1, 1e5 do t[i] = i % 7 end return (pcall(table.sort, t, function() return true end))",
        {"ok"},
        False,
    ),
    "C10": Case(f"return (('x'):rep(9)):gsub('.', {LOOP})", {"unbreakable"}),
    "C11": Case("local s = ('a'):rep(3000) return s:find(('a-'):rep(12) .. 'b')", {"unbreakable"}),
    "C12": Case("return (((' '):rep(50000) .. 'x'):gsub('%s+$', ''))", {"unbreakable"}),
    "C13": Case("return (('('):rep(300000)):find('%b()')", {"unbreakable", "ok"}),
    "C22": Case(
        f"""while true do
            local co = coroutine.create(function() while true do pcall({LOOP}) end end)
            while coroutine.status(co) ~= 'dead' do pcall(coroutine.resume, co) end
        end""",
        {"cpu"},
    ),
    "C22-wrapped in a comparator": Case(
        f"while true do pcall(table.sort, {{3, 1, 2}}, function() coroutine.wrap({LOOP})() end) end", {"cpu"}
    ),
    "C23": Case(
        "local function f(n) return 1 + f(n + 1) end local ok, e = pcall(f, 1) return not ok and e:find('stack overflow') ~= nil",
        {"ok"},
        True,
    ),
    "C24": Case(
        "local function f() return (string.gsub('a', 'a', f)) end local ok, e = pcall(f) return not ok and e:find('overflow') ~= nil",
        {"ok"},
        True,
    ),
    "C24-through tostring": Case(
        "local t = setmetatable({}, {}) getmetatable(t).__tostring = function() return tostring(t) end return (pcall(tostring, t))",
        {"ok"},
        False,
    ),
    "C24-through sort": Case(
        "local function f() table.sort({2, 1}, function() f() return false end) end return (pcall(f))", {"ok"}, False
    ),
    "C24-through require and spawn": Case(
        "local n = 0 local function f() n += 1 task.spawn(f) end f() return n < 1000", {"ok"}, True
    ),
    "C25": Case("local function f() return coroutine.wrap(f)() end return (pcall(f))", {"ok"}, False),
    "C26": Case(f"error(setmetatable({{}}, {{__tostring = {LOOP}}}))", {"error"}),
    "C26-in a spawned thread": Case(
        f"task.spawn(error, setmetatable({{}}, {{__tostring = {LOOP}}})) return 'on'", {"ok"}, "on"
    ),
    "C27": Case("for i = 1, 1e308 do end", {"cpu"}),
    "C27-no number": Case(
        "for i = 1, 0/0 do end for i = 1, 10, 0 do return 'never' end return 'none'", {"ok", "error"}
    ),
    "C28": Case("for _ in setmetatable({}, {__iter = function() return function() return 1 end end}) do end", {"cpu"}),
    "C28-native": Case("for _ in rawequal do end for _ in function() return 1 end do end", {"cpu"}),
    "C29": Case(
        "local t = {} for i = 1, 1e5 do t['k' .. i] = i end for k in pairs(t) do t[k] = nil end while true do next(t) end",
        {"cpu"},
    ),
    "C30": Case("while true do local t = {} for i = 1, 1e5 do t[i] = {i} end end", {"cpu"}),
    "C32": Case("return pcall(string.format, '%99999d', 1)", {"ok"}, False),
    "C32-date": Case("return (pcall(os.date, ('%c'):rep(1e5)))", {"ok"}, False),
}
CASES |= {
    f"C06-{name}": Case(
        f"local x = setmetatable({{}}, {{{name} = {LOOP}}}) return {expression}", {"unbreakable", "cpu"}
    )
    for name, expression in META.items()
}
CASES |= {
    f"C06-{name} in a loop": Case(
        f"local x = setmetatable({{}}, {{{name} = {LOOP}}}) while true do pcall(function() return {expression} end) end",
        {"cpu"},
    )
    for name, expression in META.items()
    if name in ("__index", "__eq", "__iter", "__tostring")
}
CASES |= {
    f"C31-{name}": Case(f"loadstring({source}) return 'compiled'", {"ok"}, "compiled") for name, source in BOMBS.items()
}


@pytest.mark.parametrize("name", CASES)
def test_cpu(name: str) -> None:
    stands(CASES[name])
