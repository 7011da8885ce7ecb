"""`HostCall`: what a script asks of the host, with its arguments still as bytes until a handler wants them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import orjson

from pytw import values
from pytw.errors import Forbidden, LimitExceeded, RequestError
from pytw.limits import TENANT_DATA_BYTES_MAX, VALUE_BYTES_MAX
from pytw.types import EVERY_CAPABILITY
from pytw.worker.context.answers import JSON

ARGUMENTS_MAX = 16
_VECTOR = struct.Struct(">3f")
PLAIN_BYTES_MAX = TENANT_DATA_BYTES_MAX


def _extension(code: int, data: bytes) -> Any:
    if code == JSON:
        return orjson.loads(data)
    if code == values.VECTOR and len(data) == _VECTOR.size:
        return list(_VECTOR.unpack(data))
    if code == values.RAW_TEXT:
        raise RequestError("a string is not UTF-8 text, and only that can be used here")
    raise RequestError("only plain values are allowed here: nil, boolean, number, string, table")


def _bytes(code: int, data: bytes) -> bytes | None:
    return data if code in (values.RAW_TEXT, values.BUFFER) else None


def plain(value: bytes, *, bytes_max: int = PLAIN_BYTES_MAX) -> Any:
    """A value as JSON knows it; a vector is a list of its three numbers.

    Raises:
        RequestError: it holds something that JSON has no form for.
        LimitExceeded: it is longer than anything that is wanted as JSON; looking at it would hold the loop.
    """
    if len(value) > bytes_max:
        raise LimitExceeded(f"the argument is longer than {bytes_max} bytes")
    try:
        found = msgpack.unpackb(value, strict_map_key=False, ext_hook=_extension)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RequestError(f"the argument cannot be read: {error}") from error
    _check_plain(found)
    return found


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise RequestError("table keys must be strings here")
            _check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner)
    elif isinstance(value, (bytes, msgpack.Timestamp)):
        raise RequestError("only plain values are allowed here: nil, boolean, number, string, table")


class HostCall:
    """One call: who makes it, with which capabilities, and its arguments as msgpack slices."""

    __slots__ = ("arguments", "caps", "name", "narrowed", "request", "template", "tenant")

    def __init__(self, tenant: int, payload: bytes) -> None:
        """Reads ``[request, template, name, narrowed, [args...]]``. Raises: RequestError."""
        self.tenant = tenant
        #: What the template holds.
        self.caps: frozenset[str] = frozenset()
        reader = msgpack.Unpacker(max_buffer_size=max(VALUE_BYTES_MAX * 2, len(payload)), strict_map_key=False)
        reader.feed(payload)
        reader.read_array_header()
        self.request: int = reader.unpack()
        self.template: str = reader.unpack()
        self.name: str = reader.unpack()
        narrowed: list[str] | None = reader.unpack()
        #: What the sub-context of `ctx:with` that makes the call holds; None: it was not narrowed.
        self.narrowed = None if narrowed is None else frozenset(narrowed)
        count = reader.read_array_header()
        if count > ARGUMENTS_MAX:
            raise RequestError("too many arguments")
        self.arguments: list[bytes] = []
        start = reader.tell()
        for _ in range(count):
            reader.skip()
            end = reader.tell()
            self.arguments.append(payload[start:end])
            start = end

    def raw(self, index: int) -> bytes:
        """One argument as msgpack; nil if it is missing."""
        return self.arguments[index] if index < len(self.arguments) else b"\xc0"

    def plain(self, index: int) -> Any:
        return plain(self.raw(index))

    def content(self, index: int, what: str) -> bytes:
        """The bytes of a string or a buffer."""
        value = self.raw(index)
        try:
            found = msgpack.unpackb(value, strict_map_key=False, ext_hook=_bytes)
        except (ValueError, TypeError, msgpack.UnpackException):
            found = None
        if isinstance(found, str):
            return found.encode()
        if not isinstance(found, bytes):
            raise RequestError(f"{what} must be a string, a buffer or a Blob")
        return found

    def seconds(self, index: int, what: str) -> float:
        """The length of a TimeDelta."""
        try:
            found = values.unpack(self.raw(index))
        except ValueError:
            found = None
        if not isinstance(found, values.Interval):
            raise RequestError(f"{what} must be a TimeDelta")
        return found.seconds + found.nanos / 1e9

    def text(self, index: int, what: str) -> str:
        value = self.plain(index)
        if not isinstance(value, str):
            raise RequestError(f"{what} must be a string")
        return value

    def texts(self, index: int, what: str) -> list[str]:
        value = self.plain(index)
        if value is None or value == {}:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RequestError(f"{what} must be an array of strings")
        return value

    def table(self, index: int, what: str) -> dict[str, Any]:
        value = self.plain(index)
        if value == []:
            return {}
        if not isinstance(value, dict):
            raise RequestError(f"{what} must be a table")
        return value

    @property
    def may_do_all(self) -> bool:
        """Whether it is refused nothing."""
        return EVERY_CAPABILITY in self.caps and (self.narrowed is None or EVERY_CAPABILITY in self.narrowed)

    def require_any(self, capabilities: Sequence[str], refusal: str) -> None:
        """The template must hold one of *capabilities*, and the sub-context too if there is one. Raises: Forbidden."""
        if not _holds(self.caps, capabilities) or (
            self.narrowed is not None and not _holds(self.narrowed, capabilities)
        ):
            raise Forbidden(refusal)


def _holds(held: frozenset[str], capabilities: Sequence[str]) -> bool:
    """Whether one of *capabilities* is held as it stands, or every one is."""
    return EVERY_CAPABILITY in held or not held.isdisjoint(capabilities)


__all__ = ["HostCall", "plain"]
