"""Trees of files that the engine has for all tenants, and what a template may do with them."""

from __future__ import annotations

import msgpack

from pytw.types import Outcome

FILES = {
    "builtins": {"init.luau": "return {}", "manager.luau": "return 'builtins'", "devs.luau": "return 'builtins'"},
    "patches": {"devs.luau": "return 'patches'"},
    "library": {"templating-types/x.luau": "return 'types'"},
}

SOURCE = """
local typesext = require("@antiraid/typesext")
return function(ctx)
    local trees = ctx.Runtime:getexposedvfs()
    local stack = typesext.Vfs.newoverlay({ trees.BuiltinsPatches, trees.Builtins, trees.TemplatingTypes })
    local load = stack:createrequirefunction("x", typesext.createglobalproxy())
    local alone = trees.Builtins:createrequirefunction("y", typesext.createglobalproxy())
    return { load("./manager"), load("./devs"), load("./templating-types/x"), alone("./devs"), table.isfrozen(trees) }
end
"""


def test_a_template_stacks_the_trees_of_the_engine(make):
    driver = make(**{name: msgpack.packb(files) for name, files in FILES.items()}, builtins_events=["Other"])
    driver.load(("t", SOURCE))
    assert driver.done(driver.event()).value == ["builtins", "patches", "types", "builtins", True]


def test_trees_that_the_engine_lacks_are_empty(driver):
    driver.load(
        ("t", "return function(ctx) local n = 0 for _ in ctx.Runtime:getexposedvfs() do n += 1 end return n end")
    )
    assert driver.done(driver.event()).value == 3


def test_the_trees_need_a_capability(make):
    driver = make()
    template = ["t", "init", {"init.luau": SOURCE}, ["*"], ["runtime:links"]]
    driver.engine.set_program(1, msgpack.packb([template]))
    done = driver.done(driver.event())
    assert done.outcome is Outcome.SCRIPT_ERROR
    assert "runtime operation `getexposedvfs` not allowed in this template context" in done.error
