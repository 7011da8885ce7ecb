"""`tw run` as an author uses it."""

from __future__ import annotations

import json
import sys

import pytest
from click import ClickException
from click.testing import CliRunner

from pytw.commands.run import run as command
from pytw.errors import PytwError
from tests.commands.lines import one_line


@pytest.fixture
def template(tmp_path):
    def write(text: str):
        path = tmp_path / "bot.luau"
        path.write_text(text)
        return path

    return write


def run(*args: object, stdin: str | None = None):
    return CliRunner().invoke(command, [str(arg) for arg in args], input=stdin, standalone_mode=False)


def test_the_result_and_every_host_call_are_shown(template, tmp_path):
    data = tmp_path / "data.json"
    data.write_text('{"content": "hi"}')
    source = """return { MESSAGE = function(ctx)
        ctx.KV:set("k", ctx:event().data.content, { "s" })
        local value = ctx.KV:get("k", { "s" })
        return { value = value, guild = ctx.Discord:get_guild().data.id }
    end }"""
    done = run(template(source), "--data", data, "--guild", 77 << 22)
    assert done.return_value == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("MESSAGE: ok in ") and "of CPU" in lines[0]
    assert f'"guild": "{77 << 22}"' in done.output and '"value": "hi"' in done.output
    assert [line.split("(")[0] for line in lines if line.startswith("host call")] == [
        "host call kv.set",
        "host call kv.get",
        "host call discord.get_guild",
    ]
    assert 'host call kv.set("k", "hi", ["s"]) -> []' in done.output


def test_json_has_it_all(template):
    done = run(template("return function(ctx) return ctx:event().author end"), "--author", "5", "--json")
    body = json.loads(done.stdout)
    assert body["outcome"] == "ok" and body["event"] == "MESSAGE" and body["host_calls"] == []
    assert body["templates"][-1]["value"] == "5" and body["wall_us"] > 0


def test_an_error_comes_with_its_traceback_and_exit_code(template):
    done = run(template("return function()\n\terror('no')\nend"))
    assert done.return_value == 1
    assert "script_error" in done.output and '[string "/init.luau"]:2: no' in done.output


def test_a_call_that_its_capabilities_refuse_is_shown(template):
    source = "return function(ctx) return (select(2, pcall(function() ctx.KV:set('k', 1, { 's' }) end))) end"
    done = run(template(source), "--cap", "kv:get:k")
    told = "KV operation `set` not allowed in this template context for key 'k'"
    assert f'host call kv.set("k", 1, ["s"]) -> error: {told}' in done.output and done.return_value == 0


def test_an_event_that_nobody_handles_is_told(template):
    done = run(template("return { MESSAGE = function() end }"), "--event", "GUILD_ROLE_CREATE")
    assert "no handler for GUILD_ROLE_CREATE; it listens for MESSAGE" in done.output


def test_data_from_standard_input(template):
    done = run(template("return function(ctx) return ctx:event().data.x end"), "--data", "-", stdin='{"x": 4}')
    assert "result: 4" in done.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data", "nowhere.json"], "nowhere.json: No such file"),
        (["--event", "MESAGE"], "there is no event 'MESAGE' (did you mean MESSAGE"),
        (["--entry", ""], "the entry is a file's path"),
    ],
)
def test_bad_input_is_refused_with_words(template, args, said):
    done = run(template("return function() end"), *args)
    assert isinstance(done.exception, PytwError | ClickException) and said in str(done.exception)


def test_data_that_is_no_json_is_refused(template):
    done = run(template("return function() end"), "--data", "-", stdin="{")
    assert isinstance(done.exception, PytwError) and "is not JSON" in str(done.exception)


def test_a_template_that_never_ends_is_ended(template):
    done = run(template("return function() while true do end end"), "--json")
    assert json.loads(done.stdout)["templates"][-1]["limit"] == "cpu" and done.return_value == 1


def test_a_tenants_data_may_hold_nulls_and_be_written_back(template):
    source = """local null = require("@antiraid/interop").null
    return function(ctx)
        ctx.Runtime:settenantstate({ events = { "MESSAGE" }, data = { a = null, list = { 1, null, 3 }, none = {} } })
        local data = ctx.Runtime:gettenantstate().data
        ctx.Runtime:settenantstate({ events = { "MESSAGE" }, data = data })
        local again = ctx.Runtime:gettenantstate().data
        local stored = pcall(function() ctx.KV:set("k", { x = null }, { "s" }) end)
        return { again.a == null, again.list[2] == null, #again.list, stored }
    end"""
    done = run(template(source), "--json")
    assert json.loads(done.stdout)["templates"][-1]["value"] == [True, True, 3, False]


def test_closed_standard_input_is_refused_with_words(template, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    code, said = one_line(capsys, "run", str(template("return function() end")), "--data", "-")
    assert code == 1 and said.startswith("tw: standard input is closed (--data names ")


def test_a_misspelt_capability_is_told_beside_the_result(template):
    done = run(template("return function() return 1 end"), "--cap", "kv.set", "--cap", "kv:*", "--json")
    assert done.stderr.startswith("warning: no call asks for the capability 'kv.set'; there are kv:*, ")
    assert done.stderr.count("warning: ") == 1 and json.loads(done.stdout)["outcome"] == "ok"


def test_results_have_sorted_keys_and_a_byte_order_mark_is_no_syntax_error(template):
    keys = "".join(f"{key} = 1, " for key in "zqbxakm")
    done = run(template(f"\ufeffreturn function() return {{ {keys} }} end"))
    assert done.return_value == 0, done.output
    found = [line.strip()[1] for line in done.output.splitlines() if line.startswith('  "')]
    assert found == sorted("zqbxakm")
