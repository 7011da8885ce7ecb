from __future__ import annotations

from typing import Any

import pytest

from pytw import values
from pytw.types import DispatchResult, Outcome
from pytw.worker.loopresults import split

METER = [1, 2, {"kv.get": 3}, 4]


def body(value: Any, template: str = "$builtins", outcome: int = 0) -> bytes:
    return values.pack([outcome, None, [[template, outcome, None, value, None]], METER])


def parts(value: Any) -> list[tuple[Any, ...]]:
    return [tuple(part) for part in DispatchResult(split(body(value), 4096)).templates]


def test_each_result_becomes_a_part() -> None:
    results = [{"type": "ok", "id": "$builtins", "value": {"a": [1]}}, {"id": "x", "type": "ok"}]
    assert parts(results) == [
        ("$builtins", Outcome.OK, None, {"a": [1]}, None),
        ("x", Outcome.OK, None, None, None),
    ]


def test_worst_outcome_counts_and_the_meter_stays() -> None:
    results = [{"type": "err", "id": "x", "value": "at line 3"}, {"type": "ok", "id": "y", "value": 1}]
    found = DispatchResult(split(body(results), 4096))
    assert found.outcome is Outcome.SCRIPT_ERROR
    assert list(found.meter) == METER
    assert found.templates[0].error == "at line 3"


def test_value_crosses_as_the_bytes_it_was() -> None:
    value = {"when": values.Interval(1, 5), "who": values.Buffer(b"\0\1"), "list": list(range(100))}
    (part,) = DispatchResult(split(body([{"type": "ok", "id": "x", "value": value}]), 4096)).templates
    assert part.value == value


@pytest.mark.parametrize("count", [1, 15, 16, 70_000 // 3])
def test_lists_of_every_header_are_read(count: int) -> None:
    assert len(parts([{"type": "ok", "id": "x"}] * count)) == count


@pytest.mark.parametrize(
    ("value", "text"), [("x" * 10, "xxxx"), ("\u00e9\u00e9\u00e9", "\u00e9\u00e9"), (5, "5"), (None, "None"), (values.RawText(b"a\xff"), "a\ufffd")]
)  # fmt: skip
def test_error_is_text_of_bounded_length(value: Any, text: str) -> None:
    (part,) = DispatchResult(split(body([{"type": "err", "id": "x", "value": value}]), 4)).templates
    assert part.error == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        "text",
        [1],
        ["ok"],
        [[]],
        [{}],
        [{"type": "ok"}],
        [{"type": "fine", "id": "x"}],
        [{"type": ["ok"], "id": "x"}],
        [{"type": "ok", "id": 5}],
        [{"type": "ok", "id": "x", "more": 1}],
        [{"type": "ok", "id": "x", "value": 1, "more": 1}],
        [{"type": "ok", "id": "x"}, 7],
        [{"type": "ok", "id": values.RawText(b"\xff")}],
        {"type": "ok", "id": "x"},
    ],
)
def test_what_is_no_list_of_results_stays_the_loops_own_value(value: Any) -> None:
    whole = body(value)
    assert split(whole, 4096) is whole


def test_results_of_scripts_and_failures_are_left_alone() -> None:
    results = [{"type": "ok", "id": "x"}]
    for whole in (
        body(results, template="script"),
        body(results, outcome=2),
        DispatchResult.nothing_ran(Outcome.SHED).body,
    ):
        assert split(whole, 4096) is whole
