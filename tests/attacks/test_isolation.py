"""2.3 of the catalogue: what a script can reach, change, learn or leave behind."""

from __future__ import annotations

from collections.abc import Callable

import msgpack
import pytest

from tests.native.conftest import Driver, Failed, program

from .conftest import ATTACKER, NEIGHBOUR, Arena, Case, ending

Make = Callable[..., Arena]

CASES = {
    "I01": Case("return (pcall(function() getmetatable('').__index.upper = print end))", {"ok"}, False),
    "I01-hidden": Case("return getmetatable('') == false", {"ok"}, True),
    "I02-library": Case("return (pcall(function() string.upper = print end))", {"ok"}, False),
    "I02-rawset": Case("return (pcall(rawset, string, 'x', 1))", {"ok"}, False),
    "I02-each library": Case(
        """local open = {}
        for name, library in getmetatable(_G) == nil and {} or {string = string, table = table, math = math, os = os, task = task,
            coroutine = coroutine, debug = debug, bit32 = bit32, utf8 = utf8, buffer = buffer, vector = vector} do
            if pcall(rawset, library, 'x', 1) or pcall(table.clear, library) or pcall(setmetatable, library, {}) then open[#open + 1] = name end
        end
        return table.concat(open, ' ')""",
        {"ok"},
        "",
    ),
    "I02-native writers": Case(
        """local open = {}
        local writers = {
            insert = function(t) table.insert(t, 1) end, sort = function(t) t[1] = 1 table.sort(t) end,
            move = function(t) table.move({1}, 1, 1, 1, t) end, setn = function(t) table.clear(t) end, assign = function(t) t.x = 1 end,
            foreach = function(t) table.foreach({1}, function(k, v) rawset(t, k, v) end) end,
        }
        for name, write in writers do if pcall(write, string) then open[#open + 1] = name end end
        return table.concat(open, ' ')""",
        {"ok"},
        "",
    ),
    "I04": Case("return getfenv == nil and setfenv == nil", {"ok"}, True),
    "I05": Case("local f, e = loadstring('\\6\\3\\0') return f == nil and type(e) == 'string'", {"ok"}, True),
    "I05-dumped": Case("return string.dump == nil and load == nil and loadfile == nil and dofile == nil", {"ok"}, True),
    "I11-stop": Case("return (pcall(collectgarbage, 'stop'))", {"ok"}, False),
    "I11-collect": Case("return (pcall(collectgarbage))", {"ok"}, False),
    "I11-count": Case("return collectgarbage('count') > 0 and gcinfo() > 0", {"ok"}, True),
    "I13": Case(
        "local p = newproxy(true) getmetatable(p).__type = 'User' return typeof(p) .. typeof(setmetatable({}, {__type = 'User'}))",
        {"ok"},
        "userdatatable",
    ),
    "I13-ctx": Case(
        "local ctx = ... local p = newproxy(true) getmetatable(p).__type = typeof(ctx) return typeof(p) == typeof(ctx)",
        {"ok"},
        False,
    ),
    "I14": Case("local ctx = ... return getmetatable(ctx) == false and not pcall(setmetatable, ctx, {})", {"ok"}, True),
    "I14-foreign self": Case(
        """local ctx = ... local fake = newproxy(true) getmetatable(fake).__index = function() return 1 end
        return not pcall(ctx.event, fake) and not pcall(ctx.event, {}) and not pcall(ctx.has_cap, nil, 'x')""",
        {"ok"},
        True,
    ),
    "I15": Case(
        """local ctx, n = ..., 0
        local t = setmetatable({}, {__index = function() n += 1 return ctx:event() end, __lt = function() return ctx:event().x == nil end})
        table.sort({t, t, t}) local _ = t.x
        string.gsub('aaa', 'a', function() return ctx:event().name end)
        return n""",
        {"ok"},
        1,
    ),
    "I19": Case("return math.random(1, 2^30) ~= math.random(1, 2^30)", {"ok"}, True),
    "I20": Case(
        """local n, last, since = 0, 0, os.clock()
        while os.clock() - since < 0.02 do if os.clock() ~= last then last = os.clock() n += 1 end end
        return n <= 25""",
        {"ok"},
        True,
    ),
    "I20-datetime": Case("return require('@antiraid/datetime').UTC:now().timestamp_nanos % 1e6", {"ok"}, 0),
    "I20-waits": Case(
        "local ms = task.wait(0.05) * 1000 return math.abs(ms - math.round(ms)) < 1e-6 and ms >= 50", {"ok"}, True
    ),
    "I21": Case("local t = {['a\\0b'] = 1} return t", {"ok"}, {"a\0b": 1}),
    "I21-bytes": Case("return '\\xff\\xfe'", {"ok"}, msgpack.ExtType(1, b"\xff\xfe")),
    "I21-key": Case("return {['\\xff'] = 1}", {"ok", "error"}),
    "I21-call": Case("return (pcall(host, 'a\\xff', 1))", {"ok"}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_isolation(arena: Make, name: str) -> None:
    arena().stand(CASES[name])


def test_i08_require_reaches_nothing_outside_and_does_not_tell_why(make: Callable[..., Driver]) -> None:
    d = make()
    paths = [
        "../../other-tenant/main",
        "../x",
        "@antiraid/../../x",
        "./a\\0b",
        "/etc/passwd",
        "@nobody/x",
        "./none",
        "",
        ".",
        "..",
    ]
    sources = [f"require('{path}')" for path in paths]
    sources += [
        "require(('./'):rep(5000) .. 'm')",
        "require(('../'):rep(5000) .. 'm')",
        "require(('a/'):rep(100000))",
        "require('./' .. ('x'):rep(5e6))",
    ]
    for source in sources:
        error = d.error(source)
        assert (
            "other-tenant" not in error.replace("../../other-tenant/main", "")
            and "/root" not in error
            and "rs:" not in error
        )
        assert len(error.encode()) <= 4_096
    absent = d.error("require('./zzz')").replace("zzz", "")
    foreign = d.error("require('./../zzz')").replace("../zzz", "")
    assert ("no such" in absent) == ("no such" in foreign)


def test_i09_what_a_template_does_to_a_module_is_its_own(arena: Make) -> None:
    a = arena()
    library = "return {f = function() return 'good' end, deep = {}}"
    poison = "return function() local m = require('./lib') m.f = function() return 'evil' end m.deep.x = 1 return require('./lib').f() end"
    victim = "return function() local m = require('./lib') return m.f() .. tostring(m.deep.x) end"
    for tenant in (ATTACKER, NEIGHBOUR):
        items = [
            [name, "init", {"init.luau": source, "lib.luau": library}, ["E"], ["*"]]
            for name, source in (("a", poison), ("b", victim))
        ]
        a.engine.set_program(tenant, msgpack.packb(items))
    for _ in range(2):
        assert [p.value for p in a.done(a.event(tenant=ATTACKER)).parts] == ["evil", "goodnil"]
    assert a.done(a.event(tenant=NEIGHBOUR)).parts[1].value == "goodnil"


def test_i10_what_a_handler_does_to_its_event_is_gone_with_the_event(arena: Make) -> None:
    a = arena()
    change = """return function(ctx)
        local e = ctx:event()
        local ok = pcall(function() e.name = 'x' end) or pcall(rawset, e, 'name', 'x') or pcall(table.clear, e) or pcall(setmetatable, e, {})
        pcall(function() e.data.guild.owner = 'me' end)
        return ok
    end"""
    look = "return function(ctx) local e = ctx:event() return e.name .. e.data.guild.owner end"
    a.load(("a", change), ("b", look), ("c", change), tenant=ATTACKER)
    for _ in range(3):
        done = a.done(a.event(b'{"guild":{"owner":"them"}}', tenant=ATTACKER))
        assert [p.value for p in done.parts] == [False, "Ethem", False], done


def test_i12_no_address_shows(make: Callable[..., Driver]) -> None:
    d = make()
    texts = d.ok(
        """local ctx = ...
        return {tostring({}), tostring(print or pcall), tostring(function() end), tostring(coroutine.create(pcall)), tostring(newproxy()),
            tostring(buffer.create(1)), string.format('%*', {}), tostring(ctx), debug.info(pcall, 's'), tostring(debug.info(1, 'f'))}"""
    )
    heap = [int(line.split("-")[0], 16) >> 32 for line in open("/proc/self/maps") if "heap" in line or "lib" in line]  # noqa: SIM115
    for text in texts:
        if "0x" in text:
            assert int(text.split("0x")[1], 16) >> 32 not in heap, text
    assert texts[0] != d.ok("return tostring({})", tenant=2)


def test_i16_a_panic_that_a_script_catches_costs_its_vm_and_is_told(arena: Make) -> None:
    a = arena()
    seen = a.watch(a.script("return pcall(panic)"))
    assert isinstance(seen.done, Failed)
    assert seen.done.code == "internal"
    assert "panic" not in seen.done.detail
    a.recovers()
    assert a.engine.stats()["replaced"] == 1
    a.sing()


def test_i18_nothing_of_one_tenant_or_template_is_seen_by_another(arena: Make) -> None:
    a = arena()
    litter = """return function(ctx)
        tostring = function() return 'x' end
        LAST, _G.shared, ctx.store.x = os.clock(), 1, 1
        math.randomseed(42)
        string = {upper = function() return 'evil' end}
        return math.random(1, 2^30)
    end"""
    look = """return function(ctx)
        local t = tostring(12) .. tostring(LAST) .. tostring(shared) .. tostring(ctx.store.x) .. ('a'):upper() .. string.upper('a')
        return {t, math.random(1, 2^30)}
    end"""
    for tenant in (ATTACKER, NEIGHBOUR):
        a.engine.set_program(tenant, program(("a", litter, ["Litter"]), ("b", look, ["Look"])))
    seeded = a.done(a.event(name="Litter", tenant=ATTACKER)).value
    own = a.done(a.event(name="Look", tenant=ATTACKER)).value
    other = a.done(a.event(name="Look", tenant=NEIGHBOUR)).value
    assert own[0] == other[0] == "12nilnilnilAA"
    assert other[1] != seeded and other[1] != own[1]


def test_i19_each_vm_has_a_seed_of_its_own(arena: Make) -> None:
    a = arena()
    numbers = {a.ok("return math.random(1, 2^30)", tenant=tenant) for tenant in range(10, 40)}
    assert len(numbers) == 30


@pytest.mark.parametrize(
    "source", ["return ctx", "return {ctx}", "return newproxy()", "return function() end", "return coroutine.running()"]
)
def test_i14_host_objects_and_functions_do_not_leave_a_script(arena: Make, source: str) -> None:
    a = arena()
    assert ending(a.wait(a.script("local ctx = ... " + source))) == "error"
