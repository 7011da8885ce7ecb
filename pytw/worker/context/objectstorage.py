"""``ctx.ObjectStorage``: the tenant's files. Source: reference `Bucket` (spec luau-api 4.3).

Keys are checked here before anything leaves the worker, and once more by the store.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import OBJECT_LIST_MAX
from pytw.storage.objectkeys import checked_object_data, checked_object_key, checked_object_prefix, checked_url_life
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.workerdb import WorkerDb


class ObjectStorage:
    """``objectstorage.*``."""

    def __init__(self, db: WorkerDb) -> None:
        self._db = db

    def operations(self) -> dict[str, Operation]:
        return _operations(
            {
                "list_files": self.list_files,
                "file_exists": self.file_exists,
                "download_file": self.download_file,
                "get_file_url": self.get_file_url,
                "upload_file": self.upload_file,
                "delete_file": self.delete_file,
            }
        )

    async def list_files(self, call: HostCall) -> bytes:
        prefix = "" if call.plain(0) is None else checked_object_prefix(call.text(0, "prefix"))
        if not prefix and call.plain(0) is not None:
            raise RequestError("the prefix is empty: leave it away to list every file")
        paged = call.plain(1) is not None
        limit, after = _page(call.table(1, "options")) if paged else (OBJECT_LIST_MAX, None)
        found = await self._db.object_list(call.tenant, prefix, limit=limit + 1, after=after)
        if len(found) > limit and not paged:
            raise LimitExceeded(f"more than {limit:,} files: use a longer prefix, or pages ({{ limit, after }})")
        files = [
            {"key": item.key, "last_modified": item.last_modified, "size": item.size, "etag": item.etag}
            for item in found[:limit]
        ]
        if len(found) <= limit:
            return answers.one(files)
        return bytes(msgpack.packb([files, found[limit - 1].key], datetime=True))

    async def file_exists(self, call: HostCall) -> bytes:
        return answers.one(await self._db.object_exists(call.tenant, _key(call)))

    async def download_file(self, call: HostCall) -> bytes:
        return answers.one(msgpack.ExtType(answers.BLOB, await self._db.object_get(call.tenant, _key(call))))

    async def get_file_url(self, call: HostCall) -> bytes:
        key, life_s = _key(call), checked_url_life(math.floor(call.seconds(1, "expiry")))
        return answers.one(await self._db.object_url(call.tenant, key, life_s))

    async def upload_file(self, call: HostCall) -> bytes:
        key, data = _key(call), checked_object_data(call.content(1, "data"))
        await self._db.object_put(call.tenant, key, data)
        return answers.NOTHING

    async def delete_file(self, call: HostCall) -> bytes:
        await self._db.object_delete(call.tenant, _key(call))
        return answers.NOTHING


def _key(call: HostCall) -> str:
    return checked_object_key(call.text(0, "key"))


def _page(options: dict[str, Any]) -> tuple[int, str | None]:
    """How many files to give at most, and the key behind which to go on. Raises: RequestError."""
    if unknown := sorted(options.keys() - {"limit", "after"}):
        raise RequestError(f"there is no option {unknown[0][:80]!r}; limit and after are options")
    limit, after = options.get("limit", OBJECT_LIST_MAX), options.get("after")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit <= OBJECT_LIST_MAX:
        raise RequestError(f"limit must be a number from 1 to {OBJECT_LIST_MAX:,}")
    if limit != int(limit):
        raise RequestError("limit must be a whole number")
    if after is not None and not isinstance(after, str):
        raise RequestError("after must be the text that list_files gave beside its files")
    return int(limit), None if after is None else checked_object_key(after)


def _operations(methods: dict[str, Handler]) -> dict[str, Operation]:
    def operation(method: str, handler: Handler) -> Operation:
        need = Need(
            (f"objectstorage:{method}",), f"Object storage operation `{method}` not allowed in this template context"
        )
        return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("objectstorage", method))

    return {f"objectstorage.{method}": operation(method, handler) for method, handler in methods.items()}
