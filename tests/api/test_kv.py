"""The key-value store over HTTP, for root users, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from pytw import values
from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX
from pytw.storage.kv import KvStore
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import Id
from tests.api.conftest import Api

GUILD = Id.guild(5).key
PLACE = "/guilds/5/kv"


@pytest.fixture
async def stores(api: Api, database_url: str) -> AsyncIterator[Stores]:
    found = Stores(await open_pool(database_url, 2))
    api.context.kv = found.kv
    yield found
    await found.close()


@pytest.fixture
def kv(stores: Stores) -> KvStore:
    return stores.kv


async def test_what_is_put_is_got_and_deleted(api: Api, kv: KvStore) -> None:
    body = {"key": "k/ü", "scopes": ["b", "a"], "value": {"n": [1, None, "x"]}, "resume": True}
    assert await api.call("PUT", f"{PLACE}/record", body) == (200, {"key": "k/ü", "version": 1})
    status, found = await api.call("GET", f"{PLACE}/record?key=k/%C3%BC&scope=a&scope=b")
    assert status == 200
    assert (found["value"], found["scopes"], found["resume"]) == ({"n": [1, None, "x"]}, ["a", "b"], True)
    assert (await api.call("GET", "/users/5/kv/record?key=k/%C3%BC&scope=a"))[0] == 404
    assert await api.call("GET", f"{PLACE}/scopes") == (200, {"scopes": ["a", "b"]})
    assert await api.call("DELETE", f"{PLACE}/record?key=k/%C3%BC&scope=a") == (200, {"deleted": 1})
    assert (await api.call("DELETE", f"{PLACE}/record?id={found['id']}"))[0] == 404


async def test_tagged_values_keep_their_types_and_plain_ones_are_readable(api: Api, kv: KvStore) -> None:
    at = datetime(2026, 2, 27, 6, 7, 33, tzinfo=UTC)
    await kv.set(GUILD, "k", ["s"], values.pack({"at": at, "data": values.Buffer(b"\xff")}))
    plain = (await api.call("GET", f"{PLACE}/record?key=k&scope=s"))[1]["value"]
    assert plain == {"at": "2026-02-27T06:07:33+00:00", "data": "/w=="}
    tagged = (await api.call("GET", f"{PLACE}/record?key=k&scope=s&tagged=1"))[1]["value"]
    body = {"key": "copy", "scopes": ["s"], "value": tagged, "tagged": True}
    assert (await api.call("PUT", f"{PLACE}/record", body))[0] == 200
    copy = await kv.get(GUILD, "copy", ["s"])
    assert copy is not None
    assert values.unpack(copy.value) == {"at": at, "data": values.Buffer(b"\xff")}


async def test_a_write_of_the_wrong_version_is_refused(api: Api, kv: KvStore) -> None:
    body = {"key": "k", "scopes": ["s"], "value": 1, "if_version": 0}
    assert (await api.call("PUT", f"{PLACE}/record", body))[0] == 200
    status, said = await api.call("PUT", f"{PLACE}/record", body)
    assert (status, said["message"]) == (409, "the key has version 1, not 0; nothing was written")


async def test_keys_of_all_scopes_are_listed_in_pages_with_their_expiry(api: Api, stores: Stores) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(5):
        await stores.kv.set(GUILD, f"ban:{number}", [f"s{number}"], b"\x01", past if number == 3 else None)
    await stores.kv.set(GUILD, "other", ["s"], b"\x01")
    await stores.db.execute(
        "UPDATE tenant_kv SET expiry_attempts = $1 WHERE expires_at IS NOT NULL", KV_EXPIRY_ATTEMPTS_MAX
    )
    status, page = await api.call("GET", f"{PLACE}?query=ban:%25&limit=4")
    assert status == 200
    assert [record["key"] for record in page["records"]] == [f"ban:{n}" for n in range(4)]
    assert [(r["attempts"], r["given_up"], r["due_at"]) for r in page["records"]][2:] == [
        (0, False, None),
        (KV_EXPIRY_ATTEMPTS_MAX, True, None),
    ]
    _, rest = await api.call("GET", f"{PLACE}?query=ban:%25&limit=4&after={page['after']}")
    assert ([record["key"] for record in rest["records"]], rest["after"]) == (["ban:4"], None)
    assert len((await api.call("GET", f"{PLACE}?scope=s2"))[1]["records"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{PLACE}?limit=x", None),
        ("GET", f"{PLACE}?limit=0", None),
        ("GET", f"{PLACE}?limit=1001", None),
        ("GET", f"{PLACE}/record?key=k", None),
        ("GET", f"{PLACE}/record?scope=s", None),
        ("PUT", f"{PLACE}/record", {"key": "k", "scopes": [], "value": 1}),
        ("PUT", f"{PLACE}/record", {"key": "k", "scopes": ["s"], "value": 1, "tagged": True}),
        ("PUT", f"{PLACE}/record", {"key": "k", "scopes": ["s"], "value": 1 << 70}),
        ("PUT", f"{PLACE}/record", {"key": "k\0", "scopes": ["s"], "value": 1}),
        ("PUT", f"{PLACE}/record", {"key": "k", "scopes": ["s"], "value": 1, "expires": "x"}),
        ("DELETE", f"{PLACE}/record?key=k", None),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, kv: KvStore, method: str, path: str, body: object) -> None:
    assert (await api.call(method, path, body))[0] == 400


async def test_only_root_users_are_served(api: Api, kv: KvStore) -> None:
    for path in (PLACE, f"{PLACE}/scopes", f"{PLACE}/record?key=k&scope=s"):
        headers = {"Authorization": "user-token"}
        assert (await api.call("GET", path, tcp=True, headers=headers))[0] == 403
