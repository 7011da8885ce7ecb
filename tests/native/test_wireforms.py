"""The JSON form of each kind of value, letter for letter: what the reference's stores and clients hold and read."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pytw import values
from pytw.values import Buffer, Interval, LazyStringMap, Map, RawText, TimeZone, UnsignedInteger, Vector

FORMS: list[tuple[Any, str]] = [
    (None, '"Null"'),
    ("a\u00e9", '{"Text":"a\u00e9"}'),
    (-5, '{"Integer":-5}'),
    (2**63 - 1, '{"Integer":9223372036854775807}'),
    (UnsignedInteger(5), '{"UnsignedInteger":5}'),
    (1.5, '{"Float":1.5}'),
    (True, '{"Boolean":true}'),
    (Buffer(b"\x00\xff"), '{"Buffer":[0,255]}'),
    (Vector(1.0, 2.5, -3.0), '{"Vector":[1.0,2.5,-3.0]}'),
    ({"a": [1, None]}, '{"Map":[[{"Text":"a"},{"List":[{"Integer":1},"Null"]}]]}'),
    (Map([(True, 1), (2, {})]), '{"Map":[[{"Boolean":true},{"Integer":1}],[{"Integer":2},{"Map":[]}]]}'),
    ([], '{"List":[]}'),
    (datetime(2026, 2, 27, 6, 7, 33, tzinfo=UTC), '{"Timestamptz":"2026-02-27T06:07:33Z"}'),
    (Interval(-2, 500_000_000), '{"Interval":[-2,500000000]}'),
    (TimeZone("Europe/London"), '{"TimeZone":"Europe/London"}'),
    (LazyStringMap(a="b"), '{"LazyStringMap":{"a":"b"}}'),
    # What the reference has no form for.
    (RawText(b"\xff"), '{"RawText":[255]}'),
    (math.inf, '{"Float":"Infinity"}'),
]


@pytest.mark.parametrize(("value", "text"), FORMS, ids=[text for _, text in FORMS])
def test_each_kind_has_its_form_and_is_read_from_it(value: Any, text: str) -> None:
    assert orjson.dumps(values.to_tagged_json(value), option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode() == text
    again = values.from_tagged_json(orjson.loads(text))
    assert (again, type(again)) == (value, type(value))
