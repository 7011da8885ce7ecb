"""``ctx.KV``: the tenant's key-value store. Source: reference `KvExecutor` (spec luau-api 4.1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgpack

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import KV_FIND_ROWS_MAX, KV_KEY_BYTES_MAX, KV_SCOPES_MAX, KV_VALUE_BYTES_MAX
from pytw.types import KvRecord
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.workerdb import WorkerDb

_TRUE = b"\xc3"
_LIST_OF_1 = b"\x91"
_LIST_OF_2 = b"\x92"
_NOTHING = b"\x90"
_NIL_FALSE = b"\x92\xc0\xc2"
_FIELDS = ("id", "key", "value", "scopes", "exists", "created_at", "last_updated_at")


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, datetime=True))


_MISSING = _LIST_OF_1 + answers.read_only(
    _pack(
        {
            "id": "",
            "key": "",
            "value": None,
            "scopes": [],
            "exists": False,
            "created_at": None,
            "last_updated_at": None,
        }
    )
)


def _record(record: KvRecord) -> bytes:
    """The record, which is read-only; its value stays the bytes it was stored as."""
    values = {
        "id": _pack(record.id),
        "key": _pack(record.key),
        "value": record.value,
        "scopes": _pack(record.scopes),
        "exists": _TRUE,
        "created_at": _time(record.created_at),
        "last_updated_at": _time(record.last_updated_at),
    }
    table = bytes([0x80 | len(_FIELDS)]) + b"".join(_pack(name) + values[name] for name in _FIELDS)
    return answers.read_only(table)


def _time(at: datetime) -> bytes:
    return _pack(at if at.tzinfo is not None else at.astimezone())


def _place(call: HostCall, action: str) -> tuple[str, list[str]]:
    """Key (for a search: its pattern) and sorted scopes."""
    key = call.text(0, "key" if action != "find" else "query")
    return key, sorted(set(call.texts(2 if action == "set" else 1, "scopes")))


def _need(call: HostCall, action: str) -> Need:
    key, scopes = _place(call, action)
    wanted = ["kv:*", f"kv:{action}:*", f"kv:{action}:{key}"]
    for scope in scopes:
        wanted += [f"kv[{scope}]:*", f"kv[{scope}]:{action}", f"kv[{scope}]:{action}:{key}"]
    return Need(wanted, f"KV operation `{action}` not allowed in this template context for key '{key}'")


def _checked(call: HostCall, action: str) -> tuple[str, list[str]]:
    """Key and sorted scopes within their bounds."""
    key, scopes = _place(call, action)
    if not scopes:
        raise RequestError(
            "Setting keys without a scope is not allowed" if action == "set" else "Unscoped operations are not allowed"
        )
    if len(scopes) > KV_SCOPES_MAX:
        raise RequestError(f"Scopes length may be at most {KV_SCOPES_MAX} long ({len(scopes)} given)")
    if (size := len(key.encode())) > KV_KEY_BYTES_MAX:
        what = "Query" if action == "find" else "Key"
        raise LimitExceeded(f"{what} length too long ({size:,} bytes, at most {KV_KEY_BYTES_MAX})")
    return key, scopes


class Kv:
    """``kv.*``."""

    def __init__(self, db: WorkerDb) -> None:
        self._db = db

    def operations(self) -> dict[str, Operation]:
        return {
            "kv.get": _operation("get", self.get),
            "kv.getrecord": _operation("get", self.getrecord),
            "kv.set": _operation("set", self.set),
            "kv.delete": _operation("delete", self.delete),
            "kv.find": _operation("find", self.find),
            # Not counted: as in the reference (spec luau-api 4.1).
            "kv.list_scopes": Operation(handler=self.list_scopes, need=_need_of_scopes),
        }

    async def get(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "get")
        record = await self._db.kv_get(call.tenant, key, scopes)
        return _NIL_FALSE if record is None else _LIST_OF_2 + record.value + _TRUE

    async def getrecord(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "get")
        record = await self._db.kv_get(call.tenant, key, scopes)
        return _MISSING if record is None else _LIST_OF_1 + _record(record)

    async def set(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "set")
        value = call.raw(1)
        if len(value) > KV_VALUE_BYTES_MAX:
            raise LimitExceeded(f"Value length too long ({len(value):,} bytes, at most {KV_VALUE_BYTES_MAX:,})")
        await self._db.kv_set(call.tenant, key, scopes, value)
        return _NOTHING

    async def delete(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "delete")
        await self._db.kv_delete(call.tenant, key, scopes)
        return _NOTHING

    async def find(self, call: HostCall) -> bytes:
        pattern, scopes = _checked(call, "find")
        records = await self._db.kv_find(call.tenant, pattern, scopes, limit=KV_FIND_ROWS_MAX)
        # The call has no pages, and a script that took a part for the whole would be wrong without a word.
        if len(records) >= KV_FIND_ROWS_MAX and await self._db.kv_find(
            call.tenant, pattern, scopes, limit=1, after=records[-1].cursor
        ):
            raise LimitExceeded(
                f"more than {KV_FIND_ROWS_MAX:,} keys match {pattern!r}: use a narrower query or scopes"
            )
        header = msgpack.Packer().pack_array_header(len(records))
        return _LIST_OF_1 + bytes(header) + b"".join(map(_record, records))

    async def list_scopes(self, call: HostCall) -> bytes:
        return _LIST_OF_1 + _pack(await self._db.kv_list_scopes(call.tenant))


def _need_of_scopes(_call: HostCall) -> Need:
    return Need(["kv.meta:list_scopes"], "KV operation `list_scopes` not allowed in this template context")


def _operation(action: str, handler: Handler) -> Operation:
    return Operation(handler=handler, need=lambda call: _need(call, action), bucket=Bucket("kv", action))
