"""JSON as scripts read and write it: the same values as Python's own json, for all that I-JSON promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Driver

EXACT = 1 << 53
ECHO = """
local json = require("@antiraid/json")
return function(ctx)
    local data = ctx:event().data
    return json.tojsonstring(json.fromjsonstring(data.text), data.pretty)
end"""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none() | st.booleans() | texts | st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False)
)
# An empty object becomes a list, for a table does not say which of them it is.
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, min_size=1, max_size=5),
    max_leaves=30,
)


@pytest.fixture(scope="module")
def echo() -> Iterator[Callable[..., str]]:
    driver = Driver()
    driver.load(("echo", ECHO))

    def send(text: str, *, pretty: bool = False) -> str:
        done = driver.done(driver.event(json.dumps({"text": text, "pretty": pretty}).encode()))
        assert done.error == "", done.error
        answer: str = done.value
        return answer

    yield send
    driver.engine.close()


def same(a: Any, b: Any) -> bool:
    """Equal, with equal kinds and signs; integers and whole floats are one kind in Luau."""
    match a, b:
        case list(), list():
            return len(a) == len(b) and all(map(same, a, b))
        case dict(), dict():
            return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
        case bool() | None, _:
            return a is b
        case int() | float(), int() | float():
            return type(b) is not bool and a == b and (a != 0 or math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values, st.booleans())
def test_values_come_back_from_luau(echo: Callable[..., str], value: Any, pretty: bool) -> None:
    assert same(value, json.loads(echo(json.dumps(value, ensure_ascii=pretty), pretty=pretty)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values)
def test_the_text_is_pythons_with_sorted_keys(echo: Callable[..., str], value: Any) -> None:
    """Also where indentation and escapes go; numbers are compared by value above."""

    def settle(item: Any) -> Any:
        match item:
            case list():
                return [settle(x) for x in item]
            case dict():
                return {k: settle(v) for k, v in sorted(item.items(), key=lambda kv: kv[0].encode())}
            case bool() | str() | None:
                return item
        return 7

    value = settle(value)
    assert echo(json.dumps(value), pretty=True) == json.dumps(value, ensure_ascii=False, indent=2)
    assert echo(json.dumps(value)) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    "text",
    [
        "0.1",
        "9007199254740993.0",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
        "123456789.123456789e-17",
        "1e-400",
    ],
)
def test_a_fraction_is_the_nearest_double(echo: Callable[..., str], text: str) -> None:
    assert float(echo(text)) == float(text)


@pytest.mark.parametrize("n", [EXACT + 1, -EXACT - 1, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1])
def test_integers_of_64_bits_keep_their_digits(echo: Callable[..., str], n: int) -> None:
    assert echo(f"[{n},{n}.0]") == f"[{n},{json.loads(echo(f'{n}.0'))!r}]".replace("e+", "e")


@pytest.mark.parametrize("text", ["", "nul", "NaN", "1e999", "01", "1.", "[1,]", "{a:1}", "'a'", '"\\ud800"', "[1] 2"])
def test_what_is_no_json_is_refused(text: str) -> None:
    driver = Driver()
    driver.load(("echo", ECHO))
    done = driver.done(driver.event(json.dumps({"text": text}).encode()))
    assert "deserialize error: it is not JSON at byte" in done.error
    driver.engine.close()
