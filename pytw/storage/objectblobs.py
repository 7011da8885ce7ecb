"""Where the bytes of objects lie: files below a folder, or a bucket of an S3 service.

Both keep a blob under a path, show it by a signed URL, and know nothing of rows. A path is made of an owner and a key
(`objectkeys.blob_path`) and is the same for as long as the key has an object: a URL shows what the key holds now.
"""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from pytw.errors import ConfigError, NotFound, StorageRefused, StorageUnavailable, Unavailable
from pytw.limits import OBJECT_BYTES_MAX
from pytw.storage.objectkeys import content_type, disposition
from pytw.storage.objectlinks import ObjectLinks
from pytw.types import Id

log = logging.getLogger(__name__)

ATTEMPT_S_MAX: Final = 5
CONNECT_S_MAX: Final = 2
#: Of one call to an S3 service, its repetitions included.
CALL_S_MAX: Final = 10.0
RETRIES_MAX: Final = 2
#: So long after it was sent may a service still carry out what it has not answered.
DOUBT_S: Final = 15.0


class Blobs(Protocol):
    """Every method raises StorageUnavailable, besides its own. *path* is one that `blob_path` has made."""

    #: For so long what has failed may still happen.
    doubt_s: float

    async def put(self, path: str, data: bytes, *, key: str) -> None:
        """Write a blob, whole or not at all; when this returns, it outlives a power failure.

        Args:
            key: what browsers are told that it is.
        """

    async def get(self, path: str) -> bytes | None:
        """A blob; None where there is none, or something that is longer than any."""

    async def delete(self, path: str) -> None:
        """What is not there is deleted already."""

    def under(self, folder: str) -> AsyncIterator[str]:
        """All that is below a folder, by the rest of its path."""

    async def url(self, owner: Id, key: str, path: str, expires_s: int) -> str:
        """An address at which everybody may read the blob for so long. Raises: Unavailable: there are none."""

    def check_link(self, owner: Id, key: str, *, expires: str, signature: str) -> None:
        """Whether our API may serve this address. Raises: Forbidden, NotFound: it serves none."""


@contextmanager
def _translated() -> Iterator[None]:
    """Raises what errors mean to a tenant; the log has their words, which name paths of this machine."""
    try:
        yield
    except (BaseError, OSError) as error:
        log.warning("object storage: %s", " ".join(str(error).partition("\n\n")[0].split()))
        raise StorageUnavailable("object storage is not available, try again") from error


class _ObstoreBlobs(ABC):
    """What both have in common."""

    _store: LocalStore | S3Store

    async def get(self, path: str) -> bytes | None:
        with _translated():
            try:
                found = await self._store.get_async(path)
                if found.meta["size"] > OBJECT_BYTES_MAX:
                    log.error("object storage: %s has %s bytes and is none of ours", path, found.meta["size"])
                    return None
                return bytes(await found.bytes_async())
            except FileNotFoundError as error:
                self._check_place(error)
                return None

    async def delete(self, path: str) -> None:
        with _translated():
            try:
                await self._store.delete_async(path)
            except FileNotFoundError as error:
                self._check_place(error)

    async def under(self, folder: str) -> AsyncIterator[str]:
        with _translated():
            try:
                async for batch in self._store.list(folder + "/"):
                    for item in batch:
                        yield item["path"].removeprefix(folder + "/")
            except FileNotFoundError as error:
                self._check_place(error)

    @abstractmethod
    def _check_place(self, error: FileNotFoundError) -> None:
        """Raises: OSError: not the blob is missing, but the place of all."""


class LocalBlobs(_ObstoreBlobs):
    """Files below *directory*, which is made; *links* are their URLs.

    obstore reads and deletes. It writes without fsync, and leaves a file behind where it is killed; so writing is done here:
    beside, to the disk, then renamed.

    Raises: StorageRefused.
    """

    doubt_s = 0.0

    def __init__(self, directory: Path, links: ObjectLinks | None = None) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Empty folders stay: one that goes with its last file may be another tenant's way to its first.
            self._store = LocalStore(directory)
        except (OSError, BaseError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
            raise StorageRefused(f"cannot write {directory}: {words}") from error
        self._directory = directory
        self._links = links

    async def put(self, path: str, data: bytes, *, key: str) -> None:
        with _translated():
            await asyncio.to_thread(_write, self._directory, path, data)

    def _check_place(self, error: FileNotFoundError) -> None:
        if not self._directory.is_dir():
            raise OSError(f"{self._directory} is gone") from error

    async def url(self, owner: Id, key: str, path: str, expires_s: int) -> str:
        if self._links is None:
            raise Unavailable("this server gives no URLs of objects: it has neither an address of its own nor S3")
        return self._links.url(owner, key, expires_s)

    def check_link(self, owner: Id, key: str, *, expires: str, signature: str) -> None:
        if self._links is None:
            raise NotFound("this server serves no objects")
        self._links.check(owner, key, expires=expires, signature=signature)


def _write(root: Path, path: str, data: bytes) -> None:
    """The tenant's writes go one by one, so that a file of this name is one that a killed writer has left."""
    place = root / path
    beside = place.with_name(place.name + ".new")
    file = _opened(root, beside)
    with os.fdopen(file, "wb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(file)
    beside.rename(place)
    _sync_folder(place.parent)


def _opened(root: Path, place: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(place, flags, 0o600)
    except FileNotFoundError:
        if not root.is_dir():
            raise
    for folder in list(reversed(place.relative_to(root).parents))[1:]:
        (root / folder).mkdir(mode=0o700, exist_ok=True)
        _sync_folder((root / folder).parent)
    return os.open(place, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class S3Blobs(_ObstoreBlobs):
    """Objects in a bucket; *options* are obstore's (endpoint, access_key_id, secret_access_key, region).

    A plain ``http://`` endpoint is allowed, for a service on the same host.

    Args:
        prefix: what all paths begin with.
        public_endpoint: takes the endpoint's place in URLs; what is signed is the address that is asked.
    Raises: ConfigError.
    """

    def __init__(
        self,
        bucket: str,
        options: Mapping[str, Any],
        *,
        prefix: str = "",
        public_endpoint: str = "",
        doubt_s: float = DOUBT_S,
    ) -> None:
        self.doubt_s = doubt_s
        self._store: S3Store = _bucket(bucket, options, prefix)
        public = {**options, "endpoint": public_endpoint}
        self._signer = _bucket(bucket, public, prefix) if public_endpoint else self._store

    async def put(self, path: str, data: bytes, *, key: str) -> None:
        # Scripts choose the bytes, and browsers may open the URL: they are for saving.
        about = {"Content-Type": content_type(key), "Content-Disposition": disposition(key)}
        with _translated():
            await self._store.put_async(path, data, use_multipart=False, attributes=about)

    def _check_place(self, error: FileNotFoundError) -> None:
        if "<Code>NoSuchKey</Code>" not in str(error) and "NoSuchBucket" in str(error):
            raise OSError("there is no such bucket") from error

    async def url(self, owner: Id, key: str, path: str, expires_s: int) -> str:
        with _translated():
            return await obstore.sign_async(self._signer, "GET", path, expires_in=timedelta(seconds=expires_s))

    def check_link(self, owner: Id, key: str, *, expires: str, signature: str) -> None:
        raise NotFound("this server serves no objects")


def _bucket(bucket: str, options: Mapping[str, Any], prefix: str) -> S3Store:
    client = {
        "allow_http": str(options.get("endpoint", "")).startswith("http://"),
        "timeout": f"{ATTEMPT_S_MAX}s",
        "connect_timeout": f"{CONNECT_S_MAX}s",
    }
    retry = {"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=CALL_S_MAX)}
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


__all__ = ["Blobs", "LocalBlobs", "S3Blobs"]
