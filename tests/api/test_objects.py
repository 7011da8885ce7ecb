"""Objects over HTTP: signed URLs of objects on disk, and what operators do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from pytw.limits import OBJECT_BYTES_MAX, PUBLIC_OBJECT_READS_MAX, PUBLIC_READS_WAITING_MAX
from pytw.storage.objectadopt import ReferenceObjects
from pytw.storage.objectblobs import LocalBlobs
from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database, open_pool
from pytw.storage.postgres import EmbeddedPostgres
from pytw.types import Id
from tests.api.conftest import Api
from tests.conftest import fresh_database

OWNER = Id.guild(5)
ODD = ["k", "a/b/c.html", "sp ace", "per%2Fcent", "ünï", "#?*[]{}&=+;", "a'\"b", "...", "x" * 200]


@pytest.fixture(scope="module")
def objects_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    yield from fresh_database(postgres_server)


@pytest.fixture
async def database(objects_url: str) -> AsyncIterator[Database]:
    found = await open_pool(objects_url, 2)
    await found.execute("DELETE FROM tenant_objects")
    yield found
    await found.close()


@pytest.fixture
def objects(api: Api, tmp_path: Path, database: Database) -> ObjectStore:
    links = ObjectLinks(b"k" * 32, f"http://127.0.0.1:{api.port}")
    api.context.objects = made = ObjectStore(database, LocalBlobs(tmp_path / "objects", links))
    return made


async def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, aiohttp.typedefs.LooseHeaders]:
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True), headers=headers) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize("key", ODD)
async def test_whoever_has_the_url_reads_the_bytes(objects: ObjectStore, key: str) -> None:
    await objects.put(OWNER, key, b"<script>")
    status, body, headers = await fetch(await objects.url(OWNER, key, 60))
    assert (status, body) == (200, b"<script>")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"


async def test_urls_of_nothing_are_not_found_and_others_refused(objects: ObjectStore, api: Api) -> None:
    await objects.put(OWNER, "k", b"1")
    await objects.put(Id.guild(6), "k", b"2")
    good = await objects.url(OWNER, "k", 60)
    assert (await fetch(await objects.url(OWNER, "missing", 60)))[0] == 404
    for bad in (
        good.replace("/guilds/5/", "/guilds/6/"),
        good.replace("/k?", "/j?"),
        good.replace("expires=", "expires=1"),
        good[:-1] + ("0" if good[-1] != "0" else "1"),
        good.partition("?")[0],
        good.replace("/k?", "/x/..%2Fk?"),
    ):
        assert (await fetch(bad))[0] == 403, bad
    for bad in (good.replace("guilds", "staff"), good.replace("/guilds/5/", "/guilds/05/"), good.replace("/k?", "/?")):
        assert (await fetch(bad))[0] == 404, bad
    api.context.objects = None
    assert (await fetch(good))[0] == 404


async def test_a_url_outlives_a_restart_and_not_its_object(
    objects: ObjectStore, api: Api, tmp_path: Path, database: Database
) -> None:
    await objects.put(OWNER, "k", b"1")
    url = await objects.url(OWNER, "k", 60)
    api.context.objects = again = ObjectStore(database, LocalBlobs(tmp_path / "objects", ObjectLinks(b"k" * 32, "")))
    assert (await fetch(url))[:2] == (200, b"1")
    await again.delete(OWNER, "k")
    assert (await fetch(url))[0] == 404


async def test_pictures_are_shown_as_such_and_pages_are_not(objects: ObjectStore) -> None:
    for key, kind in (
        ("x.png", "image/png"),
        ("x.html", "application/octet-stream"),
        ("x.svg", "application/octet-stream"),
    ):
        await objects.put(OWNER, key, b"<script>")
        headers = (await fetch(await objects.url(OWNER, key, 60)))[2]
        assert headers["Content-Type"] == kind
        assert headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{key}"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "status", "body", "range_"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=x", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
    ],
)
async def test_a_part_may_be_asked_for(
    objects: ObjectStore, asked: str, status: int, body: bytes, range_: str | None
) -> None:
    await objects.put(OWNER, "k", b"0123456789")
    found = await fetch(await objects.url(OWNER, "k", 60), {"Range": asked})
    assert (found[0], found[1], found[2].get("Content-Range")) == (status, body, range_)


async def test_damage_is_told_as_unavailable(objects: ObjectStore, tmp_path: Path) -> None:
    await objects.put(OWNER, "k", b"good")
    (file,) = (tmp_path / "objects/guilds/5").iterdir()
    file.write_bytes(b"evil")
    status, body, _ = await fetch(await objects.url(OWNER, "k", 60))
    assert status == 503
    assert b"content_damaged" in body
    assert b"evil" not in body


# ---- operators -------------------------------------------------------------------------------------------


def place(key: str, owner: str = "guilds/5") -> URL:
    return URL(f"/{owner}/objects/{quote(key, safe='')}", encoded=True)


@pytest.mark.parametrize("key", ODD)
async def test_operators_put_get_and_delete(objects: ObjectStore, api: Api, key: str) -> None:
    data = b"\x00\xff{"
    octets = {"Content-Type": "application/octet-stream"}
    assert await api.call("PUT", place(key), data, headers=octets) == (200, {"key": key, "size": 3})
    assert await objects.get(OWNER, key) == data
    async with api.control.get(place(key)) as response:
        assert (response.status, await response.read()) == (200, data)
        assert response.headers["Content-Disposition"].startswith("attachment")
    assert await api.call("DELETE", place(key)) == (200, {"key": key, "removed": True})
    for method in ("GET", "DELETE"):
        status, answer = await api.call(method, place(key))
        assert (status, answer["code"]) == (404, "not_found")


async def test_operators_page_through_a_listing(objects: ObjectStore, api: Api) -> None:
    for key in ("a/1", "a/2", "a/3", "b"):
        await objects.put(OWNER, key, b"1")
    await objects.put(Id.user(5), "a/4", b"1")
    status, page = await api.call("GET", "/guilds/5/objects?prefix=a/&limit=2")
    assert status == 200
    assert [item["key"] for item in page["objects"]] == ["a/1", "a/2"]
    assert set(page["objects"][0]) == {"key", "size", "last_modified", "etag"}
    assert page["after"] == "a/2"
    _, page = await api.call("GET", "/guilds/5/objects?prefix=a/&limit=2&after=a/2")
    assert ([item["key"] for item in page["objects"]], page["after"]) == (["a/3"], None)
    _, page = await api.call("GET", "/users/5/objects")
    assert [item["key"] for item in page["objects"]] == ["a/4"]
    for wrong in ("limit=0", "limit=1001", "limit=x", "prefix=..", "after=a//b"):
        assert (await api.call("GET", f"/guilds/5/objects?{wrong}"))[0] == 400


async def test_operators_take_over_what_the_reference_has(objects: ObjectStore, api: Api, tmp_path: Path) -> None:
    assert (await api.call("POST", "/guilds/5/objects"))[0] == 503
    (tmp_path / "old/5").mkdir(parents=True)
    (tmp_path / "old/5/k").write_bytes(b"1")
    api.context.reference_objects = ReferenceObjects(objects, lambda kind: LocalBlobs(tmp_path / "old"))
    assert await api.call("POST", "/guilds/5/objects") == (200, {"taken": 1, "here": 0, "left": {}})
    assert await objects.get(OWNER, "k") == b"1"
    assert (await api.call("POST", "/guilds/5/objects", tcp=True))[0] == 401


async def test_only_root_users_see_a_tenants_objects(objects: ObjectStore, api: Api) -> None:
    await objects.put(OWNER, "k", b"1")
    for method, path in (("GET", "/guilds/5/objects"), *((m, "/guilds/5/objects/k") for m in ("GET", "PUT", "DELETE"))):
        assert (await api.call(method, path, tcp=True))[0] == 401
        assert (await api.call(method, path, tcp=True, headers={"Authorization": "user-token"}))[0] == 403
    assert await objects.get(OWNER, "k") == b"1"


async def test_a_body_is_bounded_and_comes_as_it_is(objects: ObjectStore, api: Api) -> None:
    octets = {"Content-Type": "application/octet-stream"}

    async def drip():
        for _ in range(OBJECT_BYTES_MAX // 65_536):
            yield b"x" * 65_536
        yield b"x"

    for body in (b"x" * (OBJECT_BYTES_MAX + 1), drip()):
        async with api.control.put(place("k"), data=body, headers=octets) as response:
            assert response.status == 413
    for headers in ({"Content-Type": "text/plain"}, {**octets, "Content-Encoding": "gzip"}):
        assert (await api.call("PUT", place("k"), b"1", headers=headers))[0] == 415
    assert (await api.call("PUT", place("../k"), b"1", headers=octets))[0] in (400, 404)
    assert not await objects.exists(OWNER, "k")
    assert (await api.call("PUT", place("k"), b"x" * OBJECT_BYTES_MAX, headers=octets))[0] == 200
    api.context.objects = None
    assert (await api.call("GET", "/guilds/5/objects"))[0] == 503


class SlowLink:
    """An object storage whose links open when they may, and how many are asked for at once."""

    def __init__(self) -> None:
        self.at_once = 0
        self.most = 0
        self.go_on = asyncio.Event()

    async def open_link(self, owner: Id, key: str, *, expires: str, signature: str) -> bytes:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go_on.wait()
        self.at_once -= 1
        return b"x"


async def test_whoever_has_a_url_gets_a_small_part_of_the_storage(api: Api) -> None:
    slow = SlowLink()
    api.context.objects = slow  # type: ignore[assignment]
    number = PUBLIC_OBJECT_READS_MAX + PUBLIC_READS_WAITING_MAX

    async def ask() -> int:
        async with api.control.get("/objects/guilds/5/a?expires=1&signature=2") as got:
            return got.status

    asking = [asyncio.create_task(ask()) for _ in range(number + 5)]
    refused = 0
    for ended in asyncio.as_completed(asking):
        refused += await ended == 503
        if refused == 5:
            slow.go_on.set()
    assert (refused, slow.most) == (5, PUBLIC_OBJECT_READS_MAX)


async def test_what_operators_change_is_in_the_log_with_who_did_it(
    objects: ObjectStore, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="staff"):
        await api.call("PUT", place("a.txt"), b"x")
        await api.call("DELETE", place("a.txt"))
    told = [record.message for record in caplog.records if record.name == "staff"]
    assert told == ["object 'a.txt' put by control", "object 'a.txt' removed by control"]
