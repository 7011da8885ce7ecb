"""Places of objects for tests: a folder inside a canary, and a bucket. Both can be looked into behind the store's back."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
from obstore.store import S3Store
from yarl import URL

from pytw.storage.objectblobs import Blobs, LocalBlobs, S3Blobs
from pytw.storage.objectlinks import ObjectLinks, owner_of
from pytw.storage.objects import ObjectStore
from pytw.types import Id

CHILD = Path(__file__).with_name("moto_child.py")
REPOSITORY = CHILD.parents[2]
_numbers = itertools.count(1)


@contextmanager
def s3_service() -> Iterator[str]:
    """The address of an S3 service of our own."""
    with subprocess.Popen([sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.stdin.close()


class Place(Protocol):
    def blobs(self) -> Blobs: ...
    async def raw(self) -> dict[str, bytes]:
        """All blobs by path."""

    async def put_raw(self, path: str, data: bytes) -> None: ...
    async def delete_raw(self, path: str) -> None: ...
    async def check_canary(self) -> None:
        """Nothing has changed that is none of ours."""

    async def fetch(self, store: ObjectStore, url: str) -> tuple[bytes, str]:
        """What a URL shows, and as what (where the place itself says)."""

    def gone(self) -> Any:
        """A context in which the place is away."""


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


class LocalPlace:
    def __init__(self, canary: Path) -> None:
        self._canary = canary
        self.root = canary / "data" / "objects"
        for name in ("secret", "data/secret", "data/objects2/guilds/12/secret"):
            (canary / name).parent.mkdir(parents=True, exist_ok=True)
            (canary / name).write_bytes(name.encode())
        self._outside = self._others()

    def _others(self) -> dict[str, bytes]:
        return {name: data for name, data in tree(self._canary).items() if not name.startswith("data/objects/")}

    def blobs(self) -> Blobs:
        return LocalBlobs(self.root, ObjectLinks(b"k" * 32, "http://127.0.0.1:1"))

    async def raw(self) -> dict[str, bytes]:
        return tree(self.root)

    async def put_raw(self, path: str, data: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    async def delete_raw(self, path: str) -> None:
        (self.root / path).unlink()

    async def check_canary(self) -> None:
        assert self._others() == self._outside

    async def fetch(self, store: ObjectStore, url: str) -> tuple[bytes, str]:
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        _, _, kind, number, key = unquote(parts.path).split("/", 4)
        owner = owner_of(kind, number)
        assert owner is not None
        return await store.open_link(owner, key, **query), ""

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        self.root.rename(self.root.with_name("away"))
        try:
            yield
        finally:
            self.root.with_name("away").rename(self.root)


class S3Place:
    """A bucket of its own, with others' objects in it."""

    PREFIX = "bots/x"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.bucket = f"bucket{next(_numbers)}"
        self.options = {
            "endpoint": endpoint,
            "access_key_id": "a",
            "secret_access_key": "b",
            "region": "us-east-1",
        }
        self._client = S3Store(self.bucket, config=self.options, client_options={"allow_http": True})
        self._outside = {name: name.encode() for name in ("secret", "bots/secret", "bots/xy/guilds/12/secret")}

    async def open(self) -> None:
        async with aiohttp.ClientSession() as session, session.put(f"{self.endpoint}/{self.bucket}") as made:
            assert made.status == 200
        for name, data in self._outside.items():
            await self._client.put_async(name, data, use_multipart=False)

    def blobs(self, **more: Any) -> Blobs:
        return S3Blobs(self.bucket, self.options, prefix=self.PREFIX, **{"doubt_s": 0.0, **more})

    async def _all(self) -> dict[str, bytes]:
        found = {}
        async for batch in self._client.list():
            for item in batch:
                found[item["path"]] = bytes(await (await self._client.get_async(item["path"])).bytes_async())
        return found

    async def raw(self) -> dict[str, bytes]:
        start = self.PREFIX + "/"
        return {name.removeprefix(start): d for name, d in (await self._all()).items() if name.startswith(start)}

    async def put_raw(self, path: str, data: bytes) -> None:
        await self._client.put_async(f"{self.PREFIX}/{path}", data, use_multipart=False)

    async def delete_raw(self, path: str) -> None:
        await self._client.delete_async(f"{self.PREFIX}/{path}")

    async def check_canary(self) -> None:
        start = self.PREFIX + "/"
        assert {name: d for name, d in (await self._all()).items() if not name.startswith(start)} == self._outside

    async def fetch(self, store: ObjectStore, url: str) -> tuple[bytes, str]:
        async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as response:
            assert response.status == 200
            assert response.headers["Content-Disposition"].startswith("attachment; ")
            return await response.read(), response.headers["Content-Type"]

    @asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """The service is there and has no such bucket any more."""
        kept = await self._all()
        for name in kept:
            await self._client.delete_async(name)
        async with aiohttp.ClientSession() as session:
            async with session.delete(f"{self.endpoint}/{self.bucket}") as gone:
                assert gone.status == 204
            yield
            async with session.put(f"{self.endpoint}/{self.bucket}") as made:
                assert made.status == 200
        for name, data in kept.items():
            await self._client.put_async(name, data, use_multipart=False)


class Crash(Exception):
    """What ends an operation in the middle, where a test has said so."""


class Fragile:
    """Blobs that end or hold an operation before or after it has been done, once each time that they are told."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.doubt_s = blobs.doubt_s
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}

    def crash(self, step: str) -> None:
        """*step*: such as ``before put``."""
        when, _, method = step.partition(" ")
        getattr(self, when)[method] = self._crash

    async def _crash(self) -> None:
        raise Crash

    async def _around(self, method: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if step := self.before.pop(method, None):
            await step()
        found = await call()
        if step := self.after.pop(method, None):
            await step()
        return found

    async def put(self, path: str, data: bytes, *, key: str) -> None:
        await self._around("put", lambda: self._blobs.put(path, data, key=key))

    async def get(self, path: str) -> bytes | None:
        found: bytes | None = await self._around("get", lambda: self._blobs.get(path))
        return found

    async def delete(self, path: str) -> None:
        await self._around("delete", lambda: self._blobs.delete(path))

    def under(self, folder: str) -> AsyncIterator[str]:
        return self._blobs.under(folder)

    async def url(self, owner: Id, key: str, path: str, expires_s: int) -> str:
        return await self._blobs.url(owner, key, path, expires_s)

    def check_link(self, owner: Id, key: str, *, expires: str, signature: str) -> None:
        self._blobs.check_link(owner, key, expires=expires, signature=signature)
