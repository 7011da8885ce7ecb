"""``ctx.KV``: the tenant's key-value store. Source: reference `KvExecutor` (spec luau-api 4.1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgpack

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import KV_FIND_ROWS_MAX, KV_KEY_BYTES_MAX, KV_SCOPES_MAX, KV_VALUE_BYTES_MAX
from pytw.types import LOOP_PAUSED_SCOPE, LOOP_SCOPE, KvRecord, KvWritten
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.kvoptions import moment, page_options, set_options
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.workerdb import WorkerDb

_NIL = b"\xc0"
_TRUE = b"\xc3"
_LIST_OF_1 = b"\x91"
_LIST_OF_2 = b"\x92"
_NOTHING = b"\x90"
_NIL_FALSE = b"\x92\xc0\xc2"
_FIELDS = (
    "id",
    "key",
    "value",
    "scopes",
    "exists",
    "created_at",
    "last_updated_at",
    "version",
    "expires_at",
    "resume",
)


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
            "version": None,
            "expires_at": None,
            "resume": None,
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
        "version": _pack(record.version),
        "expires_at": _NIL if record.expires_at is None else _time(record.expires_at),
        "resume": _pack(record.resume),
    }
    table = bytes([0x80 | len(_FIELDS)]) + b"".join(_pack(name) + values[name] for name in _FIELDS)
    return answers.read_only(table)


def _time(at: datetime) -> bytes:
    return _pack(at if at.tzinfo is not None else at.astimezone())


_WRITES = frozenset({"set", "delete"})
_TEMPLATE_SCOPES = frozenset({LOOP_SCOPE, LOOP_PAUSED_SCOPE})
#: Where a call has its scopes; elsewhere they are the second argument.
_SCOPES_AT = {"kv.set": 2, "kv.keys": 0}


def _scopes(call: HostCall) -> list[str]:
    """Sorted, each once."""
    at = _SCOPES_AT.get(call.name, 1)
    if call.name == "kv.set_expiry":
        # Time and scopes come in either order: `set` has the scopes last, older templates had the time there.
        at = 1 if _is_list(call.raw(1)) else 2
    return sorted(set(call.texts(at, "scopes")))


def _is_list(value: bytes) -> bool:
    return value[0] & 0xF0 == 0x90 or value[0] in (0xDC, 0xDD)


def _place(call: HostCall, action: str) -> tuple[str, list[str]]:
    """Key (for a search: its pattern) and scopes."""
    return call.text(0, "key" if action != "find" else "query"), _scopes(call)


def _capabilities(action: str, key: str, scopes: list[str]) -> list[str]:
    """Any of them allows *action* on this key with these scopes; the first two allow it on any.

    A record of the scopes where a loop keeps templates is a template, whatever scopes it has besides: who may write in one
    of those must not thereby hand out capabilities.
    """
    wanted = ["kv:*", f"kv:{action}:*", f"kv:{action}:{key}"]
    of_templates = [scope for scope in scopes if scope in _TEMPLATE_SCOPES] if action in _WRITES else []
    for scope in of_templates or scopes:
        wanted += [f"kv[{scope}]:*", f"kv[{scope}]:{action}", f"kv[{scope}]:{action}:{key}"]
    return wanted


def _need(call: HostCall, action: str) -> Need:
    key, scopes = _place(call, action)
    refusal = f"KV operation `{action}` not allowed in this template context for key '{key}'"
    return Need(_capabilities(action, key, scopes), refusal)


def _need_of_keys(call: HostCall) -> Need:
    scopes = _scopes(call)
    wanted = [*_capabilities("find", "%%", scopes), "kv.meta:keys", *(f"kv.meta[{scope}]:keys" for scope in scopes)]
    return Need(wanted, "KV operation `keys` not allowed in this template context")


def _checked_scopes(scopes: list[str], action: str) -> list[str]:
    if not scopes:
        raise RequestError(
            "Setting keys without a scope is not allowed" if action == "set" else "Unscoped operations are not allowed"
        )
    if len(scopes) > KV_SCOPES_MAX:
        raise RequestError(f"Scopes length may be at most {KV_SCOPES_MAX} long ({len(scopes)} given)")
    return scopes


def _checked(call: HostCall, action: str) -> tuple[str, list[str]]:
    """Key and sorted scopes within their bounds."""
    key, scopes = _place(call, action)
    _checked_scopes(scopes, action)
    if (size := len(key.encode())) > KV_KEY_BYTES_MAX:
        what = "Query" if action == "find" else "Key"
        raise LimitExceeded(f"{what} length too long ({size:,} bytes, at most {KV_KEY_BYTES_MAX})")
    return key, scopes


def _value(call: HostCall) -> bytes:
    value = call.raw(1)
    if len(value) > KV_VALUE_BYTES_MAX:
        raise LimitExceeded(f"Value length too long ({len(value):,} bytes, at most {KV_VALUE_BYTES_MAX:,})")
    return value


def _written(written: KvWritten, if_version: int | None) -> bytes:
    """Nothing, as ever; who asked for a version hears whether it was that, and which there is."""
    return _NOTHING if if_version is None else _LIST_OF_2 + _pack(written.written) + _pack(written.version)


class Kv:
    """``kv.*``."""

    def __init__(self, db: WorkerDb) -> None:
        self._db = db

    def operations(self) -> dict[str, Operation]:
        return {
            "kv.get": _operation("get", self.get),
            "kv.getrecord": _operation("get", self.getrecord),
            "kv.exists": _operation("get", self.exists),
            "kv.set": _operation("set", self.set),
            "kv.set_expiry": _operation("set", self.set_expiry),
            "kv.delete": _operation("delete", self.delete),
            "kv.find": _operation("find", self.find),
            "kv.keys": Operation(handler=self.keys, need=_need_of_keys, bucket=Bucket("kv", "find")),
            # What these need depends on the record that is found.
            "kv.getbyid": Operation(handler=self.getbyid, bucket=Bucket("kv", "get")),
            "kv.getrecordbyid": Operation(handler=self.getrecordbyid, bucket=Bucket("kv", "get")),
            "kv.setbyid": Operation(handler=self.setbyid, bucket=Bucket("kv", "set")),
            "kv.setexpirybyid": Operation(handler=self.setexpirybyid, bucket=Bucket("kv", "set")),
            "kv.deletebyid": Operation(handler=self.deletebyid, bucket=Bucket("kv", "delete")),
            # Not counted: as in the reference (spec luau-api 4.1).
            "kv.list_scopes": Operation(handler=self.list_scopes, need=_need_of_scopes),
        }

    async def get(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "get")
        return _found(await self._db.kv_get(call.tenant, key, scopes))

    async def getrecord(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "get")
        return _found_record(await self._db.kv_get(call.tenant, key, scopes))

    async def exists(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "get")
        return answers.one(await self._db.kv_exists(call.tenant, key, scopes))

    async def set(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "set")
        options, value = set_options(call, 3), _value(call)
        written = await self._db.kv_set(
            call.tenant,
            key,
            scopes,
            value,
            options.expires_at,
            resume=options.resume,
            if_version=options.if_version,
        )
        return _written(written, options.if_version)

    async def set_expiry(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "set")
        expires_at = moment(call.raw(2 if _is_list(call.raw(1)) else 1), "expires_at")
        return answers.one(await self._db.kv_set_expiry(call.tenant, key, scopes, expires_at))

    async def delete(self, call: HostCall) -> bytes:
        key, scopes = _checked(call, "delete")
        await self._db.kv_delete(call.tenant, key, scopes)
        return _NOTHING

    async def find(self, call: HostCall) -> bytes:
        pattern, scopes = _checked(call, "find")
        page = page_options(call, 2)
        limit = KV_FIND_ROWS_MAX if page is None else page.limit
        after = None if page is None else page.after
        records = await self._db.kv_find(call.tenant, pattern, scopes, limit=limit, after=after)
        more = len(records) >= limit and bool(
            await self._db.kv_find(call.tenant, pattern, scopes, limit=1, after=records[-1].cursor)
        )
        # A script that did not ask for pages and took a part for the whole would be wrong without a word.
        if more and page is None:
            raise LimitExceeded(
                f"more than {KV_FIND_ROWS_MAX:,} keys match {pattern!r}: use a narrower query or scopes, or pages"
            )
        found = bytes(msgpack.Packer().pack_array_header(len(records))) + b"".join(map(_record, records))
        if page is None:
            return _LIST_OF_1 + found
        return _LIST_OF_2 + found + _pack(records[-1].cursor if more else None)

    async def keys(self, call: HostCall) -> bytes:
        return _LIST_OF_1 + _pack(await self._db.kv_keys(call.tenant, _checked_scopes(_scopes(call), "find")))

    async def list_scopes(self, call: HostCall) -> bytes:
        return _LIST_OF_1 + _pack(await self._db.kv_list_scopes(call.tenant))

    # ---- by id -----------------------------------------------------------------------------------------

    async def _seen(self, call: HostCall, action: str) -> KvRecord | None:
        """The record of the call's id. Raises: Forbidden: the caller may not, or may not know that there is none."""
        record_id = call.text(0, "id")
        if (size := len(record_id.encode())) > KV_KEY_BYTES_MAX:
            raise LimitExceeded(f"Id length too long ({size:,} bytes, at most {KV_KEY_BYTES_MAX})")
        refusal = f"KV operation `{action}` not allowed in this template context for id '{record_id}'"
        record = await self._db.kv_get_by_id(call.tenant, record_id)
        wanted = ["kv:*", f"kv:{action}:*"] if record is None else _capabilities(action, record.key, record.scopes)
        call.require_any(wanted, refusal)
        return record

    async def getbyid(self, call: HostCall) -> bytes:
        return _found(await self._seen(call, "get"))

    async def getrecordbyid(self, call: HostCall) -> bytes:
        return _found_record(await self._seen(call, "get"))

    async def setbyid(self, call: HostCall) -> bytes:
        options, value = set_options(call, 2), _value(call)
        record = await self._seen(call, "set")
        if record is None:
            raise RequestError("there is no record with this id")
        written = await self._db.kv_set_by_id(
            call.tenant, record.id, value, options.expires_at, resume=options.resume, if_version=options.if_version
        )
        return _written(written, options.if_version)

    async def setexpirybyid(self, call: HostCall) -> bytes:
        expires_at = moment(call.raw(1), "expires_at")
        record = await self._seen(call, "set")
        return answers.one(
            record is not None and await self._db.kv_set_expiry_by_id(call.tenant, record.id, expires_at)
        )

    async def deletebyid(self, call: HostCall) -> bytes:
        record = await self._seen(call, "delete")
        return answers.one(record is not None and await self._db.kv_delete_by_id(call.tenant, record.id))


def _found(record: KvRecord | None) -> bytes:
    return _NIL_FALSE if record is None else _LIST_OF_2 + record.value + _TRUE


def _found_record(record: KvRecord | None) -> bytes:
    return _MISSING if record is None else _LIST_OF_1 + _record(record)


def _need_of_scopes(_call: HostCall) -> Need:
    return Need(["kv.meta:list_scopes"], "KV operation `list_scopes` not allowed in this template context")


def _operation(action: str, handler: Handler) -> Operation:
    return Operation(handler=handler, need=lambda call: _need(call, action), bucket=Bucket("kv", action))
