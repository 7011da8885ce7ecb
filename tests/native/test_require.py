"""Layers of files, and what `require` makes of them across templates, programs and VMs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from pytw import _native
from pytw.types import Outcome

from .conftest import Driver

Make = Callable[..., Driver]

LIBRARY = {
    "templating-types/.luaurc": '{"aliases": {"types": "./"}}',
    "templating-types/init.luau": "return { name = 'types' }",
    "templating-types/embed.luau": "return { name = 'embed', types = require('@types') }",
}


def packed(files: dict[str, str]) -> bytes:
    data: bytes = msgpack.packb(files)
    return data


def load(driver: Driver, files: dict[str, str], *, tenant: int = 1) -> None:
    driver.engine.set_program(tenant, msgpack.packb([["t", "init", files, ["*"], ["*"]]]))


def value(driver: Driver, files: dict[str, str]) -> Any:
    load(driver, files)
    done = driver.done(driver.event())
    assert done.outcome is Outcome.OK, done
    return done.value


def error(driver: Driver, files: dict[str, str]) -> str:
    load(driver, files)
    done = driver.done(driver.event())
    assert done.outcome is Outcome.SCRIPT_ERROR, done
    return done.error


def handler(expression: str) -> str:
    return f"return function() return {expression} end"


def test_the_library_lies_below_every_template(make: Make) -> None:
    driver = make(library=packed(LIBRARY))
    own = {"init.luau": handler("require('./templating-types/embed').types.name")}
    assert value(driver, own) == "types"
    # A template reaches the aliases of its own root only.
    aliased = {"init.luau": handler("require('@t/embed').name"), ".luaurc": '{"aliases": {"t": "templating-types"}}'}
    assert value(driver, aliased) == "embed"
    assert "@types is not a valid alias" in error(driver, {"init.luau": handler("require('@types')")})
    over = {"init.luau": handler("require('./templating-types/embed')"), "templating-types/embed.luau": "return 'own'"}
    assert value(driver, over) == "own"


def test_patches_lie_over_the_builtins_and_those_over_the_library(make: Make) -> None:
    builtins = {
        "init.luau": handler("{ require('./devs'), require('./sting'), require('./templating-types').name }"),
        "devs.luau": "return 'builtin devs'",
        "sting.luau": "return 'builtin sting'",
    }
    driver = make(
        builtins=packed(builtins), patches=packed({"/devs.luau": "return 'patched'"}), library=packed(LIBRARY)
    )
    assert driver.done(driver.event()).value == ["patched", "builtin sting", "types"]
    # Scripts of staff see the same files; templates of a tenant's own do not see the built-in ones.
    assert driver.ok("return require('./devs')") == "patched"
    load(driver, {"init.luau": handler("(pcall(require, './devs'))")})
    assert [part.value for part in driver.done(driver.event()).parts][1] is False


def test_two_layers_together_can_be_ambiguous(make: Make) -> None:
    driver = make(library=packed({"lib/x.luau": "return 1"}))
    text = error(driver, {"init.luau": handler("require('./lib/x')"), "lib/x.lua": "return 2"})
    assert 'could not resolve child component "x" (ambiguous: lib/x.luau, lib/x.lua)' in text


@pytest.mark.parametrize("option", ["builtins", "patches", "library"])
def test_files_that_are_not_a_map_of_texts_are_refused_at_once(option: str) -> None:
    with pytest.raises(ValueError, match="map"):
        _native.Engine(**{option: msgpack.packb([1])})


def test_a_path_has_a_depth(driver: Driver) -> None:
    deep = "d/" * 33 + "m"
    text = error(driver, {"init.luau": handler(f"require('./{deep}')"), f"{deep}.luau": "return 1"})
    assert "the path is deeper than 32 components" in text
    fits = "d/" * 31 + "m"
    assert value(driver, {"init.luau": handler(f"require('./{fits}')"), f"{fits}.luau": "return 1"}) == 1


def test_an_alias_is_bounded(driver: Driver) -> None:
    """However many aliases stand for each other and however long each is: an error, soon."""
    chain = {f"a{i}": f"@a{i + 1}" for i in range(100)}
    files = {"init.luau": handler("require('@a0')"), ".luaurc": str({"aliases": chain}).replace("'", '"')}
    assert "more than 8 aliases stand for each other" in error(driver, files)
    long = {f"a{i}": f"@a{i + 1}/" + "x/../" * 90 for i in range(8)} | {"a8": "./"}
    files = {"init.luau": handler("require('@a0/x')"), ".luaurc": str({"aliases": long}).replace("'", '"')}
    files["x/y.luau"] = "return 1"
    assert "have more than 512 components" in error(driver, files)
    files = {"init.luau": handler("require('@a')"), ".luaurc": '{"aliases": {"a": "' + "x" * 513 + '"}}'}
    assert "longer than 512 bytes" in error(driver, files)
    files = {"init.luau": handler("require('@a')"), ".luaurc": "{" + " " * 65_536 + "}"}
    assert "/.luaurc:1: the file is longer than 65536 bytes" in error(driver, files)


def test_a_file_whose_name_has_a_zero_byte_is_not_there(driver: Driver) -> None:
    files = {"init.luau": handler("{ pcall(require, './a\\0b') }"), "a\0b.luau": "return 1", "ab.luau": "return 2"}
    assert value(driver, files)[0] is False


def test_a_new_program_gets_new_modules_and_equal_sources_are_compiled_once(driver: Driver) -> None:
    files = {
        "init.luau": handler("require('./lib').next()"),
        "lib.luau": "local n = 0 return { next = function() n += 1 return n end }",
    }
    assert value(driver, files) == 1
    assert driver.done(driver.event()).value == 2
    assert value(driver, files) == 1
    assert value(driver, files | {"other.luau": "return 1"}) == 1


def test_a_module_that_does_not_compile_is_named(driver: Driver) -> None:
    text = error(driver, {"init.luau": handler("require('./lib/x')"), "lib/x.luau": "local x = 1\nlocal = 2"})
    assert text.splitlines()[0].startswith('syntax error: [string "/lib/x.luau"]:2: Expected identifier')
    assert text.splitlines()[1] == "\trequired from /init.luau:1"
    failed = driver.wait(driver.check("local x = 1\nlocal = 2"))
    assert failed.detail.startswith("/init.luau:2: Expected identifier"), failed


def test_a_tree_of_three_hundred_files_loads(make: Make) -> None:
    files = {f"m{i // 20}/f{i}.luau": f"return {{ n = {i} }}" for i in range(300)}
    paths = ", ".join(f"'./{path.removesuffix('.luau')}'" for path in files)
    entry = f"local sum = 0 for _, path in {{ {paths} }} do sum += require(path).n end return function() return sum end"
    driver = make(builtins=packed(files | {"init.luau": entry}))
    assert driver.done(driver.event()).value == sum(range(300))
    # Its first event makes each VM load all of them; what one VM holds stays far below the limit.
    assert driver.done(driver.event(tenant=2)).value == sum(range(300))
    assert driver.engine.stats()["bytes"] < 2_000_000


def test_explicit_types_compile() -> None:
    assert _native.compile_check("x", b"local function f<T>(x: T) return x end return f<<number>>(1)") is None


def test_a_text_that_names_itself_like_a_file_stays_within_the_template(driver: Driver) -> None:
    """Names of chunks are a starting point among the template's own files, and nothing more."""
    files = {
        "init.luau": handler("loadstring(\"return require('./b')\", '/lib/anything.luau')()"),
        "lib/b.luau": "return 'beside it'",
    }
    assert value(driver, files) == "beside it"
