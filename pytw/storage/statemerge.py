"""Three-way merge of a tenant's state: what one writer changed, laid over what others wrote since that writer read.

Events are a set: what was added is added, what was removed is removed. Data is merged key by key, objects in objects; where
both sides changed the same value, the later writer's stands. An object that one side removed while the other wrote below it
keeps what the other wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pytw.types import TenantState


class _Missing:
    """In place of a value that is not there."""


_MISSING: Final = _Missing()


def merge(base: TenantState, wanted: TenantState, now: TenantState) -> TenantState:
    """*now*, changed in what *wanted* changed of *base*. Ban and revision stay those of *now*."""
    events = (now.events | (wanted.events - base.events)) - (base.events - wanted.events)
    data = _objects(base.data, wanted.data, now.data)
    return TenantState(events, data, now.banned, now.revision)


def _objects(base: Mapping[str, Any], wanted: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    # In the order in which they stand now; what is new comes behind.
    for key in [*now, *(key for key in wanted if key not in now)]:
        value = _value(base.get(key, _MISSING), wanted.get(key, _MISSING), now.get(key, _MISSING))
        if value is not _MISSING:
            found[key] = value
    return found


def _value(base: Any, wanted: Any, now: Any) -> Any:
    if same(base, wanted):
        return now
    inner, gone = {}, False
    asked, stands = wanted, now
    if isinstance(base, dict):
        inner, gone = base, wanted is _MISSING or now is _MISSING
        asked, stands = _as_object(wanted), _as_object(now)
    if not isinstance(asked, dict) or not isinstance(stands, dict):
        return wanted
    merged = _objects(inner, asked, stands)
    return merged if merged or not gone else _MISSING


def _as_object(value: Any) -> Any:
    """Luau does not tell an empty list from an empty object; and what is gone holds nothing."""
    return {} if value is _MISSING or value == [] else value


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are one to a script: 1 is 1.0 but not true, and an empty list is an empty object."""
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(key in other and same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (dict, list)) and isinstance(other, (dict, list)):
        return not one and not other
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


__all__ = ["merge", "same"]
