"""KhronosValue: both forms hold the same values, and a value that goes through Luau comes back unchanged."""

from __future__ import annotations

import itertools
import math
import os
import select
import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytw import _native, values
from pytw.types import DispatchResult, Outcome, TemplateResult
from pytw.values import Buffer, Interval, LazyStringMap, Map, RawText, TimeZone, UnsignedInteger, Vector

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

EXACT = 1 << 53
INTERVAL_S_MAX = ((1 << 63) - 1) // 1000
f32 = st.floats(width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


raw_texts = st.binary(max_size=20).map(lambda tail: RawText(b"\xff" + tail))
numbers = st.floats() | st.integers(-EXACT, EXACT)
luau_scalars = (
    st.booleans() | numbers | texts | raw_texts | st.binary(max_size=20).map(Buffer) | st.builds(Vector, f32, f32, f32)
)
times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
stamps = st.builds(
    msgpack.Timestamp, st.integers(-(10**10), 10**11), st.integers(0, 10**9 - 1).filter(lambda n: n % 1000)
)
intervals = st.builds(Interval, st.integers(-INTERVAL_S_MAX, INTERVAL_S_MAX - 1), st.integers(0, 10**9 - 1))
zones = st.sampled_from(["Europe/London", "UTC", "EST", "Etc/GMT+5"]).map(TimeZone)
objects = intervals | zones | times | stamps
scalars = (
    luau_scalars
    | objects
    | st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.integers(0, (1 << 64) - 1).map(UnsignedInteger)
    | st.dictionaries(texts, texts, max_size=3).map(LazyStringMap)
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = (
        st.lists(st.tuples(inner, inner), max_size=4)
        .map(Map)
        .filter(lambda m: not all(type(k) is str for k, _ in m.items()))
    )
    return st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4) | pairs


any_values = st.recursive(scalars, containers, max_leaves=20)
#: Generated values of the test below; 100,000 take some minutes.
EXAMPLES = int(os.environ.get("PYTW_TEST_EXAMPLES", "300"))


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, with nan equal to itself and -0.0 apart from 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, Map):
        return same([list(pair) for pair in a.pairs], [list(pair) for pair in b.pairs])
    if isinstance(a, list | Vector):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def as_luau_has_it(value: Any) -> Any:
    """*value* without what no Luau value tells: kinds of whole numbers, nil as a field or at the end of a list, lists
    apart from maps with the keys 1..n, and the order of keys.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT and math.copysign(1, value) > 0:
        return int(value)
    if isinstance(value, float) and value.is_integer() and 0 < abs(value) <= EXACT:
        return int(value)
    if isinstance(value, list):
        items = [as_luau_has_it(item) for item in value]
        while items and items[-1] is None:
            del items[-1]
        return items
    if isinstance(value, LazyStringMap):
        return LazyStringMap(sorted(value.items()))
    if type(value) is dict or isinstance(value, Map):
        pairs = [(as_luau_has_it(key), as_luau_has_it(item)) for key, item in value.items() if item is not None]
        pairs = [(0 if isinstance(key, float) and key == 0 else key, item) for key, item in pairs]
        pairs.sort(key=lambda pair: values.pack(list(pair)))
        if pairs and sorted(key for key, _ in pairs if type(key) is int) == list(range(1, len(pairs) + 1)):
            return [item for _, item in sorted(pairs)]
        return dict(pairs) if all(type(key) is str for key, _ in pairs) else Map(pairs)
    return value


@settings(max_examples=300, deadline=None)
@given(any_values)
def test_both_forms_hold_the_same_values(value):
    assert same(values.unpack(values.pack(value)), value)
    tagged = orjson.loads(orjson.dumps(values.to_tagged_json(value), option=orjson.OPT_PASSTHROUGH_SUBCLASS))
    assert same(values.from_tagged_json(tagged), value)


@settings(max_examples=100, deadline=None)
@given(any_values)
def test_forms_are_canonical(value):
    """Packing what was unpacked gives the same bytes, so that either side may compare them."""
    packed = values.pack(value)
    assert values.pack(values.unpack(packed)) == packed


def through_luau(engine: Any, packed: bytes) -> TemplateResult:
    """What comes of a script that returns what a host call gave it."""
    engine.submit_script(1, next(numbers_used), "script", b"return ((...).KV:get('k', {'s'}))", "Test", b"{}")
    while True:
        assert select.select([engine.fileno()], [], [], 20)[0]
        for kind, _, number, payload in engine.drain():
            if kind == _native.RESULT:
                return DispatchResult(payload).templates[0]
            engine.answer(number, b"\x91" + packed)


numbers_used = itertools.count(1)


@pytest.mark.timeout(120 + EXAMPLES / 20)
def test_a_value_comes_back_from_luau_unchanged_or_is_refused(make):
    engine = make().engine

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(any_values)
    def check(value):
        done = through_luau(engine, values.pack([value]))
        if done.outcome is not Outcome.OK:
            assert has_such_a_key(value), done
            return
        (again,) = done.value or [None]
        assert same(as_luau_has_it(again), as_luau_has_it(value)), (again, value)

    check()


def has_such_a_key(value: Any) -> bool:
    """A key that no table can have, two that are one in a table, or list items beside named fields."""
    if isinstance(value, list):
        return any(map(has_such_a_key, value))
    if not isinstance(value, dict | Map):
        return False
    keys = [key for key, _ in value.items()]
    # 0 and -0 are one key.
    flat = [
        values.pack(as_luau_has_it(key or 0)) for key in keys if not isinstance(key, list | dict | Map | str | bool)
    ]
    flat += [values.pack(key) for key in keys if isinstance(key, str | bool)]
    numbers = [type(key) in (int, float) and abs(key) <= EXACT for key, item in value.items() if item is not None]
    first = any(type(key) in (int, float) and key == 1 for key, item in value.items() if item is not None)
    return (
        len(set(flat)) < len(flat)
        or any(key is None or "nan" in repr(key) for key in keys)
        or (first and not all(numbers))
        or any(has_such_a_key(part) for pair in value.items() for part in pair)
    )


@pytest.mark.parametrize(
    ("value", "luau"),
    [
        (
            datetime(2026, 2, 27, 6, 7, 33, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 2, 27, 4, 7, 33, tzinfo=UTC),
        ),
        (timedelta(seconds=-1.5), Interval(-2, 500_000_000)),
        (LazyStringMap(a="b"), {"a": "b"}),
        ([1, None, 3], [1, None, 3]),
        ([None, 2, None], [None, 2]),
        ([], []),
        ({"a": None}, {}),
        (Map([(2, "a"), (True, "b"), (2.5, "c")]), {2: "a", True: "b", 2.5: "c"}),
    ],
)
def test_what_comes_back_in_another_form(make, value, luau):
    """Times are in UTC, and nil is absence: at the end of a list and as a field."""
    got = through_luau(make().engine, values.pack([value])).value[0]
    assert (dict(got.items()) if isinstance(got, Map) else got) == luau


def answered(driver: Any, source: str, *answer: Any) -> Any:
    """What a script returns that gets *answer* as ``...``."""
    driver.engine.submit_script(
        1,
        driver._next(),
        "script",
        f"return (function(...) {source} end)((...).KV:get('k', {{'s'}}))".encode(),
        "Test",
        b"{}",
    )
    driver.reply = lambda number, name, args: driver.engine.answer(number, msgpack.packb(list(answer)))
    return driver.done(driver.last)


def test_json_of_the_host_is_read_late_at_once_or_never(make):
    text = b'{"n":1.5,"list":[1,2],"none":null}'
    driver = make()
    seen = answered(driver, "local l = ... return {typeof(l), l.data == l.data, l.data}", msgpack.ExtType(8, text))
    assert seen.value == ["Lazy", True, {"n": 1.5, "list": [1, 2]}], seen
    seen = answered(
        driver,
        "local o = ... return {typeof(o), tostring(o), pcall(function() return o.data end)}",
        msgpack.ExtType(10, text),
    )
    assert seen.value == ["Opaque", "Opaque", False, "script:1: attempt to get an unknown field 'data'"]
    assert answered(driver, "return (...).n", msgpack.ExtType(11, text)).value == 1.5
    assert answered(driver, "return (...).data", msgpack.ExtType(8, b"false")).value is False
    bad = answered(driver, "return (...).data", msgpack.ExtType(8, b"{"))
    assert bad.outcome is Outcome.SCRIPT_ERROR and "not JSON at byte 1" in bad.error
    deep = answered(driver, "return (...).data", msgpack.ExtType(8, b"[" * 70 + b"]" * 70))
    assert deep.limit == "depth"


def read_only(table):
    return msgpack.ExtType(12, msgpack.packb(table))


def test_tables_of_the_host_may_be_read_only(make):
    """Only the table itself: what it holds is as ever."""
    driver = make()
    answer = [read_only({"value": {"a": 1}}), read_only([1, 2])]
    source = """local list = ...
        assert(table.isfrozen(list[1]) and not table.isfrozen(list[1].value) and not table.isfrozen(list))
        assert(not pcall(rawset, list[1], "value", 2) and not pcall(table.insert, list[2], 3))
        list[1].value.a = 2
        return list"""
    assert answered(driver, source, answer).value == [{"value": {"a": 2}}, [1, 2]]
    for wrong in (msgpack.ExtType(12, b"\x01"), msgpack.ExtType(12, b"\x80\x01"), msgpack.ExtType(12, b"")):
        assert "read-only" in (error := answered(driver, "return 1", wrong).error) or "ends before" in error


def test_what_could_be_stored_comes_back_within_a_record(make):
    """A value of the greatest depth does, and each read-only table is a level."""
    driver = make()
    deepest: list[object] = []
    for _ in range(64):
        deepest = [deepest]
    records = [read_only({"value": deepest})]
    assert answered(driver, "return (...)[1].value", records).value == deepest
    nested: object = {}
    for _ in range(70):
        nested = msgpack.ExtType(12, msgpack.packb(nested))
    assert answered(driver, "return 1", nested).limit == "depth"


def test_json_of_the_host_counts_as_the_scripts_memory(make):
    driver = make(vm_memory_bytes=4 << 20)
    text = b'"' + b"x" * 3_000_000 + b'"'
    assert answered(driver, "return gcinfo() < 1000", msgpack.ExtType(8, text)).value is True
    done = answered(driver, "return nil", msgpack.ExtType(8, text), msgpack.ExtType(8, text))
    assert done.limit == "memory", done


def test_an_answer_is_cast_to_a_string_map(make):
    driver = make()
    cast = "return require('@antiraid/typesext').castlazyvaluetolazymap(...)"
    opaque = (
        "local x = require('@antiraid/typesext') return x.castopaquevaluetopaquemap(x.castopaquevaluetopaquemap(...))"
    )
    text = b'{"b":"2","a":"\\u00e9"}'
    assert answered(driver, cast, msgpack.ExtType(8, text)).value.data == msgpack.packb({"a": "\u00e9", "b": "2"})
    assert "an Opaque cannot leave" in answered(driver, opaque, msgpack.ExtType(10, text)).error
    for bad in (b"[]", b'"x"', b'{"a":1}', b'{"a":null}', b"{", b'{"a":"b"} x'):
        done = answered(driver, cast, msgpack.ExtType(8, bad))
        assert "Failed to convert to a string map" in done.error, bad
    many = b"{" + b",".join(b'"":""' for _ in range(10_001)) + b"}"
    assert "10,000 entries (limit: size)" in answered(driver, cast, msgpack.ExtType(8, many)).error


def test_a_lazy_string_map_moves_to_the_host(make):
    driver = make()
    files = msgpack.ExtType(6, msgpack.packb({"b": "2", "a": "1"}))
    assert answered(driver, "return ...", files).value == files
    sent = "local m = ... return {m, m}"
    assert answered(driver, sent, files).value == [files, files]
    left = "local m = ... pcall(host, 'echo', {m, task.wait}) return m.data"
    assert answered(driver, left, files).value == {"a": "1", "b": "2"}
    for bad in ({"a": 1}, {1: "a"}, [1], 5):
        done = answered(driver, "return ...", msgpack.ExtType(6, msgpack.packb(bad)))
        assert done.outcome is Outcome.SCRIPT_ERROR, bad


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("print", None),
        ("function() end", "a function cannot leave"),
        ("coroutine.create(function() end)", "a thread cannot leave"),
        ("newproxy()", "a userdata cannot leave"),
        ("require('@antiraid/interop').null", "interop.null cannot leave"),
        ("{data = {items = {1, 2, {x = task.wait}}}}", "at data.items[3].x: a function cannot leave"),
        ("{['a b'] = {[true] = {[{}] = {[2.5] = task.wait}}}}", 'at ["a b"][true][a table][2.5]: a function'),
        ("{[task.wait] = 1}", "at [a function]: a function cannot leave"),
        ("setmetatable({1, x = 2}, require('@antiraid/interop').array_metatable)", "no places of a list"),
        ("setmetatable({[1e9] = 2}, require('@antiraid/interop').array_metatable)", "100,000 parts"),
        ("{1, 2, x = 3}", "mixes list items and named fields"),
        ("(function() local t = {} t.t = t return t end)()", "nested deeper than 64"),
        ("table.create(100001, 1)", "100,000 parts"),
        ("buffer.create(5000000)", "4 MiB"),
        ("{('x'):rep(3000000), ('y'):rep(3000000)}", "4 MiB"),
    ],
)
def test_what_cannot_leave_is_refused(make, returned, complaint):
    driver = make()
    done = driver.done(driver.script(f"return {returned}"))
    if complaint is None:
        assert done.value is None
    else:
        assert done.outcome is (Outcome.LIMIT_EXCEEDED if done.limit else Outcome.SCRIPT_ERROR)
        assert complaint in done.error


def test_metamethods_are_not_invoked(driver):
    source = "return setmetatable({a = 1}, {__index = error, __iter = error, __len = error, __pairs = error})"
    assert driver.ok(source) == {"a": 1}


def test_a_list_with_holes_keeps_its_places(driver):
    assert driver.ok("return {1, nil, 3}") == {1: 1, 3: 3}
    assert driver.ok("return {[0] = 'a', [1.5] = 'b'}") == {0: "a", 1.5: "b"}


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91",
        b"\x01\x01",
        b"\x81\xc0\x01",
        b"\xd4\x03\x00",
        b"\xc7\x01\x63\x00",
        struct.pack(">BBbIq", 0xC7, 12, -1, 10**9, 0),
        struct.pack(">BBbIq", 0xC7, 12, -1, 0, 10**12),
        struct.pack(">BBbqI", 0xC7, 12, 4, (1 << 63) - 1, 0),
        struct.pack(">BBbqI", 0xC7, 12, 4, 0, 10**9),
        b"\xc7\x07\x05Nowhere",
    ],
)
def test_bytes_that_are_no_value_are_refused(make, packed):
    """The script that waits gets an error, whatever the host sends."""
    driver = make()
    done = through_luau(driver.engine, packed)
    assert done.outcome is Outcome.SCRIPT_ERROR
    assert driver.ok("return 1") == 1


@pytest.mark.parametrize(
    "tagged",
    [
        None,
        1,
        "null",
        {},
        {"Text": 1},
        {"Text": "a", "Integer": 1},
        {"Integer": True},
        {"Integer": 1.5},
        {"Integer": 1 << 63},
        {"UnsignedInteger": -1},
        {"Buffer": [256]},
        {"Buffer": "AA=="},
        {"Vector": [1, 2]},
        {"Map": [[{"Text": "a"}]]},
        {"Map": [[{"Text": "a"}, "Null"], [{"Text": "a"}, "Null"]]},
        {"Timestamptz": "yesterday"},
        {"Timestamptz": "2026-02-27T06:07:33"},
        {"Interval": [1]},
        {"Interval": [INTERVAL_S_MAX + 1, 0]},
        {"Interval": [-INTERVAL_S_MAX - 2, 0]},
        {"Interval": [0, 10**9]},
        {"Unknown": 1},
    ],
)
def test_json_that_is_no_tagged_value_is_refused(tagged):
    with pytest.raises(ValueError):
        values.from_tagged_json(tagged)


def test_depth_is_bounded_in_both_forms():
    deep: Any = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueError):
        values.to_tagged_json(deep)
    tagged: Any = {"List": []}
    for _ in range(70):
        tagged = {"List": [tagged]}
    with pytest.raises(ValueError):
        values.from_tagged_json(tagged)


def test_times_with_offsets_are_converted():
    assert values.from_tagged_json({"Timestamptz": "2026-02-27T07:07:33.5+01:00"}) == datetime(
        2026, 2, 27, 6, 7, 33, 500_000, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        1 << 64,
        -(1 << 63) - 1,
        "\ud800",
        datetime(2026, 1, 1),
        Interval(1 << 62, 0),
        Interval(0, -1),
    ],
)
def test_what_is_no_value_is_not_packed(value):
    with pytest.raises(ValueError):
        values.pack(value)
