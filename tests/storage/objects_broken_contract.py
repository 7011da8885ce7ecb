"""What every `ObjectStore` keeps when something breaks: in the middle of a change, in the bytes, or between it and its place."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import pytest

from pytw.errors import ContentDamaged, LimitExceeded, NotFound, StorageUnavailable
from pytw.limits import OBJECT_BYTES_MAX
from pytw.storage.objectkeys import blob_path
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database
from tests.storage.objectplaces import Crash, Fragile, Place
from tests.storage.objects_contract import LONG, MIB, SHORT, OverPlace, keys, small, used


class BrokenObjectsContract(OverPlace):
    # ---- crashes -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("ask", ["get", "list", "exists", "put", "delete"])
    @pytest.mark.parametrize("old", [None, b"old", b"newer"])
    @pytest.mark.parametrize("step", ["before put", "after put"])
    async def test_a_write_that_breaks_off_has_happened_or_not(
        self, database: Database, place: Place, step: str, old: bytes | None, ask: str
    ) -> None:
        """And is settled by whoever comes next, after a restart."""
        blobs = Fragile(place.blobs())
        store = ObjectStore(database, blobs)
        if old is not None:
            await store.put(SHORT, "k", old)
        blobs.crash(step)
        with pytest.raises(Crash):
            await store.put(SHORT, "k", b"newer")
        assert (await used(database))[1] == 5
        store = ObjectStore(database, place.blobs())
        now = b"newer" if step == "after put" else old
        match ask:
            case "put":
                await store.put(SHORT, "k", b"12")
                now = b"12"
            case "delete":
                try:
                    await store.delete(SHORT, "k")
                except NotFound:
                    assert now is None
                now = None
            case "list":
                assert await keys(store) == ([] if now is None else ["k"])
            case "exists":
                assert await store.exists(SHORT, "k") is (now is not None)
        if now is None:
            with pytest.raises(NotFound):
                await store.get(SHORT, "k")
        else:
            assert await store.get(SHORT, "k") == now
        assert await used(database) == ((0, 0) if now is None else (1, len(now)))
        assert list((await place.raw()).values()) == ([] if now is None else [now])

    @pytest.mark.parametrize("ask", ["get", "list", "exists", "put", "delete"])
    @pytest.mark.parametrize("step", ["before delete", "after delete"])
    async def test_a_deletion_that_breaks_off_is_ended_by_the_next(
        self, database: Database, place: Place, step: str, ask: str
    ) -> None:
        blobs = Fragile(place.blobs())
        store = ObjectStore(database, blobs)
        await store.put(SHORT, "k", b"old")
        blobs.crash(step)
        with pytest.raises(Crash):
            await store.delete(SHORT, "k")
        store = ObjectStore(database, place.blobs())
        match ask:
            case "get" | "delete":
                with pytest.raises(NotFound):
                    await getattr(store, ask)(SHORT, "k")
            case "list":
                assert await keys(store) == []
            case "exists":
                assert not await store.exists(SHORT, "k")
            case "put":
                await store.put(SHORT, "k", b"new")
                assert await store.get(SHORT, "k") == b"new"
                await store.delete(SHORT, "k")
        assert await used(database) == (0, 0)
        assert await place.raw() == {}

    async def test_a_write_that_broke_off_takes_room_until_it_is_settled(
        self, database: Database, place: Place
    ) -> None:
        blobs = Fragile(place.blobs())
        store, half = ObjectStore(database, blobs, small(objects_max=3)), MIB // 2
        for key in ("a", "b"):
            await store.put(SHORT, key, b"x" * (half - 10))
        blobs.crash("before put")
        with pytest.raises(Crash):
            await store.put(SHORT, "b", b"x" * half)
        assert await used(database) == (2, MIB - 10)
        blobs.crash("before put")
        with pytest.raises(Crash):
            await store.put(SHORT, "c", b"x" * 10)
        assert await used(database) == (3, MIB)
        # A refusal looks first: neither of the two has happened.
        await store.put(SHORT, "d", b"x" * 20)
        with pytest.raises(LimitExceeded):
            await store.put(SHORT, "e", b"x")
        assert await used(database) == (3, MIB)
        assert await keys(store) == ["a", "b", "d"]

    # ---- bytes that are not what they were ---------------------------------------------------------------

    async def test_a_flipped_byte_is_an_error_and_never_wrong_bytes(
        self, store: ObjectStore, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.put(SHORT, "a/k.txt", b"some bytes")
        await store.put(SHORT, "other", b"fine")
        path = blob_path(SHORT, "a/k.txt")
        await place.put_raw(path, b"some bytfs")
        with caplog.at_level(logging.ERROR):
            with pytest.raises(ContentDamaged, match=r"the file 'a/k\.txt' is damaged"):
                await store.get(SHORT, "a/k.txt")
        told = caplog.text
        assert path in told
        assert hashlib.sha256(b"some bytes").hexdigest() in told
        assert hashlib.sha256(b"some bytfs").hexdigest() in told
        assert await store.get(SHORT, "other") == b"fine"
        assert await keys(store) == ["a/k.txt", "other"]
        await store.put(SHORT, "a/k.txt", b"some bytes")
        assert await store.get(SHORT, "a/k.txt") == b"some bytes"

    @pytest.mark.parametrize("data", [None, b"", b"1234", b"x" * (OBJECT_BYTES_MAX + 1)])
    async def test_what_is_gone_or_of_another_size_is_damaged(
        self, store: ObjectStore, place: Place, data: bytes | None
    ) -> None:
        await store.put(SHORT, "k", b"123")
        path = blob_path(SHORT, "k")
        await (place.delete_raw(path) if data is None else place.put_raw(path, data))
        with pytest.raises(ContentDamaged):
            await store.get(SHORT, "k")
        assert await store.exists(SHORT, "k")
        await store.delete(SHORT, "k")
        assert await place.raw() == {}

    async def test_damage_under_a_write_that_broke_off_is_told(self, database: Database, place: Place) -> None:
        blobs = Fragile(place.blobs())
        store = ObjectStore(database, blobs)
        await store.put(SHORT, "k", b"old")
        blobs.crash("before put")
        with pytest.raises(Crash):
            await store.put(SHORT, "k", b"new")
        await place.put_raw(blob_path(SHORT, "k"), b"odd")
        with pytest.raises(ContentDamaged):
            await store.get(SHORT, "k")
        await store.put(SHORT, "k", b"new")
        assert await store.get(SHORT, "k") == b"new"

    # ---- slow, and away ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("call", ["put", "delete", "get"])
    async def test_a_slow_store_is_an_error_in_time_and_nothing_is_lost(
        self, database: Database, place: Place, call: str
    ) -> None:
        held, blobs = asyncio.Event(), Fragile(place.blobs())

        async def hold() -> None:
            await held.wait()

        await ObjectStore(database, place.blobs()).put(SHORT, "k", b"old")
        store = ObjectStore(database, blobs, call_s=0.2)
        blobs.before[call] = hold
        asked = {"put": (b"new",)}.get(call, ())
        with pytest.raises(StorageUnavailable, match="did not answer within"):
            await getattr(store, call)(SHORT, "k", *asked)
        # The tenant's next changes wait for this one, and nobody else's do.
        if call != "get":
            with pytest.raises(StorageUnavailable, match="did not answer within"):
                await store.put(SHORT, "other", b"")
        await ObjectStore(database, place.blobs()).put(LONG, "k", b"1")
        held.set()
        await store.close()
        again = ObjectStore(database, place.blobs())
        if call == "delete":
            assert await keys(again) == []
        else:
            assert await again.get(SHORT, "k") == (b"new" if call == "put" else b"old")
            assert await keys(again) == ["k"]

    async def test_who_gives_up_does_not_stop_what_is_under_way(self, database: Database, place: Place) -> None:
        held, reached, blobs = asyncio.Event(), asyncio.Event(), Fragile(place.blobs())

        async def hold() -> None:
            reached.set()
            await held.wait()

        blobs.before["put"] = hold
        store = ObjectStore(database, blobs)
        writing = asyncio.create_task(store.put(SHORT, "k", b"1"))
        await reached.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        reading = asyncio.create_task(store.get(SHORT, "k"))
        held.set()
        assert await reading == b"1"

    async def test_a_store_that_is_away_loses_nothing(self, store: ObjectStore, place: Place) -> None:
        await store.put(SHORT, "k", b"old")
        async with place.gone():
            for call in (store.get(SHORT, "k"), store.put(SHORT, "k", b"new"), store.delete(SHORT, "k")):
                with pytest.raises(StorageUnavailable):
                    await call
            with pytest.raises(StorageUnavailable):
                await store.put(SHORT, "first", b"1")
        assert await store.get(SHORT, "k") == b"old"
        assert await keys(store) == ["k"]
