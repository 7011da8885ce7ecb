from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError, StorageRefused, StorageUnavailable, Unavailable
from pytw.limits import OBJECT_BYTES_MAX, Limits
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


def small(directory: Path, **limits: int) -> ObjectStore:
    return ObjectStore.local(directory, limits=Limits(**limits))


async def test_a_full_store_takes_nothing_more_but_what_shrinks(tmp_path: Path) -> None:
    objects, half = small(tmp_path, objects_bytes_max=1 << 20), 1 << 19
    for key in ("a", "b"):
        await objects.put(SHORT, key, b"x" * half)
    for key, data in (("c", b"x"), ("a", b"x" * half + b"x")):
        with pytest.raises(LimitExceeded):
            await objects.put(SHORT, key, data)
    with pytest.raises(LimitExceeded, match=r"full: with 'c' it would hold 1,048,577 bytes, more than 1,048,576"):
        await objects.put(SHORT, "c", b"x")
    await objects.put(SHORT, "empty", b"")
    await objects.put(SHORT, "a", b"x" * (half - 1))
    await objects.put(SHORT, "c", b"x")
    await objects.delete(SHORT, "b")
    await objects.put(SHORT, "d", b"x" * half)
    await objects.put(LONG, "a", b"x" * half)


async def test_files_are_counted_and_counted_again_after_a_restart(tmp_path: Path) -> None:
    objects = small(tmp_path, objects_max=2)
    await objects.put(SHORT, "a", b"")
    await objects.put(SHORT, "d/b", b"")
    for store in (objects, small(tmp_path, objects_max=2)):
        with pytest.raises(LimitExceeded, match=r"with 'c' it would hold more than 2 files \(limits.objects_max\)"):
            await store.put(SHORT, "c", b"")
        await store.put(SHORT, "a", b"again")
    again = small(tmp_path, objects_max=2)
    with pytest.raises(NotFound):
        await again.delete(SHORT, "c")
    await again.delete(SHORT, "a")
    await again.put(SHORT, "c", b"")


async def test_writes_at_one_time_do_not_pass_the_bound(tmp_path: Path) -> None:
    objects = small(tmp_path, objects_max=3)
    writes = [objects.put(SHORT, f"k{n}", b"x") for n in range(10)]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(end) for end in ended].count(LimitExceeded) == 7
    assert len(await objects.list(SHORT)) == 3


async def test_after_a_failed_write_the_tenant_is_measured_anew(tmp_path: Path) -> None:
    objects = small(tmp_path, objects_max=2)
    await objects.put(SHORT, "a", b"")
    with pytest.raises(Conflict):
        await objects.put(SHORT, "a/b", b"")
    await objects.put(SHORT, "b", b"")
    with pytest.raises(LimitExceeded):
        await objects.put(SHORT, "c", b"")


async def test_bucket_signs_urls_for_its_public_endpoint() -> None:
    options = {
        "endpoint": "http://10.0.0.1:9000",
        "access_key_id": "a",
        "secret_access_key": "b",
        "region": "us-east-1",
    }
    inner = ObjectStore.s3("bucket", options)
    public = ObjectStore.s3("bucket", options, prefix="bots/x", public_endpoint="https://cdn.example")
    assert (await inner.url(SHORT, "a/ü?", 60)).startswith(
        f"http://10.0.0.1:9000/bucket/guilds/{SHORT.owner_id}/a/%C3%BC%3F?X-Amz-"
    )
    url = await public.url(SHORT, "k", 60)
    assert url.startswith(f"https://cdn.example/bucket/bots/x/guilds/{SHORT.owner_id}/k?X-Amz-")
    assert "X-Amz-Expires=60&" in url
    with pytest.raises(NotFound, match="serves no objects"):
        await public.open_link(SHORT, "k", expires="1", signature="x")


async def test_store_without_an_address_gives_no_urls(objects: ObjectStore) -> None:
    with pytest.raises(Unavailable, match="gives no URLs"):
        await objects.url(SHORT, "k", 60)
    with pytest.raises(NotFound):
        await objects.open_link(SHORT, "k", expires="1", signature="x")


async def test_errors_name_no_path_of_this_machine(objects: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "deep/objects/users").symlink_to("users")
    with pytest.raises(StorageUnavailable) as refused:
        await objects.put(Id.user(1), "k", b"1")
    assert str(tmp_path) not in refused.value.detail


async def test_an_object_that_somebody_else_made_too_large_is_refused(objects: ObjectStore, tmp_path: Path) -> None:
    await objects.put(SHORT, "k", b"1")
    (tmp_path / "deep/objects/guilds" / SHORT.owner_id / "k").write_bytes(b"x" * (OBJECT_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded, match="Data too large"):
        await objects.get(SHORT, "k")
