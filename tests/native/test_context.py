"""What a template gets of an event, across templates, programs and VMs. Facts of one template are in tests/luau/context."""

from __future__ import annotations

import msgpack
import pytest

from pytw.types import Outcome


def set_templates(driver, *templates):
    driver.engine.set_program(1, msgpack.packb([[name, "init", files, ["*"], caps] for name, files, caps in templates]))


def test_templates_share_nothing(driver):
    """Globals, modules, stores and plugin objects are per template."""
    source = """
        local shared = require("./shared")
        return function(ctx)
            x = (x or 0) + 1
            ctx.store.n = (ctx.store.n or 0) + 1
            shared.n += 1
            return { x, ctx.store.n, shared.n }
        end"""
    files = {"init.luau": source, "shared.luau": "return { n = 0 }"}
    set_templates(driver, ("a", files, []), ("b", files, []))
    for n in (1, 2):
        done = driver.done(driver.event())
        assert [part.value for part in done.parts] == [[n, n, n], [n, n, n]]


def test_a_replaced_program_starts_afresh(driver):
    source = "local n = 0 return function() n += 1 return n end"
    driver.load(("a", source))
    assert [driver.done(driver.event()).value for _ in range(2)] == [1, 2]
    driver.load(("a", source))
    assert driver.done(driver.event()).value == 1


def test_handlers_are_looked_up_at_each_event(driver):
    """Also those that the template changes later, and those behind a metatable."""
    driver.load(("a", "local t = {} t.E = function() t.E = function() return 2 end return 1 end return t"))
    assert [driver.done(driver.event()).value for _ in range(3)] == [1, 2, 2]
    driver.load(("a", "return setmetatable({}, { __index = function(_, name) return function() return name end end })"))
    assert [driver.done(driver.event(name=name)).value for name in ("E", "F", "E")] == ["E", "F", "E"]


def test_an_event_without_handler_gives_nil(driver):
    driver.load(("a", "return { other = function() return 1 end, E = 5 }"))
    done = driver.done(driver.event())
    assert (done.outcome, done.value) == (Outcome.OK, None)


@pytest.mark.parametrize("entry", ["return 5", "", "return 'text'"])
def test_an_entry_returns_a_table_or_a_function(driver, entry):
    driver.load(("a", entry))
    assert "a template returns a table of handlers or one function" in driver.done(driver.event()).error


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("", ": the file returns nothing"),
        ("return nil", ": the file returns nothing"),
        ("return true", ", not a boolean"),
    ],
)
def test_an_entry_without_a_result_is_told_so(driver, entry, cause):
    driver.load(("a", entry))
    for _ in range(2):
        error = driver.done(driver.event()).error
        assert error.splitlines()[0] == f"/init.luau: a template returns a table of handlers or one function{cause}"


def test_first_events_wait_for_one_load(driver):
    """Several events that arrive while the entry loads are all handled by what it returns."""
    driver.load(("a", "loads = (loads or 0) + 1 task.wait(0.1) local n = loads return function() return n end"))
    numbers = [driver.event() for _ in range(3)]
    assert [driver.done(number).value for number in numbers] == [1, 1, 1]


def test_a_load_outlives_the_deadline_of_the_event_that_began_it(driver):
    driver.load(("a", "loads = (loads or 0) + 1 task.wait(0.3) local n = loads return function() return n end"))
    assert driver.done(driver.event(timeout_ms=100)).outcome is Outcome.TIMEOUT
    assert driver.done(driver.event()).value == 1


def test_an_entry_that_fails_is_tried_again(driver):
    driver.load(
        ("a", "tries = (tries or 0) + 1 if tries < 2 then error('not yet') end return function() return tries end")
    )
    assert '[string "/init.luau"]:1: not yet' in driver.done(driver.event()).error
    assert driver.done(driver.event()).value == 2


def test_who_waits_for_a_load_that_was_killed_is_told_at_once(make):
    """Events that wait for an entry end with the CPU limit that ended its load, not with their own deadline."""
    driver = make(cpu_bucket_ms=100, cpu_refill_percent=5)
    driver.load(("a", "task.wait(0.1) while true do end"))
    numbers = [driver.event(timeout_ms=20_000) for _ in range(3)]
    ended = [driver.done(number) for number in numbers]
    assert {(done.outcome, done.limit) for done in ended} == {(Outcome.LIMIT_EXCEEDED, "cpu")}
    assert max(done.wall_us for done in ended) < 5_000_000


def test_who_waits_for_a_module_whose_load_was_ended_is_told_at_once(make):
    driver = make()
    set_templates(
        driver,
        (
            "a",
            {
                "init.luau": "return function() return require('./slow') end",
                "slow.luau": "host('never') return 1",
            },
            [],
        ),
    )
    first = driver.event(timeout_ms=200)
    driver.until(lambda: bool(driver.calls))
    second = driver.event(timeout_ms=20_000)
    assert driver.done(first).outcome is Outcome.TIMEOUT
    done = driver.done(second)
    assert done.outcome is Outcome.SCRIPT_ERROR and "/slow.luau did not load" in done.error


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ("return {}", "the table is empty"),
        ("return { MESSAGE = 5 }", "MESSAGE is a number, not a function"),
        ("return { [1] = function() end }", "an event's name must be a string, not [1]"),
        (
            "return { A = function() end, [function() end] = function() end }",
            "an event's name must be a string, not [function]",
        ),
    ],
)
def test_a_check_tells_what_is_wrong_with_the_table(driver, entry, cause):
    failed = driver.wait(driver.check(entry))
    assert failed.detail == f"the entry must return a function, or a table of event name -> function: {cause}"


def test_a_missing_or_broken_entry_is_named(driver):
    set_templates(driver, ("a", {"other.luau": "return 1"}, []))
    error = driver.done(driver.event()).error
    assert 'the template\'s entry "init" is missing: there is no init.luau here; there is other.luau' in error
    set_templates(driver, ("a", {"init.luau": "local x = 1\nlocal = 2"}, []))
    assert driver.done(driver.event()).error.startswith("/init.luau:2: Expected identifier")


def test_errors_say_where(driver):
    set_templates(
        driver,
        (
            "welcome",
            {
                "init.luau": "local greet = require('./lib/greet')\nreturn function()\n  greet.hello()\nend",
                "lib/greet.luau": GREET,
            },
            [],
        ),
    )
    for _ in range(2):
        assert driver.done(driver.event()).error.splitlines() == [
            '[string "/lib/greet.luau"]:3: nobody here',
            "\ttemplate 'welcome' /lib/greet.luau:3 in function 'say'",
            "\ttemplate 'welcome' /lib/greet.luau:6 in function 'hello'",
            "\ttemplate 'welcome' /init.luau:3",
        ]


GREET = """local greet = {}
local function say(...)
  error("nobody here")
end
function greet.hello()
  say()
end
return greet
"""


def test_event_data_that_is_no_json_is_an_error_of_its_reader(driver):
    driver.load(("a", "return function(ctx) return ctx:event().name .. ctx:event().data.x end"))
    assert "the event's data is not readable" in driver.done(driver.event(b"{")).error
    assert "the event's data is not readable" in driver.done(driver.event(b'{"a":1}x')).error
    assert driver.done(driver.event(b'{"x":"y"}')).value == "Ey"
    driver.load(("a", "return function(ctx) return ctx:event().name end"))
    assert driver.done(driver.event(b"{")).value == "E"


def test_data_is_the_same_whether_parsed_early_or_late(driver):
    """The second event's data is parsed at once, as the handler is known to read it."""
    driver.load(
        (
            "a",
            "return function(ctx) local e = ctx:event() return { e.data, e == ctx:event(), getmetatable(e) == nil } end",
        )
    )
    payload = b'{"a":[1,{"b":null}],"c":"\\u00e9"}'
    first, second = (driver.done(driver.event(payload)).value for _ in range(2))
    assert first[0] == second[0] == {"a": [1, {}], "c": "é"}
    assert first[1] and second[1]


def test_many_events_at_once_keep_their_own_tables(driver):
    """More than an isolate finds again from their ctx."""
    driver.load(
        (
            "a",
            """return function(ctx)
                local event = ctx:event()
                task.wait(0.1)
                return { event.data.n, ctx:event().data.n, ctx:event().name }
            end""",
        )
    )
    numbers = {driver.event(b'{"n":%d}' % n): n for n in range(100)}
    for number, n in numbers.items():
        assert driver.done(number).value == [n, n, "E"]


def test_check_lists_the_events_of_a_template(driver):
    assert driver.wait(driver.check("return { B = function() end, A = function() end, c = 1 }")) == ["A", "B"]
    assert driver.wait(driver.check("return function() end")) == ["*"]


def test_scripts_have_ctx_and_every_capability(driver):
    assert driver.ok("local ctx = ... return { ctx:has_cap('anything'), ctx:event().name, x == nil }") == [
        True,
        "Test",
        True,
    ]
    assert "script:1: Expected" in driver.error("return +")


def test_a_script_is_called_with_its_ctx_alone_and_its_first_value_counts(driver):
    """Its chunk has the name that it was given; it has globals of its own, and those of the base."""
    assert driver.ok("return select('#', ...), 'second'") == 1
    assert driver.ok("return") is None
    assert driver.error("error('no')").startswith("script:1: no\n")
    assert driver.error("return function() end") == "a function cannot leave the script"
    assert driver.ok("shared = 1 return rawget(_G, 'shared')") == 1
    assert driver.ok("return rawget(_G, 'shared')") is None


def test_of_what_a_handler_returns_the_first_value_counts(driver):
    driver.load(("a", "return { E = function() return 1, 2, 3 end, F = function() return nil, 2 end }"))
    assert [driver.done(driver.event(name=name)).value for name in "EF"] == [1, None]


def test_a_ctx_serves_later_events_too(driver):
    """A loop keeps the first one for as long as the VM lives; calls through it are those of the event that makes them."""
    driver.load(
        (
            "a",
            """local base
            return function(ctx)
                base = base or ctx
                local sub = base:with({ capabilities = { "kv:*" }, event = { name = "sub", data = ctx:event().data } })
                sub.KV:set("k", 1, { "s" })
                return { base:event().data.n, sub:event().data.n, base.store == ctx.store, base == ctx }
            end""",
        )
    )
    numbers = []
    for n, expected in ((1, [1, 1, True, True]), (2, [1, 2, True, False])):
        numbers.append(driver.event(b'{"n":%d}' % n))
        assert driver.done(numbers[-1]).value == expected
    assert [call[1] for call in driver.calls] == numbers


def test_a_call_through_a_sub_context_says_what_it_is_narrowed_to(make):
    driver = make()
    driver.holding = True
    source = """return function(ctx)
        local sub = ctx:with({ capabilities = { "kv:*", "x" } })
        task.spawn(function() sub.KV:get("k", { "s" }) end)
        task.spawn(function() sub:with({ capabilities = {} }).KV:get("k", { "s" }) end)
        ctx.KV:get("k", { "s" })
    end"""
    driver.load(("t", source))
    driver.event()
    driver.until(lambda: len(driver.calls) == 3)
    assert driver.narrowed == [["kv:*", "x"], [], None]


def test_who_holds_everything_may_hand_out_anything(driver):
    """And nothing but the text itself is held by who holds a pattern."""
    set_templates(driver, ("all", {"init.luau": HANDS_OUT}, ["*"]), ("one", {"init.luau": HANDS_OUT}, ["kv:*"]))
    everything, one = (part.value for part in driver.done(driver.event()).parts)
    assert everything == {
        "any of none": False,
        "has": True,
        "": [],
        "kv:get:*": ["kv:get:*"],
        "*": ["*"],
        "kv:*": ["kv:*"],
        "child": False,
    }
    assert one == {"any of none": False, "has": False, "": [], "kv:*": ["kv:*"], "child": False}


HANDS_OUT = """return function(ctx)
    local found = { ["any of none"] = ctx:has_any_cap({}), has = ctx:has_cap("whatever"), [""] = ctx:with({ capabilities = {} }).allowed_caps }
    for _, cap in { "kv:get:*", "*", "kv:*" } do
        local ok, sub = pcall(ctx.with, ctx, { capabilities = { cap } })
        if ok then
            found[cap] = sub.allowed_caps
        else
            assert(sub == `Missing capability: {cap}. The capabilities of a new context must be strictly a subset of itself`, sub)
        end
    end
    -- A narrowed context hands out no more than it holds, whatever its parent does.
    found.child = (pcall(function() return ctx:with({ capabilities = { "kv:*" } }):with({ capabilities = { "x" } }) end))
    return found
end"""


def test_the_bots_own_user_is_a_field_once_it_is_known(make):
    driver = make()
    driver.load(("t", "return function(ctx) return ctx.current_user.id .. ctx.current_user.username end"))
    assert "not known yet" in driver.done(driver.event()).error
    driver.engine.set_current_user(b'{"id":"5","username":"bot"}')
    assert driver.done(driver.event()).value == "5bot"


def test_runtime_tells_links_and_events_without_a_host_call(make):
    info = msgpack.packb({"links": {"api_url": "http://x"}, "events": ["A", "B"]})
    driver = make(runtime_info=info)
    source = """return function(ctx)
        local links, events = ctx.Runtime:links(), ctx.Runtime:eventlist()
        assert(table.isfrozen(links))
        local ok, err = pcall(function() return ctx:with({ capabilities = {} }).Runtime:links() end)
        assert(not ok and string.find(err, "runtime operation `links` not allowed in this template context", 1, true), err)
        return links.api_url .. events[2]
    end"""
    driver.load(("t", source))
    assert driver.done(driver.event()).value == "http://xB"
    assert driver.calls == []


def test_an_object_store_is_named_after_its_tenant(make):
    driver = make()
    driver.load(("t", "return function(ctx) return ctx.ObjectStorage.bucket_name end"), tenant=(1 << 63) | 77)
    assert driver.done(driver.event(tenant=(1 << 63) | 77)).value == "77"


def test_the_trees_of_files_are_exposed_to_who_may_see_them(make):
    driver = make(builtins=msgpack.packb({"init.luau": "return {}", "x.luau": "return 7"}))
    source = """return function(ctx)
        local exposed = ctx.Runtime:getexposedvfs()
        local require = exposed.Builtins:createrequirefunction("id", require("@antiraid/typesext").createglobalproxy())
        return { require("./x"), typeof(exposed.TemplatingTypes), typeof(exposed.BuiltinsPatches) }
    end"""
    driver.load(("t", source))
    assert driver.done(driver.event()).parts[-1].value == [7, "Vfs", "Vfs"]
