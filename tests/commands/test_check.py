"""`tw check` as an author uses it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pytw.commands.check import check


@pytest.fixture
def tree(tmp_path):
    def write(**files: str):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def run(*args: object):
    return CliRunner().invoke(check, [str(arg) for arg in args], standalone_mode=False)


def test_a_good_template_is_told_what_it_listens_for(tree):
    done = run(tree(init_luau='return { MESSAGE = require("./lib") }', lib_luau="return function() end"))
    assert done.return_value == 0
    assert done.output == "2 files, 0 errors, 0 warnings, listens for MESSAGE\n"


def test_one_file_is_a_template(tree):
    done = run(tree(bot_luau="return function() end") / "bot.luau")
    assert done.output == "1 file, 0 errors, 0 warnings, listens for every event\n"


def test_every_broken_file_is_told_with_its_line(tree):
    done = run(tree(init_luau="return {", lib_luau="\n\nlocal = 1", good_luau="return 1"))
    assert done.return_value == 1
    lines = done.output.splitlines()
    assert lines[0].startswith("init.luau:1: error: ") and lines[1].startswith("lib.luau:3: error: ")
    assert lines[2] == "3 files, 2 errors, 0 warnings"


def test_what_the_entry_raises_is_told_with_its_place(tree):
    done = run(tree(init_luau='require("./lib")\nreturn {}', lib_luau="local t = nil\nreturn t.x"))
    assert done.return_value == 1
    assert "lib.luau:2: error: attempt to index nil with 'x'" in done.output


@pytest.mark.parametrize("entry", ["return 5", "return {}", "", "return { [1] = function() end }"])
def test_an_entry_that_is_no_template_is_an_error(tree, entry):
    assert run(tree(init_luau=entry)).return_value == 1


@pytest.mark.parametrize(
    ("entry", "told"),
    [("while true do end", "too long"), ('require("@antiraid/none")', "@antiraid/none")],
)
def test_an_entry_that_never_ends_or_requires_what_is_not_there_is_an_error(tree, entry, told):
    done = run(tree(init_luau=entry))
    assert done.return_value == 1
    assert told in done.output and "1 error" in done.output


def test_a_misspelt_event_is_a_warning_with_the_right_name(tree):
    done = run(tree(init_luau="return { MESAGE = function() end, MESSAGE_CREATE = function() end }"))
    assert done.return_value == 0
    assert "there is no event 'MESAGE'; did you mean MESSAGE or " in done.output
    assert "the event MESSAGE_CREATE is called MESSAGE here" in done.output


def test_a_misspelt_capability_is_a_warning(tree):
    place = tree(init_luau='return function(ctx) return ctx:has_cap("kv:gett:x") end')
    done = run(place, "--cap", "discord:nothing", "--cap", "mine")
    assert done.return_value == 0
    assert "init.luau:1: warning: no call asks for the capability 'kv:gett:x'" in done.output
    assert "'discord:nothing'" in done.output and "mine" not in done.output


def test_a_folder_without_luau_is_refused(tree):
    done = run(tree(readme_md="hi"))
    assert done.exception is not None and "no .luau or .lua files" in str(done.exception)


def test_remarks_as_json(tree):
    done = run(tree(init_luau="warn(1) return function() end"), "--json")
    body = json.loads(done.stdout)
    assert body["remarks"][0]["line"] == 1 and body["remarks"][0]["is_error"] is False
