"""The engine's own functions trust their callers less than they could: scripts have ways to come by functions.

A handler of `xpcall` runs on top of what has raised, and `debug.info` names each frame.
"""

from __future__ import annotations

import pytest

from pytw.types import Outcome
from tests.native.conftest import make

LOOK = """
local found = {}
local function look()
    for level = 1, 12 do
        local ok, f, name = pcall(debug.info, level, "fn")
        if not ok or name == nil then break end
        found[#found + 1] = f
    end
end
"""
WAYS = {
    "what compiles a chunk": """
        local chunk = require("@antiraid/luau").load("x x")
        xpcall(chunk.call, look, chunk)
    """,
    "what finds a module": "xpcall(require, look, './nothing')",
    "what reads a field": """
        local object = require("@antiraid/typesext").U64(1)
        pcall(function() return object[setmetatable({}, { __tostring = function() look() return "x" end })] end)
    """,
    "what waits": """
        local thread = coroutine.create(function() task.wait(9) end)
        coroutine.resume(thread)
        for level = 0, 9 do
            local ok, f = pcall(debug.info, thread, level, "f")
            if ok then found[#found + 1] = f end
        end
    """,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_no_frame_gives_a_function_of_the_engine(make, way):
    driver = make()
    check = """
        for _, f in found do
            local source = debug.info(f, "s")
            if source == "[C]" or source == "[boot]" then return `{debug.info(f, "n")} of {source}` end
        end
        return "only the script's own"
    """
    assert driver.ok(LOOK + way + check) == "only the script's own"
    assert driver.ok("return debug.info(pcall, 'f') == pcall and debug.info(1, 'f') ~= nil") is True


def test_an_environment_is_a_table(make):
    driver = make()
    done = driver.done(
        driver.script(
            """
            local chunk = require("@antiraid/luau").load("return math.floor(x)")
            for _, bad in { 1, "x", true, print or pcall, newproxy(), vector.create(1, 2, 3), buffer.create(8) } do
                if pcall(function() chunk.environment = bad end) then return bad end
            end
            return "none"
            """
        )
    )
    assert (done.outcome, done.value) == (Outcome.OK, "none"), done


__all__ = ["make"]
