"""What every `ObjectStore` promises, wherever its bytes lie. A twin gives the fixture `place`."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX, Limits
from pytw.storage.objectkeys import blob_path, folder_of, is_blob_name
from pytw.storage.objectrows import ObjectRows
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database
from pytw.types import Id
from tests.storage.objectplaces import Crash, Fragile, Place

SHORT = Id.guild(12)
LONG = Id.guild(123)
USER = Id.user(12)
ALL = (SHORT, LONG, USER)
MIB = 1 << 20


async def keys(store: ObjectStore, owner: Id = SHORT, prefix: str = "", **page: Any) -> list[str]:
    return [item.key for item in await store.list(owner, prefix, **page)]


async def used(database: Database, owner: Id = SHORT) -> tuple[int, int]:
    return (await ObjectRows(database, Limits()).usage(owner))[:2]


def small(**limits: int) -> Limits:
    return Limits(**{"objects_bytes_max": MIB, **limits})


class OverPlace:
    """A store over a place that is looked at afterwards."""

    @pytest.fixture
    def store(self, database: Database, place: Place) -> ObjectStore:
        return ObjectStore(database, place.blobs())

    @pytest.fixture(autouse=True)
    async def canary(self, place: Place):
        """Nothing changes that is not the tenants', and a tenant's folder is flat."""
        yield
        await place.check_canary()
        for path in await place.raw():
            folder, _, name = path.rpartition("/")
            assert folder in {folder_of(owner) for owner in ALL}
            assert is_blob_name(name)


class ObjectsContract(OverPlace):
    # ---- one object --------------------------------------------------------------------------------------

    @pytest.mark.weakness(39)
    async def test_the_first_upload_of_a_tenant_finds_an_empty_store(self, store: ObjectStore) -> None:
        await store.put(SHORT, "a/b.txt", b"hello")
        assert await store.get(SHORT, "a/b.txt") == b"hello"

    async def test_an_object_is_what_was_written_last(self, store: ObjectStore, database: Database) -> None:
        for data in (b"hello", b"", b"\x00\xff" * 10):
            await store.put(SHORT, "k", data)
            assert await store.get(SHORT, "k") == data
            assert await store.exists(SHORT, "k")
            assert await used(database) == (1, len(data))
        await store.delete(SHORT, "k")
        assert not await store.exists(SHORT, "k")
        for call in (store.get(SHORT, "k"), store.delete(SHORT, "k")):
            with pytest.raises(NotFound, match="there is no object 'k'"):
                await call
        assert await used(database) == (0, 0)

    async def test_what_is_deleted_leaves_no_bytes(self, store: ObjectStore, place: Place) -> None:
        await store.put(SHORT, "k", b"1")
        assert list(await place.raw()) == [blob_path(SHORT, "k")]
        await store.delete(SHORT, "k")
        assert await place.raw() == {}

    @pytest.mark.parametrize(
        "pair",
        [
            ("a", "a/b"),
            ("a/b/c", "a/b"),
            ("k", "K"),
            ("ü", "u\u0308"),
            ("x.png", "x.PNG"),
            ("a b", "a%20b"),
            ("x.new", "x"),
        ],
    )
    async def test_keys_that_look_alike_are_two(self, store: ObjectStore, pair: tuple[str, str]) -> None:
        for key in pair:
            await store.put(SHORT, key, key.encode())
        for key in pair:
            assert await store.get(SHORT, key) == key.encode()
        assert set(await keys(store)) == set(pair)
        await store.delete(SHORT, pair[0])
        assert await keys(store) == [pair[1]]

    @pytest.mark.parametrize(
        "key",
        ["sp ace", "per%2Fcent", "ünï", "a.b..c", "#?*[]{}", "...", "-rf", "~", "$HOME", "k#1", "x" * 2048, "ü/" * 682 + "a",
         "COM1", "a:b", "a|b<c>", "k.new", ".hidden", "f" * 64, "x.tar.gz", "x.<script>"],
    )  # fmt: skip
    async def test_odd_keys_are_kept_as_they_are(self, store: ObjectStore, place: Place, key: str) -> None:
        await store.put(SHORT, key, b"1")
        assert await store.get(SHORT, key) == b"1"
        assert await keys(store) == [key]
        (path,) = await place.raw()
        assert len(path) < 120

    @pytest.mark.parametrize(
        "key",
        ["", "/", "/a", "a/", "a//b", ".", "..", "../x", "../123/k", "a/../../x", "a/./b", "a\0b", "a\\..\\b", "a\nb",
         "a\x7f", "\ud800", "a\u2028b", "\U0010ffff"],
    )  # fmt: skip
    async def test_keys_that_could_leave_the_tenant_are_refused(
        self, store: ObjectStore, place: Place, key: str
    ) -> None:
        for call in (
            store.put(SHORT, key, b""),
            store.get(SHORT, key),
            store.exists(SHORT, key),
            store.delete(SHORT, key),
            store.url(SHORT, key, 60),
        ):
            with pytest.raises(RequestError, match="not a path of an object"):
                await call
        assert await place.raw() == {}

    async def test_bounds_are_exact(self, store: ObjectStore) -> None:
        await store.put(SHORT, "k", b"x" * OBJECT_BYTES_MAX)
        assert len(await store.get(SHORT, "k")) == OBJECT_BYTES_MAX
        with pytest.raises(LimitExceeded, match="Data too large"):
            await store.put(SHORT, "k", b"x" * (OBJECT_BYTES_MAX + 1))
        with pytest.raises(LimitExceeded, match="Path length too long"):
            await store.put(SHORT, "x" * (OBJECT_KEY_BYTES_MAX + 1), b"")
        assert len(await store.get(SHORT, "k")) == OBJECT_BYTES_MAX

    # ---- tenants -----------------------------------------------------------------------------------------

    @pytest.mark.weakness(11)
    async def test_a_listing_shows_no_tenant_whose_id_starts_alike(self, store: ObjectStore) -> None:
        for owner in ALL:
            await store.put(owner, f"of {owner.owner_type.value} {owner.owner_id}", b"1")
        assert await keys(store, SHORT) == ["of guild 12"]
        assert await keys(store, LONG) == ["of guild 123"]
        assert await keys(store, USER) == ["of user 12"]

    async def test_tenants_have_nothing_of_each_other(self, store: ObjectStore, database: Database) -> None:
        for owner in ALL:
            await store.put(owner, "k", folder_of(owner).encode())
        await store.delete(SHORT, "k")
        assert await keys(store, SHORT) == []
        for owner in (LONG, USER):
            assert await store.get(owner, "k") == folder_of(owner).encode()
            assert await used(database, owner) == (1, len(folder_of(owner)))

    # ---- listing -----------------------------------------------------------------------------------------

    async def test_listing_is_recursive_and_in_the_order_of_bytes(self, store: ObjectStore) -> None:
        everything = sorted(
            ["b", "a/2", "a/1/x", "ab", "a", "Z", "é", "\U0001f600", "\uffee", "a-", "a0"], key=str.encode
        )
        for key in everything:
            await store.put(SHORT, key, key.encode())
        found = await store.list(SHORT)
        assert [item.key for item in found] == everything
        for item in found:
            data = await store.get(SHORT, item.key)
            assert (item.size, item.etag) == (len(data), f'"{hashlib.sha256(data).hexdigest()[:32]}"')
            assert item.last_modified.tzinfo is not None
        assert await keys(store, prefix="a") == [key for key in everything if key.startswith("a")]
        assert await keys(store, prefix="a/") == ["a/1/x", "a/2"]
        assert await keys(store, prefix="a/1/x") == ["a/1/x"]
        assert await keys(store, prefix="\U0001f600") == ["\U0001f600"]
        assert await keys(store, prefix="c") == await keys(store, prefix="a/1/x/y") == []

    async def test_a_prefix_stands_for_itself(self, store: ObjectStore) -> None:
        for key in ("a_c", "abc", "100%", "1000", "%", "_"):
            await store.put(SHORT, key, b"")
        assert await keys(store, prefix="a_") == ["a_c"]
        assert await keys(store, prefix="100%") == ["100%"]
        assert await keys(store, prefix="%") == ["%"]
        assert await keys(store, prefix="_") == ["_"]
        with pytest.raises(RequestError):
            await store.list(SHORT, "a\\")

    async def test_pages_show_every_object_once(self, store: ObjectStore) -> None:
        everything = [f"d/{number:02}" for number in range(7)]
        for key in [*everything, "c", "e"]:
            await store.put(SHORT, key, b"")
        found: list[str] = []
        after = None
        while page := await keys(store, prefix="d/", limit=3, after=after):
            found += page
            after = page[-1]
            if len(found) == 3:
                # What comes or goes in between does not move the others.
                await store.delete(SHORT, "d/01")
                await store.put(SHORT, "d/00x", b"")
        assert found == everything
        assert await keys(store, after="a") == ["c", "d/00", "d/00x", *everything[2:], "e"]
        assert await keys(store, prefix="d/", after="z") == []
        for wrong in ({"limit": 0}, {"after": "../x"}, {"after": "a\0"}):
            with pytest.raises(RequestError):
                await store.list(SHORT, **wrong)

    # ---- room --------------------------------------------------------------------------------------------

    async def test_room_is_exact_to_the_byte(self, database: Database, place: Place) -> None:
        store, half = ObjectStore(database, place.blobs(), small()), MIB // 2
        for key in ("a", "b"):
            await store.put(SHORT, key, b"x" * half)
        assert await used(database) == (2, MIB)
        with pytest.raises(LimitExceeded, match=r"full: with 'c' it would hold 1,048,577 bytes, more than 1,048,576"):
            await store.put(SHORT, "c", b"x")
        assert await used(database) == (2, MIB)
        await store.put(SHORT, "empty", b"")
        await store.put(SHORT, "a", b"y" * half)
        await store.put(SHORT, "a", b"x" * (half - 1))
        await store.put(SHORT, "c", b"x")
        with pytest.raises(LimitExceeded):
            await store.put(SHORT, "a", b"x" * half)
        await store.delete(SHORT, "b")
        await store.put(SHORT, "d", b"x" * half)
        await store.put(LONG, "a", b"x" * half)
        assert await used(database) == (4, MIB)

    async def test_files_are_counted(self, database: Database, place: Place) -> None:
        store = ObjectStore(database, place.blobs(), small(objects_max=2))
        await store.put(SHORT, "a", b"")
        await store.put(SHORT, "d/b", b"")
        with pytest.raises(LimitExceeded, match=r"with 'c' it would hold more than 2 files \(limits.objects_max\)"):
            await store.put(SHORT, "c", b"")
        await store.put(SHORT, "a", b"again")
        await store.delete(SHORT, "a")
        await store.put(SHORT, "c", b"")

    async def test_what_is_over_a_lowered_bound_may_shrink(self, database: Database, place: Place) -> None:
        store = ObjectStore(database, place.blobs())
        for key in "abc":
            await store.put(SHORT, key, b"x" * OBJECT_BYTES_MAX)
        store = ObjectStore(database, place.blobs(), small(objects_max=1))
        await store.put(SHORT, "a", b"x" * 10)
        with pytest.raises(LimitExceeded):
            await store.put(SHORT, "a", b"x" * 11)
        assert await store.get(SHORT, "a") == b"x" * 10

    # ---- at one time -------------------------------------------------------------------------------------

    async def test_writers_at_one_time_leave_one_of_them(self, store: ObjectStore, database: Database) -> None:
        bodies = [bytes([n]) * 1_000 * n for n in range(1, 13)]
        await asyncio.gather(*(store.put(SHORT, "k", body) for body in bodies))
        left = await store.get(SHORT, "k")
        assert left in bodies
        assert await used(database) == (1, len(left))

    async def test_writers_at_one_time_do_not_pass_the_bounds(self, database: Database, place: Place) -> None:
        store = ObjectStore(database, place.blobs(), small(objects_max=3))
        ended = await asyncio.gather(
            *(store.put(SHORT, f"k{n}", b"x") for n in range(8)),
            *(store.put(LONG, f"k{n}", b"x" * (MIB // 2)) for n in range(4)),
            return_exceptions=True,
        )
        assert [type(end) for end in ended[:8]].count(LimitExceeded) == 5
        assert [type(end) for end in ended[8:]].count(LimitExceeded) == 2
        assert (await used(database), await used(database, LONG)) == ((3, 3), (2, MIB))

    async def test_readers_see_an_object_whole(self, store: ObjectStore) -> None:
        bodies = [b"a" * 100_000, b"b" * 300_000]
        await store.put(SHORT, "k", bodies[0])

        async def write() -> None:
            for body in bodies * 4:
                await store.put(SHORT, "k", body)

        writer = asyncio.create_task(write())
        while not writer.done():
            assert await store.get(SHORT, "k") in bodies
            assert await store.exists(SHORT, "k")
            assert await keys(store) == ["k"]
        await writer

    async def test_writing_and_deleting_at_one_time_end_in_one_of_both(
        self, store: ObjectStore, place: Place, database: Database
    ) -> None:
        await store.put(SHORT, "k", b"0")
        calls = [store.put(SHORT, "k", b"1"), store.delete(SHORT, "k"), store.put(SHORT, "k", b"22")] * 3
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ended} <= {type(None), NotFound}
        there = await keys(store)
        assert len(await place.raw()) == len(there) == (await used(database))[0]
        if there:
            assert await store.get(SHORT, "k") in (b"1", b"22")

    # ---- URLs --------------------------------------------------------------------------------------------

    async def test_a_url_shows_what_the_key_holds_now(self, store: ObjectStore, place: Place) -> None:
        key = "a/ü #?%.png"
        await store.put(SHORT, key, b"1")
        url = await store.url(SHORT, key, 60)
        assert (await place.fetch(store, url))[0] == b"1"
        await store.put(SHORT, key, b"2")
        data, shown_as = await place.fetch(store, url)
        assert data == b"2"
        assert shown_as in ("image/png", "")
        assert await store.url(LONG, key, 60) != url
        for life in (0, -1, 7 * 86_400 + 1):
            with pytest.raises(RequestError, match="may live from 1 second to 7 days"):
                await store.url(SHORT, key, life)

    # ---- objects of before -------------------------------------------------------------------------------

    async def test_objects_without_rows_are_adopted(self, store: ObjectStore, place: Place, database: Database) -> None:
        old = {"a.txt": b"1", "d/e/f": b"22", "ünï per%2Fcent": b""}
        for key, data in old.items():
            await place.put_raw(f"{folder_of(SHORT)}/{key}", data)
        await place.put_raw(f"{folder_of(LONG)}/theirs", b"333")
        assert await keys(store) == sorted(old, key=str.encode)
        assert {key: await store.get(SHORT, key) for key in old} == old
        assert await used(database) == (3, 3)
        assert await store.get(LONG, "theirs") == b"333"

    async def test_adoption_goes_on_after_a_crash(self, database: Database, place: Place) -> None:
        for key in "abcd":
            await place.put_raw(f"{folder_of(SHORT)}/{key}", key.encode())
        blobs = Fragile(place.blobs())
        for step in ("before put", "after put", "before delete", "after delete", "before put"):
            blobs.crash(step)
            with pytest.raises(Crash):
                await ObjectStore(database, blobs).exists(SHORT, "a")
        assert await keys(ObjectStore(database, blobs)) == list("abcd")
        assert await used(database) == (4, 4)
        # What is put there later is not looked for again.
        store = ObjectStore(database, blobs)
        late = f"{folder_of(SHORT)}/late"
        await place.put_raw(late, b"1")
        await store.put(SHORT, "e", b"5")
        assert await keys(ObjectStore(database, place.blobs())) == list("abcde")
        await place.delete_raw(late)
