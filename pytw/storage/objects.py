"""Objects of tenants: bytes under a key, on disk or in an S3 bucket.

An object of a tenant lies under ``{owner type}s/{tenant id}/``; the slash belongs to the prefix, so that no tenant's
listing shows another's. Source: reference `ObjectStore` (spec/http-schema-systems.md 3.5).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from errno import EISDIR, ENAMETOOLONG, ENOTDIR
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from pytw.errors import (
    ConfigError,
    Conflict,
    LimitExceeded,
    NotFound,
    StorageRefused,
    StorageUnavailable,
    Unavailable,
)
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_LIST_MAX, Limits
from pytw.storage.objectkeys import checked_object_data, checked_object_key, checked_object_prefix, checked_url_life
from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objectroom import ObjectRoom
from pytw.types import Id, ObjectInfo

log = logging.getLogger(__name__)

CALL_S_MAX = 10.0
#: What a listing looks at before it gives up.
LOOK_MAX = 100 * OBJECT_LIST_MAX


# How a file system says that a path leads through a file, or that a file would take a folder's place.
_NOT_A_FOLDER, _A_FOLDER, _NAME_TOO_LONG = (f"(os error {n})" for n in (ENOTDIR, EISDIR, ENAMETOOLONG))


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raises what obstore's errors mean to a tenant; the log has their words, which name paths of this machine."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise NotFound(f"there is no object {what[:80]!r}") from None
    except (BaseError, OSError) as error:
        text = str(error).partition("\n")[0]
        if text.endswith(_NAME_TOO_LONG):
            raise LimitExceeded("a part of the path between slashes is longer than this server's disk allows") from None
        log.warning("object storage: %s", text)
        raise StorageUnavailable("object storage is not available, try again") from error


@contextmanager
def _folders(*, writes: bool = False) -> Iterator[None]:
    """On disk ``a`` cannot be both an object and the folder of ``a/b``: reading finds nothing there, writing is a conflict."""
    try:
        yield
    except BaseError as error:
        if not str(error).partition("\n")[0].endswith((_NOT_A_FOLDER, _A_FOLDER)):
            raise
        if writes:
            raise Conflict("an object cannot have the name of a folder on this server's disk") from None
        raise FileNotFoundError from None


class ObjectStore:
    """Made by `local` or `s3`. All methods raise StorageUnavailable, besides their own."""

    def __init__(
        self,
        store: LocalStore | S3Store,
        *,
        links: ObjectLinks | None = None,
        signer: S3Store | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._links = links
        self._signer = signer
        self._room = ObjectRoom(limits or Limits(), self._measure)

    @classmethod
    def local(cls, directory: Path, links: ObjectLinks | None = None, *, limits: Limits | None = None) -> ObjectStore:
        """Objects as files below *directory*, which is made; *links* are their URLs. Raises: StorageRefused."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageRefused(f"cannot write {directory}: {error.strerror}") from error
        return cls(LocalStore(directory, automatic_cleanup=True), links=links, limits=limits)

    @classmethod
    def s3(
        cls,
        bucket: str,
        options: Mapping[str, Any],
        *,
        prefix: str = "",
        public_endpoint: str = "",
        limits: Limits | None = None,
    ) -> ObjectStore:
        """Objects in a bucket; *options* are obstore's (endpoint, access_key_id, secret_access_key, region).

        A plain ``http://`` endpoint is allowed, for a store on the same host.

        Args:
            prefix: what all keys begin with.
            public_endpoint: takes the endpoint's place in URLs.
        Raises: ConfigError.
        """
        store = cls._bucket(bucket, options, prefix)
        public = cls._bucket(bucket, {**options, "endpoint": public_endpoint}, prefix) if public_endpoint else store
        return cls(store, signer=public, limits=limits)

    @staticmethod
    def _bucket(bucket: str, options: Mapping[str, Any], prefix: str) -> S3Store:
        client = {
            "allow_http": str(options.get("endpoint", "")).startswith("http://"),
            "timeout": "5s",
            "connect_timeout": "2s",
        }
        retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=CALL_S_MAX)}
        try:
            return S3Store(
                bucket,
                prefix=prefix or None,
                config=dict(options),  # type: ignore[arg-type]
                client_options=client,  # type: ignore[arg-type]
                retry_config=retry,  # type: ignore[arg-type]
            )
        except (BaseError, ValueError, TypeError) as error:
            raise ConfigError(f"object storage: {str(error).partition(chr(10))[0][:200]}") from error

    @staticmethod
    def _prefix(owner: Id) -> str:
        return f"{owner.owner_type.value}s/{owner.owner_id}/"

    async def put(self, owner: Id, key: str, data: bytes) -> None:
        """Write an object, whole or not at all. The tenant's writes go one by one.

        Raises: RequestError. LimitExceeded: also where the tenant has no room left. Conflict: on disk.
        """
        path = self._prefix(owner) + checked_object_key(key)
        checked_object_data(data)
        async with self._room.writing(owner) as usage:
            old_bytes = await self._size(path, key)
            self._room.check(usage, key, old_bytes, len(data))
            with usage.unknown_on_failure(), _translated(key), _folders(writes=True):
                await self._store.put_async(path, data, use_multipart=False)
            usage.change(old_bytes, len(data))

    async def _size(self, path: str, key: str) -> int | None:
        with suppress(NotFound), _translated(key), _folders():
            return int((await self._store.head_async(path))["size"])
        return None

    async def _measure(self, owner: Id) -> tuple[int, int]:
        files = size = 0
        with suppress(NotFound), _translated("*"), _folders():
            async for batch in self._store.list(self._prefix(owner)):
                files += len(batch)
                size += sum(item["size"] for item in batch)
        return files, size

    async def exists(self, owner: Id, key: str) -> bool:
        """Raises: RequestError, LimitExceeded."""
        return await self._size(self._prefix(owner) + checked_object_key(key), key) is not None

    async def get(self, owner: Id, key: str) -> bytes:
        """Raises: NotFound, RequestError, LimitExceeded: also where somebody else has put more there than fits."""
        path = self._prefix(owner) + checked_object_key(key)
        with _translated(key), _folders():
            found = await self._store.get_async(path)
            if (size := found.meta["size"]) > OBJECT_BYTES_MAX:
                raise LimitExceeded(f"Data too large ({size:,} bytes, at most {OBJECT_BYTES_MAX:,})")
            return bytes(await found.bytes_async())

    async def delete(self, owner: Id, key: str) -> None:
        """Take an object away. Raises: NotFound, RequestError."""
        path = self._prefix(owner) + checked_object_key(key)
        async with self._room.writing(owner) as usage:
            old_bytes = await self._size(path, key)
            if old_bytes is None:
                raise NotFound(f"there is no object {key[:80]!r}")
            with usage.unknown_on_failure(), _translated(key), _folders():
                await self._store.delete_async(path)
            usage.change(old_bytes, None)

    async def url(self, owner: Id, key: str, expires_s: int) -> str:
        """An address at which everybody may read the object for so long; that it exists is not looked at.

        Raises: RequestError, LimitExceeded. Unavailable: this store has no addresses.
        """
        checked_object_key(key)
        checked_url_life(expires_s)
        if self._links is not None:
            return self._links.url(owner, key, expires_s)
        if self._signer is None:
            raise Unavailable("this server gives no URLs of objects: it has neither an address of its own nor S3")
        with _translated(key):
            return await obstore.sign_async(
                self._signer, "GET", self._prefix(owner) + key, expires_in=timedelta(seconds=expires_s)
            )

    async def open_link(self, owner: Id, key: str, *, expires: str, signature: str) -> bytes:
        """The object of a URL that `url` gave. Raises: Forbidden, NotFound, RequestError."""
        if self._links is None:
            raise NotFound("this server serves no objects")
        self._links.check(owner, key, expires=expires, signature=signature)
        return await self.get(owner, key)

    async def list(self, owner: Id, prefix: str = "", *, limit: int = OBJECT_LIST_MAX) -> list[ObjectInfo]:
        """Objects whose key starts with *prefix*, by key, at most *limit*.

        Args:
            limit: at most one more than `OBJECT_LIST_MAX`, which tells that there are more.
        Raises: RequestError, LimitExceeded.
        """
        folder = checked_object_prefix(prefix).rpartition("/")[0]
        mine = self._prefix(owner)
        found: list[ObjectInfo] = []
        with suppress(NotFound), _translated(prefix), _folders():
            async for batch in self._store.list(mine + folder):
                for item in batch:
                    key = item["path"].removeprefix(mine)
                    if item["path"].startswith(mine) and key.startswith(prefix):
                        found.append(ObjectInfo(key, item["size"], item["last_modified"], item["e_tag"]))
                if len(found) > LOOK_MAX:
                    break
        return sorted(found, key=lambda item: item.key)[: min(limit, OBJECT_LIST_MAX + 1)]


__all__ = ["ObjectInfo", "ObjectStore", "checked_object_key"]
