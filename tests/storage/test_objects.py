from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError, StorageRefused, StorageUnavailable
from pytw.limits import OBJECT_BYTES_MAX
from pytw.storage.objects import ObjectStore
from pytw.types import Id

SHORT = Id.guild(12345678901234567)
LONG = Id.guild(123456789012345678)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore.local(tmp_path / "deep" / "objects")


async def test_put_then_get_then_delete(objects: ObjectStore) -> None:
    await objects.put(SHORT, "a/b.txt", b"hello")
    assert await objects.get(SHORT, "a/b.txt") == b"hello"
    await objects.put(SHORT, "a/b.txt", b"")
    assert await objects.get(SHORT, "a/b.txt") == b""
    await objects.delete(SHORT, "a/b.txt")
    with pytest.raises(NotFound):
        await objects.get(SHORT, "a/b.txt")
    with pytest.raises(NotFound):
        await objects.delete(SHORT, "a/b.txt")


async def test_listing_shows_no_tenant_whose_id_starts_alike(objects: ObjectStore) -> None:
    await objects.put(SHORT, "mine", b"1")
    await objects.put(LONG, "theirs", b"2")
    await objects.put(Id.user(SHORT.snowflake), "theirs", b"3")
    assert [item.key for item in await objects.list(SHORT)] == ["mine"]


async def test_listing_is_recursive_sorted_and_gives_keys_that_get_takes(objects: ObjectStore) -> None:
    for key in ("b", "a/2", "a/1/x", "ab"):
        await objects.put(SHORT, key, key.encode())
    assert [item.key for item in await objects.list(SHORT)] == ["a/1/x", "a/2", "ab", "b"]
    assert [item.key for item in await objects.list(SHORT, "a")] == ["a/1/x", "a/2", "ab"]
    assert [item.key for item in await objects.list(SHORT, "a/")] == ["a/1/x", "a/2"]
    assert [item.key for item in await objects.list(SHORT, limit=2)] == ["a/1/x", "a/2"]
    for item in await objects.list(SHORT):
        assert await objects.get(SHORT, item.key) == item.key.encode()
        assert item.size == len(item.key)


async def test_nothing_there_is_an_empty_list(objects: ObjectStore) -> None:
    assert await objects.list(SHORT) == []
    assert await objects.list(SHORT, "a/b/c") == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "../x", "a/../../x", "a/./b", "a\0b", "a\\..\\b", "a\nb"]
)
async def test_key_that_could_leave_the_tenant_is_refused(objects: ObjectStore, key: str) -> None:
    for call in (objects.put(SHORT, key, b""), objects.get(SHORT, key), objects.delete(SHORT, key)):
        with pytest.raises(RequestError):
            await call


@pytest.mark.parametrize("key", ["sp ace", "per%2Fcent", "ünï", "a.b..c", "#?*[]{}", "x" * 200])
async def test_odd_keys_are_kept_as_they_are(objects: ObjectStore, key: str) -> None:
    await objects.put(SHORT, key, b"1")
    assert await objects.get(SHORT, key) == b"1"
    assert [item.key for item in await objects.list(SHORT)] == [key]


async def test_large_objects_and_long_keys_are_refused(objects: ObjectStore) -> None:
    await objects.put(SHORT, "k", b"x" * OBJECT_BYTES_MAX)
    with pytest.raises(LimitExceeded):
        await objects.put(SHORT, "k", b"x" * (OBJECT_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded):
        await objects.put(SHORT, "x" * 2049, b"")


async def test_readers_see_an_object_whole(objects: ObjectStore) -> None:
    """While it is written over and over."""
    bodies = {b"a" * 100_000, b"b" * 300_000}
    await objects.put(SHORT, "k", b"a" * 100_000)

    async def write() -> None:
        for body in sorted(bodies) * 10:
            await objects.put(SHORT, "k", body)

    writer = asyncio.create_task(write())
    while not writer.done():
        assert await objects.get(SHORT, "k") in bodies
    await writer


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefused):
        ObjectStore.local(tmp_path / "file" / "objects")


async def test_bucket_that_does_not_answer_is_unavailable() -> None:
    objects = ObjectStore.s3(
        "bucket",
        {
            "endpoint": "http://127.0.0.1:1",
            "access_key_id": "a",
            "secret_access_key": "b",
            "region": "us-east-1",
        },
    )
    with pytest.raises(StorageUnavailable):
        await objects.get(SHORT, "k")
