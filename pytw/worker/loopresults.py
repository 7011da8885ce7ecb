"""Loop mode's results: the list ``{type, id, value}`` that the loop returned becomes the parts of a `DispatchResult`.

The loop (DESIGN 6, spec luau-api 1.1) runs a tenant's templates itself, so that the engine knows of one template only,
``$builtins``. Callers and logs are told of each template all the same. What is not such a list is the loop's own value
and stays as it is; a failure of the loop itself stays an error of ``$builtins``.
"""

from __future__ import annotations

from typing import Any

import msgpack

from pytw import values
from pytw.types import BUILTINS, Outcome

_packer = msgpack.Packer()
_NIL = b"\xc0"
#: How the answer to a loop that returned begins: outcome ok, no limit, one part, its name, its outcome, its limit.
_RETURNED = b"\x94\x00\xc0\x91\x95" + _packer.pack(BUILTINS) + b"\x00\xc0"
#: First bytes of a list that is not empty.
_LISTS = frozenset((*range(0x91, 0xA0), 0xDC, 0xDD))
_FIELDS_MAX = 3


class _NotOurs(Exception):
    """The value is no list of results."""


def split(body: bytes, error_bytes_max: int) -> bytes:
    """*body* with a part for each result of the list, and the worst of their outcomes; otherwise *body* itself.

    Values stay the bytes they are: what a template returned is looked at by nobody here.

    Args:
        body: the engine's answer, see `types.DispatchResult`.
        error_bytes_max: an error's text is cut there.
    """
    start = len(_RETURNED)
    if not body.startswith(_RETURNED) or body[start] not in _LISTS:
        return body
    reader = msgpack.Unpacker(strict_map_key=False, max_buffer_size=max(len(body), 1))
    reader.feed(memoryview(body)[start:])
    try:
        count = reader.read_array_header()
        parts = [_part(reader, body, start, error_bytes_max) for _ in range(count)]
    except (_NotOurs, ValueError, msgpack.UnpackException):
        return body
    worst = Outcome.SCRIPT_ERROR if any(failed for failed, _ in parts) else Outcome.OK
    # Behind the list stand the part's error, nil, and the meter.
    rest = body[start + reader.tell() + 1 :]
    head = bytes((0x94, worst)) + _NIL + _packer.pack_array_header(count)
    return b"".join([head, *(packed for _, packed in parts), rest])


def _part(reader: Any, body: bytes, start: int, error_bytes_max: int) -> tuple[bool, bytes]:
    """Whether the next result is an error, and its part. Raises: _NotOurs, and what the reader raises."""
    size = reader.read_map_header()
    if size > _FIELDS_MAX:
        raise _NotOurs
    kind = template = None
    value = _NIL
    for _ in range(size):
        match reader.unpack():
            case "type":
                kind = reader.unpack()
            case "id":
                template = reader.unpack()
            case "value":
                begin = start + reader.tell()
                reader.skip()
                value = body[begin : start + reader.tell()]
            case _:
                raise _NotOurs
    if kind not in ("ok", "err") or not isinstance(template, str):
        raise _NotOurs
    if kind == "ok":
        return False, b"\x95" + _packer.pack(template) + b"\x00\xc0" + value + _NIL
    head = b"\x95" + _packer.pack(template) + bytes((Outcome.SCRIPT_ERROR,)) + _NIL + _NIL
    return True, head + _packer.pack(_text(value, error_bytes_max))


def _text(value: bytes, bytes_max: int) -> str:
    found = values.unpack(value)
    raw = bytes(found) if isinstance(found, values.RawText) else str(found).encode()
    return raw[:bytes_max].decode(errors="replace")


__all__ = ["split"]
