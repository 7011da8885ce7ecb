"""The object store over a folder and over an S3 service, with one contract; then what only one of them has."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pytw.errors import NotFound, StorageRefused, StorageUnavailable, Unavailable
from pytw.limits import OBJECT_BYTES_MAX
from pytw.storage import objectblobs
from pytw.storage.objectadopt import ReferenceObjects
from pytw.storage.objectblobs import LocalBlobs, S3Blobs
from pytw.storage.objectkeys import blob_path, content_type
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database, open_pool
from pytw.storage.postgres import EmbeddedPostgres
from pytw.types import Id, OwnerType
from tests.conftest import fresh_database
from tests.storage.objectplaces import Crash, Fragile, LocalPlace, S3Place, s3_service
from tests.storage.objects_broken_contract import BrokenObjectsContract
from tests.storage.objects_contract import SHORT, ObjectsContract, keys


@pytest.fixture(scope="module")
def objects_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    yield from fresh_database(postgres_server)


@pytest.fixture
async def database(objects_url: str) -> AsyncIterator[Database]:
    found = await open_pool(objects_url, 4)
    await found.execute("DELETE FROM tenant_objects")
    await found.execute("DELETE FROM tenant_objects_usage")
    yield found
    await found.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_service() as endpoint:
        yield endpoint


@pytest.fixture
async def bucket(s3_endpoint: str) -> S3Place:
    made = S3Place(s3_endpoint)
    await made.open()
    return made


class TestLocal(ObjectsContract, BrokenObjectsContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> LocalPlace:
        return LocalPlace(tmp_path)


class TestS3(ObjectsContract, BrokenObjectsContract):
    @pytest.fixture
    def place(self, bucket: S3Place) -> S3Place:
        return bucket


# ---- on disk ---------------------------------------------------------------------------------------------


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefused):
        LocalBlobs(tmp_path / "file" / "objects")


async def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its folder is, before the write is acknowledged."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def note_sync(file: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        sync(file)

    def note_rename(source: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(source, target)

    monkeypatch.setattr(objectblobs.os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    blobs = LocalBlobs(tmp_path / "objects")
    path = blob_path(SHORT, "k")
    await blobs.put(path, b"1", key="k")
    assert steps[-3:] == ["file", "rename", "folder"]
    assert steps[:-3].count("folder") >= 2
    assert stat.S_IMODE((tmp_path / "objects" / path).stat().st_mode) == 0o600


async def test_tenants_that_come_and_go_do_not_take_each_others_folders(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "objects")

    async def come_and_go(owner: Id) -> None:
        path = blob_path(owner, "k")
        for _ in range(60):
            await blobs.put(path, b"1", key="k")
            await blobs.delete(path)

    await asyncio.gather(*(come_and_go(Id.guild(number)) for number in range(4)))


async def test_what_a_killed_writer_left_is_written_over(tmp_path: Path, database: Database) -> None:
    place = LocalPlace(tmp_path)
    left = place.root / (blob_path(SHORT, "k") + ".new")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 100)
    store = ObjectStore(database, place.blobs())
    assert await keys(store) == []
    await store.put(SHORT, "k", b"1")
    assert list((await place.raw()).values()) == [b"1"]


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, database: Database) -> None:
    place = LocalPlace(tmp_path)
    beside = place.root / (blob_path(SHORT, "k") + ".new")
    beside.parent.mkdir(parents=True)
    beside.symlink_to(tmp_path / "secret")
    with pytest.raises(StorageUnavailable) as refused:
        await ObjectStore(database, place.blobs()).put(SHORT, "k", b"1")
    assert str(tmp_path) not in str(refused.value)
    await place.check_canary()


async def test_store_without_an_address_gives_no_urls(tmp_path: Path, database: Database) -> None:
    store = ObjectStore(database, LocalBlobs(tmp_path))
    with pytest.raises(Unavailable, match="gives no URLs"):
        await store.url(SHORT, "k", 60)
    with pytest.raises(NotFound):
        await store.open_link(SHORT, "k", expires="1", signature="x")


# ---- in a bucket -----------------------------------------------------------------------------------------


async def test_urls_are_signed_for_the_public_endpoint(database: Database) -> None:
    options = {"endpoint": "http://10.0.0.1:9000", "access_key_id": "a", "secret_access_key": "b", "region": "r"}
    inner = ObjectStore(database, S3Blobs("bucket", options))
    public = ObjectStore(database, S3Blobs("bucket", options, prefix="bots/x", public_endpoint="https://cdn.example"))
    path = blob_path(SHORT, "a/ü?.png")
    assert path.endswith(".png")
    assert (await inner.url(SHORT, "a/ü?.png", 60)).startswith(f"http://10.0.0.1:9000/bucket/{path}?X-Amz-")
    url = await public.url(SHORT, "a/ü?.png", 60)
    assert url.startswith(f"https://cdn.example/bucket/bots/x/{path}?X-Amz-")
    assert "X-Amz-Expires=60&" in url
    assert "X-Amz-SignedHeaders=host&" in url
    with pytest.raises(NotFound, match="serves no objects"):
        await public.open_link(SHORT, "k", expires="1", signature="x")


def signature(url: str, secret: str) -> str:
    """What the owner of *secret* signs this URL with, for the host that it names (AWS Signature Version 4)."""
    parts = urlsplit(url)
    query = dict(pair.split("=") for pair in parts.query.split("&"))
    query.pop("X-Amz-Signature")
    canonical = "&".join(f"{name}={value}" for name, value in sorted(query.items()))
    asked = f"GET\n{parts.path}\n{canonical}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    scope = unquote(query["X-Amz-Credential"]).partition("/")[2]
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


@pytest.mark.parametrize("public", ["", "https://cdn.example", "http://localhost:5601"])
async def test_a_signature_is_good_at_the_address_that_is_given_out(database: Database, public: str) -> None:
    options = {"endpoint": "http://inner:9000", "access_key_id": "a", "secret_access_key": "s/+", "region": "us-east-1"}
    store = ObjectStore(database, S3Blobs("bucket", options, prefix="bots/x", public_endpoint=public))
    url = await store.url(SHORT, "a/ü?.png", 60)
    assert url.startswith(public or "http://inner:9000")
    assert f"X-Amz-Signature={signature(url, 's/+')}" in url


async def test_a_service_that_does_not_answer_is_unavailable(database: Database, bucket: S3Place) -> None:
    store = ObjectStore(database, bucket.blobs())
    await store.put(SHORT, "k", b"old")
    away = ObjectStore(database, S3Blobs(bucket.bucket, {**bucket.options, "endpoint": "http://127.0.0.1:1"}))
    for call in (away.get(SHORT, "k"), away.put(SHORT, "k", b"new")):
        with pytest.raises(StorageUnavailable, match="not available"):
            await call
    assert await store.get(SHORT, "k") == b"old"


class TestDoubt:
    """A service may carry out late what it has not answered: nothing is written over it meanwhile."""

    @pytest.fixture
    def place(self, bucket: S3Place) -> S3Place:
        return bucket

    async def test_a_write_that_was_not_answered_may_still_come(self, database: Database, place: S3Place) -> None:
        blobs = Fragile(place.blobs(doubt_s=1000.0))
        store = ObjectStore(database, blobs)
        await store.put(SHORT, "k", b"old")
        blobs.crash("before put")
        with pytest.raises(Crash):
            await store.put(SHORT, "k", b"new")
        assert await store.get(SHORT, "k") == b"old"
        for call in (store.put(SHORT, "k", b"third"), store.delete(SHORT, "k")):
            with pytest.raises(StorageUnavailable, match=r"earlier change of 'k' has not ended, try again in \d+ s"):
                await call
        await store.put(SHORT, "other", b"1")
        assert await keys(store) == ["k", "other"]
        await place.put_raw(blob_path(SHORT, "k"), b"new")
        assert await store.get(SHORT, "k") == b"new"
        await store.put(SHORT, "k", b"third")
        assert await store.get(SHORT, "k") == b"third"

    async def test_it_ends_with_time(self, database: Database, place: S3Place) -> None:
        blobs = Fragile(place.blobs(doubt_s=1000.0))
        store = ObjectStore(database, blobs)
        for key, step in (("first", "before put"), ("gone", "before delete")):
            if key == "gone":
                await store.put(SHORT, key, b"1")
            blobs.crash(step)
            with pytest.raises(Crash):
                await (store.put(SHORT, key, b"1") if key == "first" else store.delete(SHORT, key))
            with pytest.raises(NotFound):
                await store.get(SHORT, key)
            assert not await store.exists(SHORT, key)
            assert await keys(store) == []
            with pytest.raises(StorageUnavailable, match="has not ended"):
                await store.put(SHORT, key, b"2")
        await database.execute("UPDATE tenant_objects SET changing_since = changing_since - interval '1001 s'")
        assert await keys(store) == []
        await store.put(SHORT, "first", b"2")
        assert await store.get(SHORT, "first") == b"2"


# ---- what the reference has ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_a_tenants_objects_of_the_reference_are_taken_and_stay_there(
    kind: str, tmp_path: Path, s3_endpoint: str, database: Database
) -> None:
    reference: LocalPlace | S3Place = LocalPlace(tmp_path)
    if kind == "s3":
        reference = S3Place(s3_endpoint)
        await reference.open()
    there = {
        "12/a.txt": b"1",
        "12/d/e": b"22",
        "12/mine": b"theirs",
        "12/bad\\key": b"",
        "12/large": b"x" * (OBJECT_BYTES_MAX + 1),
        "123/other": b"3",
    }
    for path, data in there.items():
        await reference.put_raw(path, data)
    store = ObjectStore(database, LocalBlobs(tmp_path / "ours"))
    await store.put(SHORT, "mine", b"mine")
    adoption = ReferenceObjects(store, {OwnerType.GUILD: reference.blobs()}.__getitem__)
    found = await adoption.adopt(SHORT)
    assert (found.taken, found.here, sorted(found.left)) == (2, 1, ["bad\\key", "large"])
    assert found.left["large"].endswith("is longer than 524,288 bytes")
    assert (await adoption.adopt(SHORT))[:2] == (0, 3)
    assert {key: await store.get(SHORT, key) for key in await keys(store)} == {
        "a.txt": b"1",
        "d/e": b"22",
        "mine": b"mine",
    }
    assert await reference.raw() == there


# ---- what is told of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a/x.png", "image/png"),
        ("x.PNG", "image/png"),
        ("x.txt", "text/plain; charset=utf-8"),
        ("png", "application/octet-stream"),
        ("x.html", "application/octet-stream"),
        ("x.svg", "application/octet-stream"),
        ("x.js", "application/octet-stream"),
        ("x.png/y", "application/octet-stream"),
    ],
)
def test_no_type_is_told_of_what_a_browser_would_run(key: str, kind: str) -> None:
    assert content_type(key) == kind
