"""Values as the reference wrote them until its migration ``khronosvalue_v2``: plain JSON, with marked objects for what JSON lacks.

A marked object is ``{"___khronosValType___": kind, "value": ...}`` (spec/http-schema-systems.md 3.3).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pytw.limits import VALUE_DEPTH_MAX
from pytw.values import I64_MAX, U64_MAX, from_tagged_json, to_tagged_json

MARK = "___khronosValType___"
TAGS = frozenset(
    [
        "Text",
        "Integer",
        "UnsignedInteger",
        "Float",
        "Boolean",
        "Buffer",
        "RawText",
        "Vector",
        "Map",
        "List",
        "Timestamptz",
        "Interval",
        "TimeZone",
        "LazyStringMap",
    ]
)
_KINDS = {
    "buffer": "Buffer",
    "vector": "Vector",
    "timestamptz": "Timestamptz",
    "interval": "Interval",
    "timezone": "TimeZone",
}


def to_tagged(value: Any, depth: int = 0) -> Any:
    """The tagged form of *value*, which is parsed JSON of the old form.

    Raises:
        ValueError: a marked object that is not one of the five kinds, or nested too deep.
    """
    if depth > VALUE_DEPTH_MAX:
        raise ValueError(f"the value is nested deeper than {VALUE_DEPTH_MAX} levels")
    match value:
        case None:
            return "Null"
        case bool():
            return {"Boolean": value}
        case int() if -I64_MAX - 1 <= value <= I64_MAX:
            return {"Integer": value}
        case int() if 0 <= value <= U64_MAX:
            return {"UnsignedInteger": value}
        case int() | float():
            return {"Float": float(value)}
        case str():
            return {"Text": value}
        case list():
            return {"List": [to_tagged(item, depth + 1) for item in value]}
        case dict() if MARK in value:
            return _special(value)
        case dict():
            return {"Map": [[{"Text": key}, to_tagged(item, depth + 1)] for key, item in value.items()]}
    raise ValueError(f"a {type(value).__name__} is not JSON")


def _special(marked: dict[str, Any]) -> Any:
    kind = marked[MARK]
    tag = _KINDS.get(kind) if isinstance(kind, str) else None
    if tag is None or marked.keys() != {MARK, "value"}:
        raise ValueError(f"not a special value: {str(kind)[:40]!r}")
    inner = marked["value"]
    match tag, inner:
        case "Buffer", str():
            try:
                inner = list(base64.b64decode(inner, validate=True))
            except (binascii.Error, ValueError):
                raise ValueError("a buffer is neither a list of bytes nor base64") from None
        case "Vector", dict() if inner.keys() == {"x", "y", "z"}:
            inner = [inner["x"], inner["y"], inner["z"]]
        case "Interval", dict() if inner.keys() == {"secs", "nanos"}:
            inner = [inner["secs"], inner["nanos"]]
    return to_tagged_json(from_tagged_json({tag: inner}))


def is_tagged(value: Any) -> bool:
    """Whether *value* is of the new form already. A map of the old form with one key may look the same."""
    try:
        from_tagged_json(value)
    except ValueError:
        return False
    return True


__all__ = ["MARK", "TAGS", "is_tagged", "to_tagged"]
