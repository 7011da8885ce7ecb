"""The merge of a tenant's state: what each writer changed is there, whoever wrote in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytw.storage.statemerge import merge, same
from pytw.types import TenantState


def merged(base: Any, wanted: Any, now: Any) -> Any:
    def state(data: Any) -> TenantState:
        return TenantState(frozenset(), data)

    return merge(state(base), state(wanted), state(now)).data


@pytest.mark.parametrize(
    ("base", "wanted", "now", "result"),
    [
        pytest.param({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="both add"),
        pytest.param({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, id="what was not touched stays the other's"),
        pytest.param({"a": 1}, {"a": 1.0}, {"a": 2}, {"a": 2}, id="a whole float was not touched"),
        pytest.param({"a": 1}, {"a": True}, {"a": 2}, {"a": True}, id="true is not 1"),
        pytest.param({"a": 1}, {"a": 3}, {"a": 2}, {"a": 3}, id="the later writer of a leaf wins"),
        pytest.param({"a": 1}, {}, {"a": 1, "b": 1}, {"b": 1}, id="removal"),
        pytest.param({"a": 1}, {}, {"a": 2}, {}, id="removal is a later writer"),
        pytest.param({"a": 1}, {"a": 2}, {}, {"a": 2}, id="a write after a removal"),
        pytest.param({"a": 1}, {"a": 1, "b": 1}, {}, {"b": 1}, id="a removal stays"),
        pytest.param({"o": {"x": 1}}, {"o": {"x": 1, "y": 2}}, {"o": {"x": 1, "z": 3}}, {"o": {"x": 1, "y": 2, "z": 3}}, id="in objects"),
        pytest.param({}, {"o": {"y": 2}}, {"o": {"z": 3}}, {"o": {"y": 2, "z": 3}}, id="an object that both make"),
        pytest.param({"o": {"x": 1}}, {}, {"o": {"x": 1, "z": 3}}, {"o": {"z": 3}}, id="removed while the other adds"),
        pytest.param({"o": {"x": 1}}, {"o": {"x": 1, "y": 2}}, {}, {"o": {"y": 2}}, id="added while the other removes"),
        pytest.param({"o": {"x": 1}}, {}, {"o": {"x": 1}}, {}, id="an object that goes leaves nothing"),
        pytest.param({"o": {"x": 1}}, {"o": []}, {"o": {"x": 1, "z": 3}}, {"o": {"z": 3}}, id="emptied in Luau"),
        pytest.param({"o": []}, {"o": {}}, {"o": [1]}, {"o": [1]}, id="an empty list comes back as an object"),
        pytest.param({"o": {"x": 1}}, {}, {"o": 5}, {}, id="removed while the other makes it a leaf"),
        pytest.param({"o": {"x": 1}}, {"o": 4}, {"o": {"x": 2}}, {"o": 4}, id="a leaf in place of an object"),
        pytest.param({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 2]}, id="lists are leaves"),
        pytest.param({"a": None}, {"a": None}, {}, {}, id="null is a value"),
        pytest.param({"a": 1}, {"a": None}, {"a": 1, "b": 2}, {"a": None, "b": 2}, id="null is written"),
    ],
)  # fmt: skip
def test_data(base: Any, wanted: Any, now: Any, result: Any) -> None:
    assert merged(base, wanted, now) == result


def test_events_are_a_set() -> None:
    def state(*events: str) -> TenantState:
        return TenantState(frozenset(events), {})

    assert merge(state("A", "B"), state("B", "C"), state("A", "B", "D")).events == {"B", "C", "D"}


def test_ban_and_revision_are_not_a_writers() -> None:
    found = merge(
        TenantState(frozenset(), {}), TenantState(frozenset(), {}, False, 1), TenantState(frozenset(), {}, True, 7)
    )
    assert (found.banned, found.revision) == (True, 7)


_LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["x", "y"])
_KEYS = st.sampled_from("abc")
_DATA = st.dictionaries(
    _KEYS, st.recursive(_LEAVES, lambda inner: st.dictionaries(_KEYS, inner, min_size=1, max_size=3), max_leaves=6)
)


@settings(max_examples=200, deadline=None)
@given(base=_DATA, wanted=_DATA)
def test_alone_the_writer_gets_what_it_wants(base: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert same(merged(base, wanted, base), wanted)
    assert same(merged(base, base, wanted), wanted)


def _leaves(data: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(data, dict):
        return {path: data}
    return {at: value for key, inner in data.items() for at, value in _leaves(inner, (*path, key)).items()}


@settings(max_examples=200, deadline=None)
@given(base=_DATA, one=_DATA, other=_DATA)
def test_what_either_adds_where_the_other_did_nothing_is_there(base: Any, one: Any, other: Any) -> None:
    result = _leaves(merged(base, one, other))
    known = _leaves(base)
    for mine, theirs in ((_leaves(one), _leaves(other)), (_leaves(other), _leaves(one))):
        for path, value in mine.items():
            near = {at for at in (*theirs, *known) if at[: len(path)] == path[: len(at)]}
            if not near:
                assert same(result[path], value)
