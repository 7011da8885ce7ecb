"""What an engine gives for what it gets."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from pytw import _native
from pytw.types import Outcome

from .conftest import Done, Driver, Failed, in_child

Make = Callable[..., Driver]


def test_event_data_reaches_the_handler(driver: Driver) -> None:
    driver.load(("t", "return {E = function(ctx) local d = ctx:event().data return {d.id, d.n} end}"))
    for _ in range(3):
        done = driver.done(driver.event(b'{"id":"1100000000000000001","n":[1,2,2.5]}'))
        assert done.value == ["1100000000000000001", [1, 2, 2.5]]


def test_null_is_nil(driver: Driver) -> None:
    driver.load(
        (
            "t",
            "return function(ctx) local n = 0 for _ in ctx:event().data do n += 1 end return {n, type(ctx:event().data.a)} end",
        )
    )
    payload = json.dumps({"a": None, **{f"k{i}": i for i in range(40)}, "z": None}).encode()
    assert [driver.done(driver.event(payload)).value for _ in range(2)] == [[40, "nil"]] * 2


def test_an_event_runs_in_every_template_that_listens_and_gives_their_results_in_order(driver: Driver) -> None:
    driver.load(
        ("slow", "return {E = function() task.wait(0.1) return 'slow' end}"),
        ("other", "return {F = function() end}", ["F"]),
        ("bad", "return {E = function() error('oh') end}"),
        ("quick", "return {E = function() return 'quick' end}", ["E"]),
    )
    done = driver.done(driver.event())
    assert done.outcome is Outcome.SCRIPT_ERROR
    assert [(p.template, p.outcome, p.value) for p in done.parts] == [
        ("slow", Outcome.OK, "slow"),
        ("bad", Outcome.SCRIPT_ERROR, None),
        ("quick", Outcome.OK, "quick"),
    ]
    assert "oh" in (done.parts[1].error or "")


def test_templates_of_one_tenant_run_at_the_same_time(driver: Driver) -> None:
    driver.load(*[(f"t{i}", "return function() host('x', 1) return host('y', 2).value end") for i in range(4)])
    driver.holding = True
    number = driver.event()
    driver.until(lambda: len(driver.calls) == 4)
    driver.holding = False
    for call, _, _, name, args in driver.calls:
        driver.reply(call, name, args)
    done = driver.done(number)
    assert [p.value for p in done.parts] == [2] * 4 and done.calls == {"x": 4, "y": 4}


def test_an_event_nobody_listens_for_makes_no_vm(driver: Driver) -> None:
    driver.load(("t", "return {}", ["MESSAGE"]))
    done = driver.done(driver.event(name="OTHER"))
    assert done.outcome is Outcome.NOT_SUBSCRIBED and done.parts == []
    assert driver.done(driver.event(tenant=2)).outcome is Outcome.NOT_SUBSCRIBED
    assert driver.engine.stats()["vms"] == 0


def test_a_new_program_takes_later_events_and_running_handlers_end_on_the_old_one(driver: Driver) -> None:
    driver.load(("t", "return {E = function() host('never') return 'old' end}"))
    old = driver.event()
    driver.until(lambda: bool(driver.calls))
    driver.load(("t", "return {E = function() return 'new' end}"))
    assert driver.done(driver.event()).value == "new"
    driver.engine.answer(driver.calls[0][0], msgpack.packb([]))
    assert driver.done(old).value == "old"


def test_old_programs_are_released(make: Make) -> None:
    d = make(vm_memory_bytes=4 << 20)
    for i in range(60):
        d.load(("t", f"local big = string.rep('x', 200000) return function() return {i} + #big - 200000 end"))
        assert d.done(d.event()).value == i


def test_builtins_come_first_for_every_tenant(make: Make) -> None:
    d = make(builtins=msgpack.packb({"init.luau": "return {E = function() return 'built in' end}"}))
    d.load(("t", "return function() return 'own' end"))
    assert [(p.template, p.value) for p in d.done(d.event()).parts] == [("$builtins", "built in"), ("t", "own")]
    assert [p.value for p in d.done(d.event(tenant=2)).parts] == ["built in"]
    d.load(tenant=2)
    assert [p.value for p in d.done(d.event(tenant=2)).parts] == ["built in"]


def test_builtins_get_only_the_events_they_listen_for(make: Make) -> None:
    source = msgpack.packb({"init.luau": "return function(ctx) return ctx:event().name end"})
    d = make(builtins=source, builtins_events=["A", "B"])
    assert d.done(d.event(name="A")).value == "A"
    assert d.done(d.event(name="C")).outcome is Outcome.NOT_SUBSCRIBED
    d = make(builtins=source, builtins_events=[])
    assert d.done(d.event(name="A")).outcome is Outcome.NOT_SUBSCRIBED


def test_an_own_template_of_that_name_takes_the_place_of_the_builtins(make: Make) -> None:
    d = make(builtins=msgpack.packb({"init.luau": "return {E = function() return 'built in' end}"}))
    d.load(("t", "return function() return 'own' end"), ("$builtins", "return function() return 'mine' end"))
    assert [(p.template, p.value) for p in d.done(d.event()).parts] == [("t", "own"), ("$builtins", "mine")]


def test_a_host_call_names_its_request_and_template_also_from_threads(driver: Driver) -> None:
    source = """return function() local f = coroutine.wrap(function() return host('a', 1) end)
        task.spawn(function() host('b', 1) end) task.defer(coroutine.wrap(function() host('c', 1) end)) f() host('d', {1}) task.wait() end"""
    driver.load(("t", source), ("u", "return {E = function() host('e', 'x', nil, 2) end}"))
    number = driver.event()
    driver.done(number)
    assert {(r, t, n) for _, r, t, n, _ in driver.calls} == {
        (number, t, n) for t, n in [*zip("tttt", "abcd", strict=True), ("u", "e")]
    }
    assert [args for *_, name, args in driver.calls if name == "e"] == [["x", None, 2]]


def test_the_meter_counts_calls_time_and_bytes(driver: Driver) -> None:
    done = driver.done(
        driver.script("for i = 1, 3 do host('kv.get', i) end for i = 1, 1e6 do end task.wait(0.1) return 'abc'")
    )
    assert done.calls == {"kv.get": 3} and done.result_bytes == 4
    assert done.wall_us > 100_000 and 500 < done.cpu_us < done.wall_us


def test_host_calls_work_in_pcall_and_iterators(driver: Driver) -> None:
    assert driver.ok(
        "local ok, v = pcall(function() return host('kv.get', 'k').value end) return {tostring(ok), v}"
    ) == ["true", "k"]
    assert driver.ok("local ok, e = pcall(host, 'fail', 1) return {tostring(ok), e}") == ["false", "host says no"]
    assert driver.ok(
        "local o = {} for i in function(_, c) c = (c or 0) + 1 if c < 4 then return host('n', c).value end end do o[#o + 1] = i end return o"
    ) == [1, 2, 3]


def test_an_error_of_the_host_that_nobody_catches_ends_the_script(driver: Driver) -> None:
    done = driver.bad("host('fail', 1)")
    assert done.outcome is Outcome.SCRIPT_ERROR and "host says no" in done.error


def test_a_check_lists_the_events_of_an_entry(driver: Driver) -> None:
    assert driver.wait(driver.check("return {B = function() end, A = function() end, n = 1}")) == ["A", "B"]
    assert driver.wait(driver.check("task.wait(0.05) return function() end")) == ["*"]
    driver.until(lambda: driver.engine.stats()["vms"] == 0)


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("local a = = 1", "script_error", "init"),
        ("error('no')", "script_error", "no"),
        ("return 1", "script_error", "function"),
        ("host('x')", "script_error", "cannot call the host"),
        ("while true do end", "limit_exceeded", "CPU"),
        ("local t = {} while true do t[#t + 1] = {} end", "limit_exceeded", "memory"),
    ],
)
def test_a_check_that_fails_says_why(make: Make, source: str, code: str, text: str) -> None:
    d = make(cpu_bucket_ms=1_000)
    failed = d.wait(d.check(source))
    assert isinstance(failed, Failed) and failed.code == code and text in failed.detail
    assert not d.calls


def test_a_check_has_a_deadline_and_leaves_the_tenants_vm_alone(driver: Driver) -> None:
    driver.load(("t", "n = 0 return function() n += 1 return n end"))
    assert driver.done(driver.event()).value == 1
    failed = driver.wait(driver.check("coroutine.yield()", timeout_ms=100))
    assert isinstance(failed, Failed) and failed.code == "limit_exceeded"
    assert driver.done(driver.event()).value == 2


def test_compile_check_gives_line_and_cause() -> None:
    assert _native.compile_check("x", b"return 1") is None
    found = _native.compile_check("x", b"local a\nlocal b = = 2")
    assert found is not None and found[0] == 2 and "=" in found[1]


def test_dropping_a_tenant_answers_what_waited_and_forgets_the_program(driver: Driver) -> None:
    driver.load(("t", "return function() host('never', 1) end"))
    assert driver.engine.has_program(1) and not driver.engine.has_program(2)
    number = driver.event()
    driver.until(lambda: bool(driver.calls))
    assert driver.wait(driver.drop()) is None
    done = driver.done(number)
    assert done.outcome is Outcome.CANCELLED and done.error == "dropped"
    assert not driver.engine.has_program(1) and driver.done(driver.event()).outcome is Outcome.NOT_SUBSCRIBED
    assert driver.engine.stats()["vms"] == 0


def test_user_keys_have_the_top_bit(driver: Driver) -> None:
    assert driver.ok("return 1", tenant=5 | 1 << 63) == 1


def test_a_program_that_is_not_msgpack_is_refused_at_once(driver: Driver) -> None:
    for bad in (b"", b"\xc1", msgpack.packb([["a"]]), msgpack.packb({"a": 1})):
        with pytest.raises(ValueError):
            driver.engine.set_program(1, bad)


def test_an_engine_is_refused_after_fork(driver: Driver) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            driver.engine.submit_script(1, 1, "s", b"return 1", "E", b"{}")
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_engine_made_after_fork_works(driver: Driver) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            d = Driver(cpu_bucket_ms=50)
            assert "CPU limit" in d.error("while true do end")
            d.engine.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_interpreter_ends_with_an_engine_running(tmp_path: Path) -> None:
    code = (
        "from pytw import _native; e = _native.Engine(); e.submit_script(1, 1, 's', b'while true do end', 'E', b'{}')"
    )
    assert in_child(code, tmp_path).returncode == 0


def test_close_answers_what_is_pending(make: Make) -> None:
    d = make()
    d.load(("t", "return function(ctx) return host('never', 1) end"))
    pending = [d.event(), d.script("while true do end", tenant=2), *[d.script("return 1", tenant=2) for _ in range(50)]]
    d.engine.close()
    for number in pending:
        answer = d.wait(number, 1)
        assert isinstance(answer, Done) or answer[:2] == ("unavailable", "the engine is closed")
    with pytest.raises(RuntimeError, match="closed"):
        d.script("return 1")


def test_answers_for_many_submitting_threads_all_come(make: Make) -> None:
    """Also a check that submitting needs no lock of the caller's."""
    d = make()
    d.load(("t", "return function(ctx) return ctx:event().data.n end"))

    def submit(first: int) -> None:
        for number in range(first, first + 250):
            d.engine.submit_event(1, number, "E", b'{"n":%d}' % number)

    threads = [threading.Thread(target=submit, args=(1000 * i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(1, 5):
        for number in range(1000 * i, 1000 * i + 250):
            assert d.done(number).outcome in (Outcome.OK, Outcome.SHED)


def test_versions_are_the_pinned_ones() -> None:
    assert _native.LUAU_VERSION.startswith("0.740")
    kinds = [_native.RESULT, _native.FAILED, _native.HOST_CALL, _native.LOG, _native.DEAF, _native.LOST]
    assert kinds == [0, 1, 2, 3, 4, 5]
