"""One argument that stands in many places, or is far longer than anybody means: no call takes long over it (P7)."""

from __future__ import annotations

import pytest

from .conftest import Case, stands

LIBRARIES = """
local ctx = ...
local datamgmt, typesext = require("@antiraid/datamgmt"), require("@antiraid/typesext")
local luau, json = require("@antiraid/luau"), require("@antiraid/json")
"""
REFUSED = "refused"
CASES = {
    "capabilities that are one long text": (
        "local t = table.create(256, ('x'):rep(14e6)) return pcall(function() return ctx:has_any_cap(t) end)",
        "longer than 16384 bytes (limit: size)",
    ),
    "a context with such capabilities": (
        "local t = table.create(256, ('x'):rep(14e6)) return pcall(function() return ctx:with{capabilities = t} end)",
        "longer than 16384 bytes (limit: size)",
    ),
    "a string map whose values are one long text": (
        "local s, t = ('x'):rep(14e6), {} for i = 1, 10000 do t[i .. ''] = s end return pcall(typesext.newlazystringmap, t)",
        "longer than 4 MiB (limit: size)",
    ),
    "a string map whose values are no UTF-8": (
        "local s, t = ('é'):rep(7e6), {} for i = 1, 10000 do t[i .. ''] = s end return pcall(typesext.newlazystringmap, t)",
        "longer than 4 MiB (limit: size)",
    ),
    "integers with millions of zeros": (
        "return pcall(typesext.bitu64.band, table.unpack(table.create(200, ('0'):rep(14e6))))",
        "a whole number of 64 bits",
    ),
    "one hollow table, formatted many times": (
        "return pcall(luau.format, table.unpack(table.create(7000, table.create(900000))))",
        "(limit: unbreakable)",
    ),
    "a module's path of megabytes": (
        "return pcall(require, './' .. ('\\xff'):rep(8e6))",
        "the path is longer than 512 bytes",
    ),
    "base64 of what does not fit": (
        "return pcall(datamgmt.base64encode, ('A'):rep(12e6))",
        "(limit: memory)",
    ),
}
QUIET = {
    "overlays of empty maps, stacked": """
        local empty = typesext.newlazystringmap({})
        local function over(v) return typesext.Vfs.newoverlay(table.create(64, v)) end
        local all = {}
        for i = 1, 64 do
            local some = {}
            for j = 1, 64 do some[j] = over(empty) end
            all[i] = typesext.Vfs.newoverlay(some)
        end
        typesext.Vfs.newoverlay(all)
    """,
    "files that no require comes to": """
        local files = {}
        for i = 1, 3000 do files[i .. ("/a"):rep(500)] = "" end
        typesext.Vfs.newoverlay({ typesext.newlazystringmap(files) })
        local long = typesext.newlazystringmap({ [("p"):rep(1100)] = ("x"):rep(4100000) })
        typesext.Vfs.newoverlay(table.create(64, long))
    """,
    "a require below many frames with long names": """
        local f = loadstring("local function f(n) if n == 0 then return pcall(require, './x') end return (f(n - 1)) end return f(15000)",
            ("n"):rep(6e6))
        f()
    """,
    "a traceback of such frames": """
        local f = loadstring("local function f(n) if n == 0 then return #debug.traceback() end return (f(n - 1)) end return f(15000)",
            ("n"):rep(6e6))
        f()
    """,
    "errors whose text is long": """
        local text = ("\\xff"):rep(8e6)
        local thread = coroutine.create(function() error(text, 0) end)
        assert(select(2, coroutine.resume(thread)) == text)
        assert(select(2, pcall(coroutine.wrap(function() error(text, 0) end))) == text)
        assert(#debug.traceback(text) < 300000)
    """,
    "a syntax error in a chunk with a long name": "loadstring('x x', ('\\xff'):rep(12e6))",
}


@pytest.mark.parametrize(("source", "text"), CASES.values(), ids=CASES.keys())
def test_a_long_argument_is_refused_at_once(source, text):
    found = f"string.find(why, {text!r}, 1, true)"
    check = (
        f"local ok, why = (function() {source} end)() return if ok then 'taken' elseif {found} then 'refused' else why"
    )
    stands(Case(LIBRARIES + check, {"ok"}, REFUSED))


@pytest.mark.parametrize("source", QUIET.values(), ids=QUIET.keys())
def test_what_is_allowed_is_quick(source):
    stands(Case(f"{LIBRARIES} {source} return 'done'", {"ok"}, "done"))
