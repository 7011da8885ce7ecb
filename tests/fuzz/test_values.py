"""P1 and P3: values that cross come back equal or are refused, and events' JSON means what Python's json says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from .conftest import SECONDS, SEED, Driver

PER_SCRIPT = 5
#: How many examples the slower machines make in a second.
VALUES_PER_SECOND, JSON_PER_SECOND = 30, 100


def examples(per_second: int) -> settings:
    """Hypothesis counts examples, not time."""
    count = int((SECONDS or 3) * per_second)
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def summary(name: str, per_second: int) -> None:
    print(f"\nfuzz {name}: {int((SECONDS or 3) * per_second)} examples, seed {SEED}")  # noqa: T201


# ---- P1 -----------------------------------------------------------------------------------------------


def quoted(raw: bytes) -> str:
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\{`' else f"\\{b:03}" for b in raw) + '"'


def number(n: float) -> str:
    if math.isnan(n):
        return "(0 / 0)"
    if math.isinf(n):
        return "(1 / 0)" if n > 0 else "(-1 / 0)"
    return f"({n!r})"


texts = st.one_of(st.binary(max_size=30), st.text(max_size=20).map(lambda s: s.encode("utf-8", "surrogatepass")))
numbers = st.one_of(
    st.floats(width=64),
    st.integers(-(2**53) - 3, 2**53 + 3).map(float),
    st.sampled_from([0.0, -0.0, 1.0, 2.0**53, 2.0**63, -(2.0**63), 2.0**64, 5e-324]),
)
scalars = st.one_of(
    st.sampled_from(["true", "false"]),
    numbers.map(number),
    texts.map(quoted),
    texts.map(lambda raw: f"buffer.fromstring({quoted(raw)})"),
    st.tuples(*[st.floats(width=32)] * 3).map(lambda v: f"vector.create({', '.join(map(number, v))})"),
)
keys = st.one_of(texts.map(quoted), numbers.filter(lambda n: not math.isnan(n)).map(number), st.just("true"))


def tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(inner, max_size=6).map(lambda items: "{" + ", ".join(items) + "}")
    fields = st.lists(st.tuples(keys, inner), max_size=6)
    maps = fields.map(lambda items: "{" + ", ".join(f"[{key}] = {value}" for key, value in items) + "}")
    mixed = st.tuples(st.lists(inner, max_size=3), fields).map(
        lambda both: "{" + ", ".join([*both[0], *(f"[{key}] = {value}" for key, value in both[1])]) + "}"
    )
    return st.one_of(lists, maps, mixed)


values = st.recursive(scalars, tables, max_leaves=25)

SAME = """
local function same(a, b)
    if type(a) ~= type(b) then return false end
    if type(a) == 'number' then return (a ~= a and b ~= b) or (a == b and 1 / a == 1 / b) end
    if type(a) == 'buffer' then return buffer.tostring(a) == buffer.tostring(b) end
    if type(a) == 'vector' then
        return same(a.x, b.x) and same(a.y, b.y) and same(a.z, b.z)
    end
    if type(a) ~= 'table' then return a == b end
    for k, v in a do if not same(v, b[k]) then return false end end
    for k in b do if a[k] == nil then return false end end
    return true
end
local wrong = {}
local function try(source, value)
    local ok, back = pcall(host, 'echo', value)
    if ok and not same(value, back) then wrong[#wrong + 1] = source end
end
"""


class Echo(Driver):
    """Answers a host call with its arguments, byte for byte."""

    def pump(self, seconds: float) -> None:
        import select

        from pytw import _native

        select.select([self.engine.fileno()], [], [], seconds)
        for kind, _, number_, payload in self.engine.drain():
            if kind == _native.HOST_CALL:
                reader = msgpack.Unpacker()
                reader.feed(payload)
                reader.read_array_header()
                for _ in range(4):
                    reader.skip()
                self.engine.answer(number_, payload[reader.tell() :])
            elif kind == _native.RESULT:
                self.answers[number_] = msgpack.unpackb(payload, strict_map_key=False)


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    made = Echo(cpu_bucket_ms=600_000)
    yield made
    made.engine.close()


def test_what_crosses_comes_back_equal_or_is_refused(echo: Echo) -> None:
    @seed(SEED)
    @examples(VALUES_PER_SECOND)
    @given(st.lists(values, min_size=PER_SCRIPT, max_size=PER_SCRIPT))
    def crosses(sources: list[str]) -> None:
        lines = [f"try({quoted(source.encode())}, {source})" for source in sources]
        number_ = echo.script(SAME + "\n".join(lines) + "\nreturn wrong[1] or ''")
        outcome, limit, parts, _ = echo.wait(number_)
        assert (outcome, limit, parts[0][3]) == (0, None, ""), parts

    crosses()
    summary("values", VALUES_PER_SECOND)


# ---- P3 -----------------------------------------------------------------------------------------------

SAFE = 2**53
json_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        json_texts,
        st.integers(10**17, 10**19).map(str),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(json_texts, inner, max_size=6)),
    max_leaves=30,
)


def without_nulls(value: Any) -> Any:
    """Nulls are absent in a script: fields are left out; a list with one is not compared further than its items say."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value


def seen_by_scripts(value: Any) -> Any:
    """What the text means to a script: exact integers as numbers, others as their digits."""
    if isinstance(value, dict):
        return {key: seen_by_scripts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [seen_by_scripts(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) > SAFE else value
    return value


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    if isinstance(theirs, (dict, list)) and not theirs:
        return ours in ({}, [])
    if isinstance(theirs, float) or isinstance(ours, float):
        return (
            not isinstance(ours, (str, bool)) and math.copysign(1, ours) == math.copysign(1, theirs) and ours == theirs
        )
    return type(ours) is type(theirs) and bool(ours == theirs)


@pytest.fixture(scope="module")
def reader() -> Iterator[Driver]:
    made = Driver(cpu_bucket_ms=600_000)
    made.load(
        (
            "t",
            "return {Read = function(ctx) return {v = ctx:event().data} end, Json = function(ctx) "
            "return require('@antiraid/json').fromjsonstring(require('@antiraid/json').tojsonstring({v = ctx:event().data})) end}",
        )
    )
    yield made
    made.engine.close()


@pytest.mark.parametrize("event", ["Read", "Json"])
def test_json_means_what_pythons_json_says(reader: Driver, event: str) -> None:
    """`Read` is the events' parser; `Json` goes through the library's writer and parser besides."""

    @seed(SEED)
    @examples(JSON_PER_SECOND)
    @given(json_values.map(without_nulls), st.booleans(), st.sampled_from([None, 1]))
    def means(value: Any, ascii_only: bool, indent: int | None) -> None:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        done = reader.done(reader.event(text.encode(), name=event))
        wanted = seen_by_scripts(json.loads(text))
        assert done.error == "", (text, done)
        ours = done.value.get("v") if isinstance(done.value, dict) else None
        assert equal(ours, wanted), (text, ours, wanted)

    means()
    summary(f"json-{event.lower()}", JSON_PER_SECOND)
