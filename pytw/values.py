"""KhronosValue, the one type of everything that scripts store, return and receive, and its two forms.

* msgpack (`pack`, `unpack`): between engine, host calls, workers and master.
* tagged JSON (`to_tagged_json`, `from_tagged_json`): the HTTP API and the column ``tenant_kv.value``.

What Python has no type for is a small class of this module. Nothing changes silently: what a form cannot hold is a `ValueError`.

========================  ==============================  =======================
Python                    msgpack                         tagged JSON
========================  ==============================  =======================
``None``                  nil                             ``"Null"``
``bool``                  bool                            ``{"Boolean": b}``
``int``                   int                             ``{"Integer": n}``; past 2^63-1 ``{"UnsignedInteger": n}``
`UnsignedInteger`         ext 7, u64                      ``{"UnsignedInteger": n}``
``float``                 float64                         ``{"Float": x}``; inf and nan as ``"Infinity"``, ``"-Infinity"``, ``"NaN"``
``str``                   str                             ``{"Text": s}``
`RawText`                 ext 1                           ``{"RawText": [bytes]}``
`Buffer`                  ext 2 (``bytes``: bin)          ``{"Buffer": [bytes]}``
`Vector`                  ext 3, 3 x f32                  ``{"Vector": [x, y, z]}``
`Interval`                ext 4, i64 s, u32 ns            ``{"Interval": [s, ns]}``
`TimeZone`                ext 5                           ``{"TimeZone": name}``
`LazyStringMap`           ext 6, a map                    ``{"LazyStringMap": {...}}``
``datetime``              ext -1                          ``{"Timestamptz": rfc3339}``
``msgpack.Timestamp``     ext -1, with nanoseconds        the same, nine digits
``list``, ``tuple``       array                           ``{"List": [...]}``
``dict``, `Map`           map                             ``{"Map": [[k, v], ...]}``
========================  ==============================  =======================

All numbers are big-endian. A map comes back as a ``dict`` where all its keys are text, else as a `Map`, since Python takes
``1``, ``1.0`` and ``True`` for one key.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgpack

from pytw.limits import VALUE_BYTES_MAX, VALUE_DEPTH_MAX, VALUE_NODES_MAX

RAW_TEXT, BUFFER, VECTOR, INTERVAL, TIME_ZONE, LAZY_STRING_MAP, BOXED = 1, 2, 3, 4, 5, 6, 7
I64_MAX, U64_MAX = (1 << 63) - 1, (1 << 64) - 1


class RawText(bytes):
    """A Luau string that is not UTF-8."""


class Buffer(bytes):
    """A Luau buffer."""


class UnsignedInteger(int):
    """An integer that is unsigned by type, whatever its size."""


class TimeZone(str):
    """An IANA name."""


class LazyStringMap(dict[str, str]):
    """Text by text, such as the files of a template."""


class Vector(NamedTuple):
    x: float
    y: float
    z: float


class Interval(NamedTuple):
    """A span of time, at most 2^63-1 ms; ``nanos`` counts up from ``seconds``, rounded down: -1.5 s is (-2, 500,000,000)."""

    seconds: int
    nanos: int


class Map:
    """A map whose keys are not all text: pairs, in order."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self.pairs = list(pairs)

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Map) and self.pairs == other.pairs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Map({self.pairs!r})"


class _Budget:
    """Parts that a value may still have."""

    __slots__ = ("nodes",)

    def __init__(self) -> None:
        self.nodes = VALUE_NODES_MAX

    def spend(self, depth: int) -> None:
        self.nodes -= 1
        if self.nodes < 0:
            raise ValueError(f"the value has more than {VALUE_NODES_MAX} parts")
        if depth > VALUE_DEPTH_MAX:
            raise ValueError(f"the value is nested deeper than {VALUE_DEPTH_MAX} levels, or contains itself")


# ---- msgpack ---------------------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    """The msgpack form of *value*.

    Raises:
        ValueError: a type without a counterpart, too deep, or too large.
    """
    try:
        packed: bytes = msgpack.packb(value, strict_types=True, default=_to_ext)
    except _NeedsPairs:
        packer = msgpack.Packer(strict_types=True, autoreset=False)
        _pack(packer, value, 0, _Budget())
        packed = packer.bytes()
    except OverflowError:
        raise ValueError("an integer does not fit in 64 bits") from None
    if len(packed) > VALUE_BYTES_MAX:
        raise ValueError(f"the value is larger than {VALUE_BYTES_MAX} bytes")
    return packed


class _NeedsPairs(Exception):
    """The compiled packer cannot write a `Map`: the value is packed step by step."""


def _to_ext(value: Any) -> Any:
    match value:
        case Map():
            raise _NeedsPairs
        case LazyStringMap():
            return msgpack.ExtType(LAZY_STRING_MAP, msgpack.packb(dict(value)))
        case UnsignedInteger():
            return msgpack.ExtType(BOXED, int(value).to_bytes(8, "big"))
        case TimeZone():
            return msgpack.ExtType(TIME_ZONE, value.encode())
        case RawText():
            return msgpack.ExtType(RAW_TEXT, bytes(value))
        case bytes() | bytearray() | memoryview():
            return msgpack.ExtType(BUFFER, bytes(value))
        case Vector():
            return msgpack.ExtType(VECTOR, struct.pack(">3f", *value))
        case Interval():
            return msgpack.ExtType(INTERVAL, struct.pack(">qI", *_in_range(value)))
        case timedelta():
            return _to_ext(_interval(value))
        case datetime():
            return _timestamp(value)
    # A subclass of a plain type, such as an enum's member or a struct's tuple, is what it is made of.
    plain: tuple[tuple[type, Any], ...] = (
        (int, int),
        (float, float),
        (str, str),
        (dict, dict),
        (list, list),
        (tuple, list),
    )
    for kind, made in plain:
        if isinstance(value, kind):
            return made(value)
    raise ValueError(f"a {type(value).__name__} is no KhronosValue")


def pack_list(values: Iterable[Any]) -> bytes:
    """The results of a host call, as `Engine.answer` takes them."""
    return pack(list(values))


def _pack(packer: Any, value: Any, depth: int, budget: _Budget) -> None:
    budget.spend(depth)
    match value:
        case LazyStringMap():
            packer.pack(_to_ext(value))
        case Vector() | Interval():
            packer.pack(_to_ext(value))
        case list() | tuple():
            packer.pack_array_header(len(value))
            for item in value:
                _pack(packer, item, depth + 1, budget)
        case dict() | Map():
            packer.pack_map_header(len(value))
            for key, item in value.items():
                _pack(packer, key, depth + 1, budget)
                _pack(packer, item, depth + 1, budget)
        case None | bool() | msgpack.Timestamp():
            packer.pack(value)
        case _ if type(value) in (int, float, str):
            packer.pack(value)
        case _:
            packer.pack(_to_ext(value))


def unpack(packed: bytes) -> Any:
    """The value whose msgpack form *packed* is.

    Raises:
        ValueError: not one well-formed value.
    """
    hooks: dict[str, Any] = {"object_pairs_hook": _from_pairs}
    if any(mark in packed for mark in _TIMESTAMPS):
        hooks = {"object_pairs_hook": _from_pairs_with_times, "list_hook": _with_times}
    try:
        found = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=False,
            ext_hook=_from_ext,
            timestamp=0,
            **hooks,
        )
    except (msgpack.UnpackException, msgpack.ExtraData, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"not a value: {error}") from error
    return _from_timestamp(found) if isinstance(found, msgpack.Timestamp) else found


# How the three sizes of timestamp begin.
_TIMESTAMPS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


def _with_times(items: list[Any]) -> list[Any]:
    return [_from_timestamp(item) if isinstance(item, msgpack.Timestamp) else item for item in items]


def _from_pairs(pairs: list[tuple[Any, Any]]) -> dict[str, Any] | Map:
    for key, _ in pairs:
        if type(key) is not str:
            return Map(pairs)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a map has a key twice")
    return found


def _from_pairs_with_times(pairs: list[tuple[Any, Any]]) -> dict[str, Any] | Map:
    keys, values = _with_times([key for key, _ in pairs]), _with_times([value for _, value in pairs])
    return _from_pairs(list(zip(keys, values, strict=True)))


def _from_ext(kind: int, data: bytes) -> Any:
    match kind:
        case 1:
            return RawText(data)
        case 2:
            return Buffer(data)
        case 3:
            return Vector(*struct.unpack(">3f", data))
        case 4:
            return _in_range(Interval(*struct.unpack(">qI", data)))
        case 5:
            return TimeZone(data.decode())
        case 6:
            return LazyStringMap(msgpack.unpackb(data))
        case 7:
            return UnsignedInteger(struct.unpack(">Q", data)[0])
    raise ValueError(f"the extension {kind} is not known")


# ---- time ------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a script's TimeDelta holds: 64 bits of milliseconds, and fractions between them.
INTERVAL_NS_MAX = I64_MAX * 1_000_000


def _in_range(span: Interval) -> Interval:
    if not 0 <= span.nanos < 10**9 or abs(span.seconds * 10**9 + span.nanos) > INTERVAL_NS_MAX:
        raise ValueError("an interval is out of range")
    return span


def _interval(span: timedelta) -> Interval:
    return Interval(span.days * 86_400 + span.seconds, span.microseconds * 1_000)


def _timestamp(when: datetime) -> msgpack.Timestamp:
    if when.tzinfo is None:
        raise ValueError("a time has no zone")
    span = when - _EPOCH
    return msgpack.Timestamp(span.days * 86_400 + span.seconds, span.microseconds * 1_000)


def _from_timestamp(when: msgpack.Timestamp) -> datetime | msgpack.Timestamp:
    """A datetime, unless that would lose nanoseconds or is out of its range."""
    if when.nanoseconds % 1_000:
        return when
    try:
        return _EPOCH + timedelta(seconds=when.seconds, microseconds=when.nanoseconds // 1_000)
    except OverflowError:
        return when


def rfc3339(when: msgpack.Timestamp) -> str:
    """The text of *when*, in UTC, with 0, 3, 6 or 9 digits after the second.

    Raises:
        ValueError: outside the years 1 to 9999.
    """
    try:
        second = (_EPOCH + timedelta(seconds=when.seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    except OverflowError:
        raise ValueError("a time is outside the years 1 to 9999") from None
    nanos = when.nanoseconds
    digits = 0 if not nanos else 3 if nanos % 1_000_000 == 0 else 6 if nanos % 1_000 == 0 else 9
    return f"{second}{f'.{nanos:09}'[: digits + 1] if digits else ''}Z"


def _from_rfc3339(text: str) -> datetime | msgpack.Timestamp:
    head, dot, tail = text.partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    nanos = int(tail[:digits].ljust(9, "0")) if dot and 0 < digits <= 9 else 0
    when = datetime.fromisoformat(head + (tail[digits:] if dot else ""))
    stamp = _timestamp(when)
    return _from_timestamp(msgpack.Timestamp(stamp.seconds, nanos))


# ---- tagged JSON -----------------------------------------------------------------------------------


def to_tagged_json(value: Any) -> Any:
    """The tagged form of *value*, as plain lists, dicts and scalars that any JSON library writes.

    Raises:
        ValueError: a type without a counterpart, too deep, or too many parts.
    """
    return _to_tagged(value, 0, _Budget())


def _to_tagged(value: Any, depth: int, budget: _Budget) -> Any:
    budget.spend(depth)
    match value:
        case None:
            return "Null"
        case bool():
            return {"Boolean": value}
        case UnsignedInteger():
            return {"UnsignedInteger": int(value)}
        case int():
            if not -I64_MAX - 1 <= value <= U64_MAX:
                raise ValueError("an integer does not fit in 64 bits")
            return {"Integer" if value <= I64_MAX else "UnsignedInteger": int(value)}
        case float():
            return {"Float": value if math.isfinite(value) else _NOT_FINITE[str(value)]}
        case TimeZone():
            return {"TimeZone": str(value)}
        case str():
            return {"Text": str(value)}
        case RawText():
            return {"RawText": list(value)}
        case bytes() | bytearray() | memoryview():
            return {"Buffer": list(bytes(value))}
        case Vector():
            return {"Vector": [_to_tagged(x, depth, budget)["Float"] for x in map(float, value)]}
        case Interval():
            return {"Interval": list(_in_range(value))}
        case timedelta():
            return {"Interval": list(_interval(value))}
        case LazyStringMap():
            return {"LazyStringMap": dict(value)}
        case list() | tuple():
            return {"List": [_to_tagged(item, depth + 1, budget) for item in value]}
        case dict() | Map():
            return {
                "Map": [[_to_tagged(k, depth + 1, budget), _to_tagged(v, depth + 1, budget)] for k, v in value.items()]
            }
        case datetime():
            return {"Timestamptz": rfc3339(_timestamp(value))}
        case msgpack.Timestamp():
            return {"Timestamptz": rfc3339(value)}
        case _:
            raise ValueError(f"a {type(value).__name__} is no KhronosValue")


_NOT_FINITE = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def from_tagged_json(tagged: Any) -> Any:
    """The value whose tagged form *tagged* is.

    Raises:
        ValueError: not that form; says where it differs.
    """
    try:
        return _from_tagged(tagged, 0, _Budget())
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a tagged value: {error}") from error


def _expect(kind: type | tuple[type, ...], value: Any, tag: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{tag} holds a {type(value).__name__}")
    return value


def _integer(value: Any, low: int, high: int, tag: str) -> int:
    if not low <= _expect(int, value, tag) <= high:
        raise ValueError(f"{tag} holds a number out of its range")
    return int(value)


def _float(value: Any, tag: str) -> float:
    # ``null`` is what the reference wrote for numbers that are not finite: it is read, never written.
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _NOT_FINITE.values():
        return float(value)
    return float(_expect((int, float), value, tag))


def _from_tagged(tagged: Any, depth: int, budget: _Budget) -> Any:
    budget.spend(depth)
    if tagged == "Null":
        return None
    if not isinstance(tagged, dict) or len(tagged) != 1:
        raise ValueError('a tagged value is "Null" or an object with one key')
    ((tag, inner),) = tagged.items()
    match tag:
        case "Text":
            return _expect(str, inner, tag)
        case "Boolean":
            return _expect(bool, inner, tag)
        case "Integer":
            return _integer(inner, -I64_MAX - 1, I64_MAX, tag)
        case "UnsignedInteger":
            return UnsignedInteger(_integer(inner, 0, U64_MAX, tag))
        case "Float":
            return _float(inner, tag)
        case "Buffer":
            return Buffer(_expect(list, inner, tag))
        case "RawText":
            return RawText(_expect(list, inner, tag))
        case "Vector":
            x, y, z = (_float(n, tag) for n in _expect(list, inner, tag))
            return Vector(x, y, z)
        case "Interval":
            seconds, nanos = _expect(list, inner, tag)
            return _in_range(Interval(_integer(seconds, -I64_MAX, I64_MAX, tag), _integer(nanos, 0, 999_999_999, tag)))
        case "TimeZone":
            return TimeZone(_expect(str, inner, tag))
        case "LazyStringMap":
            return LazyStringMap({_expect(str, k, tag): _expect(str, v, tag) for k, v in inner.items()})
        case "Timestamptz":
            return _from_rfc3339(_expect(str, inner, tag))
        case "List":
            return [_from_tagged(item, depth + 1, budget) for item in _expect(list, inner, tag)]
        case "Map":
            pairs = [
                (_from_tagged(k, depth + 1, budget), _from_tagged(v, depth + 1, budget))
                for k, v in _expect(list, inner, tag)
            ]
            return _from_pairs(pairs)
    raise ValueError(f"the tag {tag!r} is not known")
