"""What `pytw.luau` tells of sources without running them."""

from __future__ import annotations

import pytest

from pytw.luau.lint import Remark, lint
from pytw.luau.tokens import tokens


def texts(**files: str) -> list[tuple[str, int, bool, str]]:
    return [tuple(remark) for remark in lint({name.replace("_", "."): text.encode() for name, text in files.items()})]


def test_words_of_a_source():
    source = 'local x = "a\\"b" --[[ print ]] .. [[long\nstring]] -- print\n`t {f(1)} e` y.z 0x1F 1e5'
    assert [(t.kind, t.text, t.line) for t in tokens(source) if t.kind != "sign"] == [
        ("name", "local", 1),
        ("name", "x", 1),
        ("string", 'a\\"b', 1),
        ("string", "long\nstring", 1),
        ("name", "f", 3),
        ("name", "y", 3),
        ("name", "z", 3),
    ]


@pytest.mark.parametrize("source", ['"', "`{", "`{{}", "[[", "--[[", "[==[ ]=]", "\\", "`\\"])
def test_words_of_a_broken_source_end(source):
    assert isinstance(tokens(source), list)


def test_a_syntax_error_says_where():
    assert lint({"init.luau": b"local x =\n"})[0][:3] == ("init.luau", 2, True)


@pytest.mark.parametrize(
    "require",
    ['require("./b")', "require './b'", "require([[./b]])", "x = { require('./b') }", "'a' .. require('./b')"],
)
def test_a_require_that_leads_nowhere_is_an_error(require):
    (remark,) = lint({"init.luau": f"\nlocal x = 1\n{require if '=' in require else 'return ' + require}".encode()})
    assert remark == Remark("init.luau", 3, True, 'error requiring module "./b": could not resolve child component "b"')


def test_requires_of_files_aliases_and_engine_modules_are_fine():
    files = {
        "init.luau": b'return { require("./b"), require("@self/b"), require("@x/c"), require("@AntiRaid/JSON") }',
        "b.luau": b"return 1",
        "sub/c.luau": b'return require("../b")',
        ".luaurc": b'{ "aliases": { "x": "./sub" } }',
    }
    assert lint(files) == []


def test_a_path_made_at_run_time_is_nobodys_business():
    assert texts(init_luau='local p = "./x" return require(p)') == []


@pytest.mark.parametrize(
    "source", ["print('x')", "f(print)", "local y = warn", "game:Get()", "local y = 'a' .. tick()"]
)
def test_a_global_of_another_host_is_a_warning(source):
    (remark,) = texts(init_luau=source)
    assert remark[2] is False and "does not exist: " in remark[3]


@pytest.mark.parametrize(
    "source",
    [
        "local print = f print(1)",
        "local function wait() end wait()",
        "local a, print = 1, 2 print(1)",
        "return function(warn) warn(1) end",
        "for _, game in x do f(game) end",
        "x.print(1)",
        "x:print(1)",
        "return { print = 1 }",
        "type T = { print: number }",
        "-- print(1)",
        "return 'print'",
    ],
)
def test_names_that_only_look_like_it_are_fine(source):
    assert texts(init_luau=source) == []
