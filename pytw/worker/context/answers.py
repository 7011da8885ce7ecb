"""What answers of the host hold besides plain values: objects that are made in the VM, of bytes that Python passes on."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

#: msgpack extensions, host to script only. A `Lazy` of JSON text, a `Blob`, an `Opaque` of JSON text, and JSON made into
#: tables at once, with nulls kept; and a table of values in msgpack that scripts cannot write to.
LAZY_JSON, BLOB, OPAQUE_JSON, JSON, READ_ONLY = 8, 9, 10, 11, 12

NOTHING = b"\x90"
NIL = b"\x91\xc0"


def one(value: Any) -> bytes:
    """The answer that is one value; datetimes with a zone are times in the script."""
    return bytes(msgpack.packb([value], datetime=True))


def lazy_json(text: bytes) -> bytes:
    """The answer that is a `Lazy` of *text*, or nil where there is none. Nothing here reads it."""
    return one(msgpack.ExtType(LAZY_JSON, text)) if text else NIL


def json(value: Any) -> msgpack.ExtType:
    """A value that a script gets as JSON gives it: nulls are kept, and empty lists stay lists."""
    return msgpack.ExtType(JSON, orjson.dumps(value))


def read_only(table: bytes) -> bytes:
    """A table in msgpack, to stand anywhere in an answer, as one that scripts cannot write to. What it holds they can."""
    return bytes(msgpack.packb(msgpack.ExtType(READ_ONLY, table)))


def one_read_only(table: dict[str, Any]) -> bytes:
    """The answer that is one read-only table; datetimes with a zone are times in the script."""
    return b"\x91" + read_only(msgpack.packb(table, datetime=True))
