"""Objects of tenants: bytes under a key, on disk or in an S3 bucket.

An object of a tenant lies under ``{owner type}s/{tenant id}/``; the slash belongs to the prefix, so that no tenant's
listing shows another's. Source: reference `ObjectStore` (spec/http-schema-systems.md 3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError, NotFoundError
from obstore.exceptions import PermissionDeniedError as Denied
from obstore.store import LocalStore, S3Store

from pytw.errors import ConfigError, LimitExceeded, NotFound, RequestError, StorageRefused, StorageUnavailable
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX, OBJECT_LIST_MAX
from pytw.types import Id

CALL_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object of a listing; ``key`` is as the tenant knows it."""

    key: str
    size: int
    last_modified: datetime


def checked_object_key(key: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    if any(part in ("", ".", "..") for part in key.split("/")) or not key.isprintable() or "\\" in key:
        raise RequestError(f"not an object key: {key[:80]!r}", hint="no empty part, . or .. between slashes")
    if len(key.encode()) > OBJECT_KEY_BYTES_MAX:
        raise LimitExceeded("object key too long", hint=f"{OBJECT_KEY_BYTES_MAX} bytes at most")
    return key


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise NotFound(f"there is no object {what[:80]!r}") from None
    except (BaseError, Denied, OSError) as error:
        raise StorageUnavailable(
            f"object storage is not available: {str(error).partition(chr(10))[0][:200]}"
        ) from error


class ObjectStore:
    """Made by `local` or `s3`. All methods raise StorageUnavailable, besides their own."""

    def __init__(self, store: LocalStore | S3Store) -> None:
        self._store = store

    @classmethod
    def local(cls, directory: Path) -> ObjectStore:
        """Objects as files below *directory*, which is made. Raises: StorageRefused."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageRefused(f"cannot write {directory}: {error.strerror}") from error
        return cls(LocalStore(directory, automatic_cleanup=True))

    @classmethod
    def s3(cls, bucket: str, options: Mapping[str, Any]) -> ObjectStore:
        """Objects in a bucket; *options* are obstore's (endpoint, access_key_id, secret_access_key, region).

        A plain ``http://`` endpoint is allowed, for a store on the same host.
        Raises: ConfigError.
        """
        client = {
            "allow_http": str(options.get("endpoint", "")).startswith("http://"),
            "timeout": "5s",
            "connect_timeout": "2s",
        }
        retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=CALL_S_MAX)}
        try:
            return cls(S3Store(bucket, config=dict(options), client_options=client, retry_config=retry))  # type: ignore[arg-type]
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigError(f"object storage: {str(error).partition(chr(10))[0][:200]}") from error

    @staticmethod
    def _prefix(owner: Id) -> str:
        return f"{owner.owner_type.value}s/{owner.owner_id}/"

    async def put(self, owner: Id, key: str, data: bytes) -> None:
        """Write an object, whole or not at all. Raises: RequestError, LimitExceeded."""
        path = self._prefix(owner) + checked_object_key(key)
        if len(data) > OBJECT_BYTES_MAX:
            raise LimitExceeded("object too long", hint=f"{OBJECT_BYTES_MAX} bytes at most")
        with _translated(key):
            await self._store.put_async(path, data, use_multipart=False)

    async def get(self, owner: Id, key: str) -> bytes:
        """Raises: NotFound, RequestError."""
        path = self._prefix(owner) + checked_object_key(key)
        with _translated(key):
            found = await self._store.get_async(path)
            return bytes(await found.bytes_async())

    async def delete(self, owner: Id, key: str) -> None:
        """Take an object away. Raises: NotFound on disk; S3 does not tell. RequestError."""
        path = self._prefix(owner) + checked_object_key(key)
        with _translated(key):
            await self._store.delete_async(path)

    async def list(self, owner: Id, prefix: str = "", *, limit: int = OBJECT_LIST_MAX) -> list[ObjectInfo]:
        """Objects whose key starts with *prefix*, by key, at most *limit*. Raises: RequestError."""
        folder = prefix.rpartition("/")[0]
        if folder:
            checked_object_key(folder)
        mine = self._prefix(owner)
        found: list[ObjectInfo] = []
        with _translated(prefix):
            async for batch in self._store.list(mine + folder):
                for item in batch:
                    key = item["path"].removeprefix(mine)
                    if item["path"].startswith(mine) and key.startswith(prefix):
                        found.append(ObjectInfo(key, item["size"], item["last_modified"]))
                if len(found) > 100 * OBJECT_LIST_MAX:
                    break
        return sorted(found, key=lambda item: item.key)[: min(limit, OBJECT_LIST_MAX)]


__all__ = ["ObjectInfo", "ObjectStore", "checked_object_key"]
