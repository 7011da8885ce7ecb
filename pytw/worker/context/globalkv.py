"""``ctx.GlobalKV``: what tenants publish for everybody. Source: reference `GlobalKvExecutor` (spec luau-api 4.2)."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgpack
import orjson

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import (
    GLOBAL_KV_DATA_BYTES_MAX,
    GLOBAL_KV_FIND_BYTES_MAX,
    GLOBAL_KV_FIND_ROWS_MAX,
    GLOBAL_KV_LONG_BYTES_MAX,
    GLOBAL_KV_VERSION_MAX,
    KV_LOOP_BYTES_MAX,
)
from pytw.types import GlobalEntry, GlobalRecord
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall, plain
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.workerdb import WorkerDb

#: What `create` takes is decoded to be written as JSON; nothing that is longer could be stored.
ENTRY_BYTES_MAX = 2 * GLOBAL_KV_DATA_BYTES_MAX + GLOBAL_KV_LONG_BYTES_MAX + KV_LOOP_BYTES_MAX


def _partial(record: GlobalRecord) -> dict[str, Any]:
    return {
        "key": record.key,
        "version": record.version,
        "owner_id": record.owner_id,
        "owner_type": record.owner_type,
        "price": record.price,
        "short": record.short,
        "long": record.long,
        "public_metadata": msgpack.ExtType(answers.JSON, record.public_metadata),
        "scope": record.scope,
        "created_at": record.created_at,
        "last_updated_at": record.last_updated_at,
        "public_data": record.public_data,
        "review_state": record.review_state,
    }


class GlobalKv:
    """``globalkv.*``. *frontend_url* is where things are bought; empty where there is no website."""

    def __init__(self, db: WorkerDb, frontend_url: str = "") -> None:
        self._db = db
        self._frontend_url = frontend_url

    def operations(self) -> dict[str, Operation]:
        return {
            "globalkv.find": _operation("find", self.find),
            "globalkv.get": _operation("get", self.get),
            "globalkv.create": _operation("create", self.create),
            "globalkv.delete": _operation("delete", self.delete),
        }

    async def find(self, call: HostCall) -> bytes:
        pattern, scope = call.text(0, "pattern"), call.text(1, "scope")
        paged = call.plain(2) is not None
        limit, after = _page(call.table(2, "options")) if paged else (GLOBAL_KV_FIND_ROWS_MAX, None)
        found = await self._db.global_find(call.tenant, scope, pattern, limit=limit, after=after)
        if paged and found.after is not None:
            records = [_partial(record) for record in found.items]
            return bytes(msgpack.packb([records, found.after], datetime=True))
        # As in `Kv.find`: a part may not pass for the whole.
        if found.after is not None:
            many = len(found.items) >= GLOBAL_KV_FIND_ROWS_MAX
            raise LimitExceeded(
                f"more than {GLOBAL_KV_FIND_ROWS_MAX:,} versions match {pattern[:80]!r}: use a narrower pattern"
                if many
                else f"The records found are longer than {GLOBAL_KV_FIND_BYTES_MAX:,} bytes together: use a narrower pattern"
            )
        return answers.one([_partial(record) for record in found.items])

    async def get(self, call: HostCall) -> bytes:
        key, version, scope = call.text(0, "key"), _version(call.plain(1)), call.text(2, "scope")
        record = await self._db.global_get(call.tenant, scope, key, version)
        return (
            answers.NIL
            if record is None
            else answers.one({"partial": _partial(record), "data": self._data(call, record)})
        )

    def _data(self, call: HostCall, record: GlobalRecord) -> dict[str, Any]:
        if record.data is None:
            return {"type": "PurchaseRequired", "purchase_url": record.purchase_url(self._frontend_url, call.tenant)}
        kind = answers.OPAQUE_JSON if record.opaque else answers.LAZY_JSON
        return {"type": "Value", "data": msgpack.ExtType(kind, record.data)}

    async def create(self, call: HostCall) -> bytes:
        packed = call.raw(0)
        if len(packed) > ENTRY_BYTES_MAX:
            raise LimitExceeded(f"the entry is too long ({len(packed):,} bytes, at most {ENTRY_BYTES_MAX:,})")
        # In a thread what would hold the loop.
        entry = _entry(packed) if len(packed) <= KV_LOOP_BYTES_MAX else await asyncio.to_thread(_entry, packed)
        await self._db.global_create(call.tenant, entry)
        return answers.NOTHING

    async def delete(self, call: HostCall) -> bytes:
        key, version, scope = call.text(0, "key"), _version(call.plain(1)), call.text(2, "scope")
        await self._db.global_delete(call.tenant, scope, key, version)
        return answers.NOTHING


def _page(options: dict[str, Any]) -> tuple[int, str | None]:
    """How many versions to give at most, and where to go on. Raises: RequestError."""
    if unknown := sorted(options.keys() - {"limit", "after"}):
        raise RequestError(f"there is no option {unknown[0][:80]!r}; limit and after are options")
    limit, after = options.get("limit", GLOBAL_KV_FIND_ROWS_MAX), options.get("after")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit <= GLOBAL_KV_FIND_ROWS_MAX:
        raise RequestError(f"limit must be a number from 1 to {GLOBAL_KV_FIND_ROWS_MAX:,}")
    if limit != int(limit):
        raise RequestError("limit must be a whole number")
    if after is not None and not isinstance(after, str):
        raise RequestError("after must be the text that find gave beside its records")
    return int(limit), after


def _entry(packed: bytes) -> GlobalEntry:
    wanted = plain(packed, bytes_max=ENTRY_BYTES_MAX)
    if not isinstance(wanted, dict):
        raise RequestError("the entry must be a table")
    if wanted.get("data") is None:
        raise RequestError("data is missing: an entry without it is of no use")
    long, public_data, metadata = wanted.get("long"), wanted.get("public_data"), wanted.get("public_metadata")
    if public_data is not None and not isinstance(public_data, bool):
        raise RequestError("public_data must be a boolean")
    return GlobalEntry(
        scope=_text(wanted, "scope"),
        key=_text(wanted, "key"),
        version=_version(wanted.get("version")),
        short=_text(wanted, "short"),
        public_metadata=_json("public_metadata", {} if metadata is None else metadata),
        data=_json("data", wanted["data"]),
        public_data=bool(public_data),
        long=None if long is None else _text(wanted, "long"),
    )


def _text(wanted: dict[str, Any], name: str) -> str:
    value = wanted.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a string")
    return value


def _json(name: str, value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{name} has no JSON form: {error}") from None


def _version(value: Any) -> int:
    """A whole number of 32 bits: numbers and their texts are taken, fractions cut off (spec luau-api 2.5)."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= GLOBAL_KV_VERSION_MAX:
        raise RequestError(f"version must be a whole number from 1 to {GLOBAL_KV_VERSION_MAX:,}")
    return int(number)


def _operation(action: str, handler: Handler) -> Operation:
    capability = f"globalkv:access:{action}"
    # The reference's text names a scope, though no scope is looked at.
    need = Need(
        (capability,), f"Global KV operation `{action}` not allowed in this template context: it needs {capability}"
    )
    return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("globalkv", action))
