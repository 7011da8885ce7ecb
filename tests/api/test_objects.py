"""Signed URLs of objects on disk."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objects import ObjectStore
from pytw.types import Id
from tests.api.conftest import Api

OWNER = Id.guild(5)


@pytest.fixture
def objects(api: Api, tmp_path: Path) -> ObjectStore:
    links = ObjectLinks(b"k" * 32, f"http://127.0.0.1:{api.port}")
    api.context.objects = made = ObjectStore.local(tmp_path / "objects", links)
    return made


async def fetch(url: str) -> tuple[int, bytes, aiohttp.typedefs.LooseHeaders]:
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as response:
        return response.status, await response.read(), response.headers


@pytest.mark.parametrize(
    "key", ["k", "a/b/c.html", "sp ace", "per%2Fcent", "ünï", "#?*[]{}&=+;", "a'\"b", "...", "x" * 200]
)
async def test_whoever_has_the_url_reads_the_bytes(objects: ObjectStore, key: str) -> None:
    await objects.put(OWNER, key, b"<script>")
    status, body, headers = await fetch(await objects.url(OWNER, key, 60))
    assert (status, body) == (200, b"<script>")
    assert headers["Content-Type"] == "application/octet-stream"
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


async def test_a_url_outlives_a_restart_and_not_its_object(objects: ObjectStore, api: Api, tmp_path: Path) -> None:
    await objects.put(OWNER, "k", b"1")
    url = await objects.url(OWNER, "k", 60)
    api.context.objects = again = ObjectStore.local(tmp_path / "objects", ObjectLinks(b"k" * 32, ""))
    assert (await fetch(url))[:2] == (200, b"1")
    await again.delete(OWNER, "k")
    assert (await fetch(url))[0] == 404
