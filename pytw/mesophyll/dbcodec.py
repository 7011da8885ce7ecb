"""Database operations as record bodies: ``[operation, args...]`` and their results, checked by type on both sides.

The operations are those of `types.WorkerDb`, by name; nothing else can be asked for.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from pytw.errors import ProtocolError
from pytw.types import (
    Cursor,
    GlobalEntry,
    GlobalRecord,
    KvRecord,
    ObjectInfo,
    TemplateSource,
    TenantGate,
    TenantState,
)

_encode = msgspec.msgpack.Encoder().encode
_decode_name = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Operation(NamedTuple):
    """One method of WorkerDb. ``of_tenant``: its first argument is the record's tenant and not in the body."""

    name: str
    arguments: msgspec.msgpack.Decoder[tuple[Any, ...]]
    result: msgspec.msgpack.Decoder[Any]
    of_tenant: bool
    keywords: tuple[str, ...]

    @property
    def of_objects(self) -> bool:
        """Whether the object store answers it, and not the database."""
        return self.name.startswith("object_")


def _operation(
    name: str, arguments: tuple[Any, ...], result: Any, *, of_tenant: bool = True, keywords: tuple[str, ...] = ()
) -> Operation:
    body: Any = types.GenericAlias(tuple, (str, *arguments))
    return Operation(name, msgspec.msgpack.Decoder(body), msgspec.msgpack.Decoder(result), of_tenant, keywords)


_SCOPES = list[str]

#: What a worker may ask for. ``keywords`` names the last arguments where the method takes them by name.
OPERATIONS: Final[dict[str, Operation]] = {
    operation.name: operation
    for operation in (
        _operation("gates", (int, int), list[TenantGate], of_tenant=False),
        _operation("gate", (), TenantGate),
        _operation("program", (), list[TemplateSource]),
        _operation("tenant_state", (), TenantState),
        _operation("set_tenant_state", (TenantState,), None),
        _operation("kv_get", (str, _SCOPES), KvRecord | None),
        _operation("kv_set", (str, _SCOPES, bytes, datetime | None), None),
        _operation("kv_delete", (str, _SCOPES), int),
        _operation("kv_find", (str, _SCOPES, int, str | None), list[KvRecord], keywords=("limit", "after")),
        _operation("kv_list_scopes", (), list[str]),
        _operation("claim_expired", (int, int, int), list[tuple[int, KvRecord]], of_tenant=False, keywords=("limit",)),
        _operation("finish_expired", (str, int), None),
        _operation("global_find", (str, str, int, int), list[GlobalRecord], keywords=("limit", "skip")),
        _operation("global_get", (str, str, int), GlobalRecord | None),
        _operation("global_create", (GlobalEntry,), None),
        _operation("global_delete", (str, str, int), None),
        _operation("object_list", (str, int), list[ObjectInfo], keywords=("limit",)),
        _operation("object_exists", (str,), bool),
        _operation("object_get", (str,), bytes),
        _operation("object_put", (str, bytes), None),
        _operation("object_delete", (str,), None),
        _operation("object_url", (str, int), str),
    )
}


class Ask(NamedTuple):
    """A decoded body of DB."""

    operation: Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def pack_ask(name: str, *args: Any) -> bytes:
    """The body of DB; the tenant travels in the record's header."""
    return _encode((name, *args))


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
        args = operation.arguments.decode(body)[1:]
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"the body of DB is malformed: {error}") from None
    split_at = len(args) - len(operation.keywords)
    return Ask(operation, args[:split_at], dict(zip(operation.keywords, args[split_at:], strict=True)))


def pack_result(value: Any) -> bytes:
    """The body of the RESULT."""
    return _encode(value)


def unpack_result(name: str, body: bytes) -> Any:
    """The value of a RESULT.

    Raises:
        ProtocolError: not the operation's type.
    """
    try:
        return OPERATIONS[name].result.decode(body)
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
