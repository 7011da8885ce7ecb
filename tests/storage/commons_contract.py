"""What every `workerdb.WorkerDb` promises of what is published and of objects. A twin gives the fixtures `db` and `staff`."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import orjson
import pytest

from pytw.errors import Conflict, LimitExceeded, NotFound, PytwError, RequestError
from pytw.limits import (
    GLOBAL_KV_DATA_BYTES_MAX,
    GLOBAL_KV_LONG_BYTES_MAX,
    GLOBAL_KV_SHORT_BYTES_MAX,
    GLOBAL_KV_VERSION_MAX,
    OBJECT_BYTES_MAX,
    OBJECT_KEY_BYTES_MAX,
    OBJECT_URL_S_MAX,
)
from pytw.storage.stores import Stores
from pytw.types import GlobalEntry, GlobalPage, GlobalRecord, Id
from pytw.workerdb import WorkerDb

GUILD = Id.guild(7 << 22)
USER = Id.user(7 << 22)
#: Of another worker than the two above.
OTHER = Id.guild(8 << 22)
ENTRY = GlobalEntry("s", "key", 1, "what it is", b'{"a":[1,null]}', b'{"b":[]}', public_data=True, long="more of it")


class Staff(Protocol):
    """What tenants cannot do."""

    async def review(self, scope: str, key: str, version: int, state: str) -> None: ...
    async def sell(self, entry: GlobalEntry, price: int) -> None: ...
    async def grant(self, entry: GlobalEntry, tenant: Id) -> None: ...


class StoresStaff:
    """`Staff` of the master's stores."""

    def __init__(self, stores: Stores) -> None:
        self._store = stores.global_kv
        self._staff = stores.global_staff

    async def review(self, scope: str, key: str, version: int, state: str) -> None:
        await self._staff.review(scope, key, version, state)

    async def grant(self, entry: GlobalEntry, tenant: Id) -> None:
        await self._staff.grant(entry.scope, entry.key, entry.version, tenant, granted_by="1")

    async def sell(self, entry: GlobalEntry, price: int) -> None:
        data = orjson.Fragment(entry.data)
        await self._store.create(
            entry.scope, entry.key, entry.version, owner_type="staff", owner_id="1", data=data, short="x", price=price
        )
        await self.review(entry.scope, entry.key, entry.version, "approved")


def shown(record: GlobalRecord | None) -> tuple[Any, ...]:
    assert record is not None
    return (record.key, record.version, record.owner_type, record.owner_id, record.long, record.review_state)


class CommonsContract:
    async def test_an_entry_is_seen_by_all_when_it_is_approved(self, db: WorkerDb, staff: Staff) -> None:
        await db.global_create(GUILD.key, ENTRY)
        for tenant in (GUILD, OTHER):
            assert await db.global_get(tenant.key, "s", "key", 1) is None
            assert await db.global_find(tenant.key, "s", "%%", limit=10) == GlobalPage([])
        await staff.review("s", "key", 1, "approved")
        for tenant in (GUILD, OTHER, USER):
            found = await db.global_get(tenant.key, "s", "key", 1)
            assert found is not None
            assert shown(found) == ("key", 1, "guild", GUILD.owner_id, "more of it", "approved")
            assert (found.scope, found.short, found.price) == ("s", "what it is", None)
            assert found.data is not None
            assert (orjson.loads(found.data), orjson.loads(found.public_metadata)) == ({"b": []}, {"a": [1, None]})
            assert not found.opaque
            (listed,) = (await db.global_find(tenant.key, "s", "%%", limit=10)).items
            assert listed == replace(found, long=None, data=None, public_metadata=listed.public_metadata)
        await staff.review("s", "key", 1, "denied")
        assert await db.global_get(GUILD.key, "s", "key", 1) is None

    async def test_private_data_is_opaque(self, db: WorkerDb, staff: Staff) -> None:
        await db.global_create(GUILD.key, replace(ENTRY, public_data=False))
        await staff.review("s", "key", 1, "approved")
        found = await db.global_get(OTHER.key, "s", "key", 1)
        assert found is not None
        assert found.opaque

    async def test_what_has_a_price_comes_without_its_data(self, db: WorkerDb, staff: Staff) -> None:
        await staff.sell(ENTRY, 5_000_000_000)
        found = await db.global_get(GUILD.key, "s", "key", 1)
        assert found is not None
        assert (found.price, found.opaque, found.data) == (5_000_000_000, True, None)

    async def test_who_has_bought_it_gets_the_data(self, db: WorkerDb, staff: Staff) -> None:
        await staff.sell(ENTRY, 5_000_000_000)
        await staff.grant(ENTRY, USER)
        for tenant, data in ((GUILD, None), (OTHER, None), (USER, {"b": []})):
            found = await db.global_get(tenant.key, "s", "key", 1)
            assert found is not None
            assert (found.opaque, found.data and orjson.loads(found.data)) == (True, data)
        await staff.review("s", "key", 1, "denied")
        assert await db.global_get(USER.key, "s", "key", 1) is None

    async def test_versions_are_immutable(self, db: WorkerDb) -> None:
        await db.global_create(GUILD.key, ENTRY)
        for tenant in (GUILD, OTHER):
            with pytest.raises(Conflict, match="version 1 of key exists already"):
                await db.global_create(tenant.key, replace(ENTRY, data=b"1"))
        await db.global_create(OTHER.key, replace(ENTRY, scope="t"))
        await db.global_create(OTHER.key, replace(ENTRY, version=2))

    async def test_find_is_like_and_pages(self, db: WorkerDb, staff: Staff) -> None:
        for key, version in (("abc", 2), ("abc", 1), ("abd", 1), ("xyz", 1)):
            await db.global_create(GUILD.key, replace(ENTRY, key=key, version=version))
            await staff.review("s", key, version, "approved")

        async def find(pattern: str, scope: str = "s") -> list[tuple[str, int]]:
            return [(r.key, r.version) for r in (await db.global_find(OTHER.key, scope, pattern, limit=10)).items]

        assert await find("%%") == [("abc", 1), ("abc", 2), ("abd", 1), ("xyz", 1)]
        assert await find("ab_") == [("abc", 1), ("abc", 2), ("abd", 1)]
        assert await find("x%") == [("xyz", 1)]
        assert await find("X%") == []
        assert await find("%%", "t") == []
        assert await find("abc\\") == []
        first = await db.global_find(OTHER.key, "s", "%%", limit=3)
        assert ([(r.key, r.version) for r in first.items], first.after) == (
            [("abc", 1), ("abc", 2), ("abd", 1)],
            "1:abd",
        )
        second = await db.global_find(OTHER.key, "s", "%%", limit=3, after=first.after)
        assert ([(r.key, r.version) for r in second.items], second.after) == ([("xyz", 1)], None)
        assert (await db.global_find(OTHER.key, "s", "%%", limit=4)).after is None
        for cursor in ("", "abc", "x:abc", "0:abc", "1:", "1:a b", "99999999999:abc", "-1:abc"):
            with pytest.raises(RequestError, match="not a cursor"):
                await db.global_find(OTHER.key, "s", "%%", limit=1, after=cursor)

    async def test_only_the_owner_deletes(self, db: WorkerDb, staff: Staff) -> None:
        await db.global_create(GUILD.key, ENTRY)
        await staff.review("s", "key", 1, "approved")
        for tenant in (OTHER, USER):
            with pytest.raises(NotFound, match="you have no version 1 of key"):
                await db.global_delete(tenant.key, "s", "key", 1)
        await db.global_delete(GUILD.key, "s", "key", 1)
        assert await db.global_get(GUILD.key, "s", "key", 1) is None
        with pytest.raises(NotFound):
            await db.global_delete(GUILD.key, "s", "key", 1)

    @pytest.mark.parametrize(
        ("more", "error", "words"),
        [
            *(
                ({"key": key}, RequestError, "not a key")
                for key in ("ab", ".abc", "abc.", "a b c", "a" * 65, "äbc", "")
            ),
            ({"version": 0}, RequestError, "version must be"),
            ({"version": GLOBAL_KV_VERSION_MAX + 1}, RequestError, "version must be"),
            ({"scope": ""}, RequestError, "Scope is empty"),
            ({"scope": "s" * 65}, LimitExceeded, "Scope length too long"),
            ({"scope": "s\0"}, RequestError, "NUL"),
            ({"short": "x" * (GLOBAL_KV_SHORT_BYTES_MAX + 1)}, LimitExceeded, "short length too long"),
            ({"long": "x" * (GLOBAL_KV_LONG_BYTES_MAX + 1)}, LimitExceeded, "long length too long"),
            ({"long": "\0"}, RequestError, "NUL"),
            ({"data": b'"%b"' % (b"x" * GLOBAL_KV_DATA_BYTES_MAX)}, LimitExceeded, "data length too long"),
            ({"data": rb'"a\\\u0000"'}, RequestError, "data contains a NUL"),
            ({"public_metadata": b'"%b"' % (b"x" * GLOBAL_KV_DATA_BYTES_MAX)}, LimitExceeded, "public_metadata length"),
        ],
    )
    async def test_what_cannot_be_published_is_refused_in_words(
        self, db: WorkerDb, more: dict[str, Any], error: type[PytwError], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            await db.global_create(GUILD.key, replace(ENTRY, **more))

    async def test_the_longest_entry_is_kept(self, db: WorkerDb, staff: Staff) -> None:
        text = b'"%b"' % (b"x" * (GLOBAL_KV_DATA_BYTES_MAX - 2))
        long = "x" * GLOBAL_KV_LONG_BYTES_MAX
        await db.global_create(GUILD.key, replace(ENTRY, key="a" * 64, data=text, public_metadata=text, long=long))
        await staff.review("s", "a" * 64, 1, "approved")
        found = await db.global_get(OTHER.key, "s", "a" * 64, 1)
        assert found is not None
        assert (found.data, found.public_metadata, found.long) == (text, text, long)

    async def test_text_that_looks_like_an_escaped_nul_is_published(self, db: WorkerDb, staff: Staff) -> None:
        await db.global_create(GUILD.key, replace(ENTRY, data=rb'"\\u0000"'))
        await staff.review("s", "key", 1, "approved")
        found = await db.global_get(GUILD.key, "s", "key", 1)
        assert found is not None
        assert found.data == rb'"\\u0000"'

    # ---- objects ---------------------------------------------------------------------------------------

    async def test_an_object_is_what_was_written_last(self, db: WorkerDb) -> None:
        for data in (b"hello", b"", b"\x00\xff" * 10):
            await db.object_put(GUILD.key, "a/b.txt", data)
            assert await db.object_get(GUILD.key, "a/b.txt") == data
            assert await db.object_exists(GUILD.key, "a/b.txt")
        await db.object_delete(GUILD.key, "a/b.txt")
        assert not await db.object_exists(GUILD.key, "a/b.txt")
        with pytest.raises(NotFound, match=re.escape("there is no object 'a/b.txt'")):
            await db.object_get(GUILD.key, "a/b.txt")
        await db.object_delete(GUILD.key, "a/b.txt")

    async def test_objects_of_others_are_not_there(self, db: WorkerDb) -> None:
        await db.object_put(GUILD.key, "k", b"mine")
        for tenant in (USER, OTHER):
            assert not await db.object_exists(tenant.key, "k")
            assert await db.object_list(tenant.key, "", limit=10) == []
            await db.object_put(tenant.key, "k", b"theirs")
            await db.object_delete(tenant.key, "k")
        assert await db.object_get(GUILD.key, "k") == b"mine"

    async def test_listing_shows_keys_as_the_tenant_knows_them(self, db: WorkerDb) -> None:
        for key in ("b", "a/2", "a/1/x", "ab", "sp ace", "per%2Fcent", "ünï"):
            await db.object_put(GUILD.key, key, key.encode())

        async def keys(prefix: str = "", limit: int = 100) -> list[str]:
            return [item.key for item in await db.object_list(GUILD.key, prefix, limit=limit)]

        assert await keys() == ["a/1/x", "a/2", "ab", "b", "per%2Fcent", "sp ace", "ünï"]
        assert await keys("a") == ["a/1/x", "a/2", "ab"]
        assert await keys("a/") == ["a/1/x", "a/2"]
        assert await keys("a/1") == ["a/1/x"]
        assert await keys("b/c") == await keys("c") == []
        assert await keys(limit=2) == ["a/1/x", "a/2"]
        page = await db.object_list(GUILD.key, "a", limit=2, after="a/1/x")
        assert [item.key for item in page] == ["a/2", "ab"]
        assert await db.object_list(GUILD.key, "a", limit=2, after="ab") == []
        for item in await db.object_list(GUILD.key, "", limit=100):
            assert (await db.object_get(GUILD.key, item.key), item.size) == (item.key.encode(), len(item.key.encode()))
            assert item.etag
            assert item.last_modified.tzinfo is not None

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "..", "../x", "a/../../x", "a/./b", "a\0b", "a\\b"])
    async def test_keys_that_could_leave_the_tenant_are_refused(self, db: WorkerDb, key: str) -> None:
        for call in (
            db.object_put(GUILD.key, key, b""),
            db.object_get(GUILD.key, key),
            db.object_exists(GUILD.key, key),
            db.object_delete(GUILD.key, key),
            db.object_url(GUILD.key, key, 60),
        ):
            with pytest.raises(RequestError, match="not a path of an object"):
                await call

    @pytest.mark.parametrize("prefix", ["/a", "a//", "../", "a/..", "."])
    async def test_prefixes_that_could_leave_the_tenant_are_refused(self, db: WorkerDb, prefix: str) -> None:
        with pytest.raises(RequestError, match="not a path of an object"):
            await db.object_list(GUILD.key, prefix, limit=1)

    async def test_bounds_are_named(self, db: WorkerDb) -> None:
        await db.object_put(GUILD.key, "k", b"x" * OBJECT_BYTES_MAX)
        assert len(await db.object_get(GUILD.key, "k")) == OBJECT_BYTES_MAX
        with pytest.raises(LimitExceeded, match=r"Data too large \(524,289 bytes, at most 524,288\)"):
            await db.object_put(GUILD.key, "k", b"x" * (OBJECT_BYTES_MAX + 1))
        longest = "/".join(["x" * 127] * 16)
        assert len(longest) == OBJECT_KEY_BYTES_MAX - 1
        await db.object_put(GUILD.key, longest, b"1")
        assert await db.object_get(GUILD.key, longest) == b"1"
        with pytest.raises(LimitExceeded, match=r"Path length too long \(2,049 bytes, at most 2,048\)"):
            await db.object_put(GUILD.key, longest + "yy", b"")

    async def test_writes_at_one_time_leave_one_of_them(self, db: WorkerDb) -> None:
        bodies = [bytes([n]) * 10_000 for n in range(20)]
        await asyncio.gather(*(db.object_put(GUILD.key, "k", body) for body in bodies))
        assert await db.object_get(GUILD.key, "k") in bodies

    async def test_url_names_the_object_and_lives_for_a_while(self, db: WorkerDb) -> None:
        url = await db.object_url(GUILD.key, "a/ü#?%.txt", 60)
        assert unquote(urlsplit(url).path).endswith(f"guilds/{GUILD.owner_id}/a/ü#?%.txt")
        assert await db.object_url(USER.key, "a/ü#?%.txt", 60) != url
        for life in (0, -1, OBJECT_URL_S_MAX + 1):
            with pytest.raises(RequestError, match="may live from 1 second to 7 days"):
                await db.object_url(GUILD.key, "k", life)
