"""Database operations as record bodies: ``[operation, args...]`` and their results, checked by type on both sides.

The operations are those of `workerdb.WorkerDb`, by name; nothing else can be asked for.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from pytw.errors import ProtocolError, RequestError
from pytw.types import Cursor
from pytw.workerdb import OPERATIONS, Operation

_encode = msgspec.msgpack.Encoder().encode
_decode_name = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


_arguments = {
    name: msgspec.msgpack.Decoder(types.GenericAlias(tuple, (str, *operation.parameters.values())))
    for name, operation in OPERATIONS.items()
}
_results: dict[str, msgspec.msgpack.Decoder[Any]] = {
    name: msgspec.msgpack.Decoder(operation.result) for name, operation in OPERATIONS.items()
}


class Ask(NamedTuple):
    """A decoded body of DB."""

    operation: Operation
    args: tuple[Any, ...]


def pack_ask(name: str, *args: Any) -> bytes:
    """The body of DB; the tenant travels in the record's header.

    Raises: RequestError: an argument that no database would take.
    """
    try:
        return _encode((name, *args))
    except OverflowError:
        raise RequestError(
            f"{name}: a moment is before the year 1 or after 9999, or a number has more than 64 bits"
        ) from None


def unpack_ask(body: bytes) -> Ask:
    """What a body of DB asks for.

    Raises:
        ProtocolError: no operation of ours, or arguments of other types.
    """
    try:
        parts = _decode_name(body)
        name = msgspec.msgpack.decode(parts[0], type=str) if parts else ""
        operation = OPERATIONS.get(name)
        if operation is None:
            raise ProtocolError("DB asks for an operation that does not exist")
        args = _arguments[name].decode(body)[1:]
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"the body of DB is malformed: {error}") from None
    return Ask(operation, args)


def pack_result(value: Any) -> bytes:
    """The body of the RESULT."""
    return _encode(value)


def unpack_result(name: str, body: bytes) -> Any:
    """The value of a RESULT.

    Raises:
        ProtocolError: not the operation's type.
    """
    try:
        return _results[name].decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"the result of {name} is malformed: {error}") from None


#: ``shards, shard, session_id | nil, resume_url, sequence, [done_above]``; nil forgets the cursor.
CursorRow = tuple[int, int, str | None, str, int, list[int]]
_decode_cursors = msgspec.msgpack.Decoder(list[CursorRow]).decode


def pack_cursors(cursors: Sequence[tuple[int, int, Cursor | None]]) -> bytes:
    """The body of CURSOR, and of the RESULT of a load: ``(shards, shard, cursor)`` each."""
    return _encode(
        [
            (shards, shard, c.session_id, c.resume_url, c.sequence, c.done_above)
            if c
            else (shards, shard, None, "", 0, [])
            for shards, shard, c in cursors
        ]
    )


def unpack_cursors(body: bytes) -> list[tuple[int, int, Cursor | None]]:
    """Raises: ProtocolError."""
    try:
        rows = _decode_cursors(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"the body of CURSOR is malformed: {error}") from None
    return [
        (shards, shard, None if session is None else Cursor(session, url, sequence, done))
        for shards, shard, session, url, sequence, done in rows
    ]
