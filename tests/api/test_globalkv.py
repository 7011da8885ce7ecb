"""What is published, over HTTP: for everybody, and for staff."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from pytw.limits import PUBLIC_READS_MAX, PUBLIC_READS_WAITING_MAX
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import GlobalPage, Id
from tests.api.conftest import Api

PLACE = "/i/global-kvs/s/key/1"
ENTRY: dict[str, Any] = {"scope": "s", "key": "key", "version": 1, "short": "what it is", "data": {"a": [1, None]}}
BEYOND_32_BITS = 5_000_000_000


@pytest.fixture
async def stores(api: Api, database_url: str) -> AsyncIterator[Stores]:
    found = Stores(await open_pool(database_url, 4))
    api.context.global_kv, api.context.global_staff = found.global_kv, found.global_staff
    api.context.frontend_url = "https://site.example/"
    yield found
    await found.close()


async def _publish(api: Api, **more: Any) -> None:
    status, told = await api.call("POST", "/i/global-kvs", {**ENTRY, "review_state": "approved", **more})
    assert status == 201, told


async def test_anybody_reads_what_is_approved(api: Api, stores: Stores) -> None:
    await _publish(api, long="more of it", public_metadata={"tags": ["a"]}, public_data=True)
    status, listed = await api.call("GET", "/global-kvs?scope=s", tcp=True)
    assert (status, listed["after"]) == (200, None)
    (item,) = listed["items"]
    assert item.pop("created_at").endswith("+00:00")
    assert item.pop("last_updated_at").endswith("+00:00")
    assert item == {
        "key": "key",
        "version": 1,
        "owner_id": "0",
        "owner_type": "staff",
        "price": None,
        "short": "what it is",
        "public_metadata": {"tags": ["a"]},
        "scope": "s",
        "public_data": True,
        "review_state": "approved",
        "long": None,
    }
    status, found = await api.call("GET", "/global-kvs/s/key/1", tcp=True)
    assert status == 200
    assert found["partial"]["long"] == "more of it"
    assert found["data"] == {"type": "Value", "data": {"a": [1, None]}, "opaque": False}


async def test_data_that_is_not_public_is_null(api: Api, stores: Stores) -> None:
    await _publish(api)
    _, found = await api.call("GET", "/global-kvs/s/key/1", tcp=True)
    assert found["data"] == {"type": "Value", "data": None, "opaque": True}


@pytest.mark.weakness(31)
async def test_what_has_a_price_is_listed_priced_approved_and_bought_over_http(api: Api, stores: Stores) -> None:
    await _publish(api, scope="a/b", public_data=True, price=BEYOND_32_BITS, review_state="pending")
    place, staffs = URL("/global-kvs/a%2Fb/key/1", encoded=True), "/i/global-kvs/a%2Fb/key/1"
    assert (await api.call("GET", place, tcp=True))[0] == 404
    _, waiting = await api.call("GET", "/i/global-kvs")
    assert [(item["scope"], item["price"]) for item in waiting["items"]] == [("a/b", BEYOND_32_BITS)]
    assert (await api.call("PUT", URL(staffs + "/review", encoded=True), {"state": "approved"}))[0] == 200
    _, listed = await api.call("GET", "/global-kvs?scope=a/b", tcp=True)
    assert [item["price"] for item in listed["items"]] == [BEYOND_32_BITS]
    _, found = await api.call("GET", place, tcp=True)
    assert found["data"] == {
        "type": "PurchaseRequired",
        "purchase_url": "https://site.example/global-kvs/a%2Fb/key/1",
    }
    status, told = await api.call("PUT", URL(staffs + "/purchases/guilds/7", encoded=True))
    assert (status, told["price"], told["owner_type"], told["owner_id"]) == (200, BEYOND_32_BITS, "guild", "7")
    bought = await stores.global_get(Id.guild(7).key, "a/b", "key", 1)
    assert bought is not None
    assert bought.data == b'{"a": [1, null]}'


async def test_a_listing_goes_on_at_its_cursor(api: Api, stores: Stores) -> None:
    for key in ("abc", "abd", "xyz"):
        await _publish(api, key=key)
    seen: list[str] = []
    after = ""
    while after is not None:
        _, page = await api.call("GET", URL("/global-kvs").with_query(scope="s", limit="2", after=after), tcp=True)
        seen += [item["key"] for item in page["items"]]
        after = page["after"]
    assert seen == ["abc", "abd", "xyz"]
    for query, keys in (("ab%", ["abc", "abd"]), ("%", ["abc", "abd", "xyz"]), ("abc\\", []), ("", [])):
        _, page = await api.call("GET", URL("/global-kvs").with_query(scope="s", query=query), tcp=True)
        assert [item["key"] for item in page["items"]] == keys


class Slow:
    """A store whose answers wait for the test."""

    def __init__(self) -> None:
        self.at_once = 0
        self.most = 0
        self.go_on = asyncio.Event()

    async def find(self, scope: str, pattern: str, **page: Any) -> GlobalPage:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go_on.wait()
        self.at_once -= 1
        return GlobalPage([])


async def test_who_asks_without_a_token_gets_few_connections_of_the_database(api: Api) -> None:
    slow = Slow()
    api.context.global_kv = slow  # type: ignore[assignment]
    number = PUBLIC_READS_MAX + PUBLIC_READS_WAITING_MAX
    asking = [asyncio.create_task(api.call("GET", "/global-kvs?scope=s")) for _ in range(number + 5)]
    refused = 0
    for ended in asyncio.as_completed(asking):
        status, _ = await ended
        refused += status == 503
        if refused == 5:
            slow.go_on.set()
    assert (refused, slow.most) == (5, PUBLIC_READS_MAX)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/global-kvs", 400, "bad_request"),
        ("/global-kvs?scope=", 400, "bad_request"),
        ("/global-kvs?scope=s&limit=0", 400, "bad_request"),
        ("/global-kvs?scope=s&limit=1001", 400, "bad_request"),
        ("/global-kvs?scope=s&limit=x", 400, "bad_request"),
        ("/global-kvs?scope=s&after=x", 400, "bad_request"),
        ("/global-kvs?scope=s&after=0000000000199999999999:key", 400, "bad_request"),
        ("/global-kvs?scope=s&after=" + "0" * 5_000 + ":key", 400, "bad_request"),
        ("/global-kvs?scope=" + "x" * 65, 413, "limit_exceeded"),
        ("/global-kvs?scope=s%00", 400, "bad_request"),
        ("/global-kvs?scope=none", 200, None),
        ("/global-kvs/s/key/1", 404, "not_found"),
        ("/global-kvs/s/key/0", 404, "not_found"),
        ("/global-kvs/s/key/4294967296", 404, "not_found"),
        ("/global-kvs/s/a b/1", 404, "not_found"),
        ("/global-kvs/s/key/-1", 400, "bad_request"),
        ("/global-kvs/s/key/x", 400, "bad_request"),
    ],
)
async def test_what_is_not_there_or_wrong_has_its_code(
    api: Api, stores: Stores, path: str, status: int, code: str | None
) -> None:
    got, told = await api.call("GET", path, tcp=True)
    assert (got, told.get("code")) == (status, code)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/i/global-kvs"),
        ("POST", "/i/global-kvs"),
        ("GET", PLACE),
        ("PUT", PLACE + "/review"),
        ("PUT", PLACE + "/price"),
        ("GET", PLACE + "/purchases"),
        ("PUT", PLACE + "/purchases/guilds/7"),
        ("DELETE", PLACE + "/purchases/users/7"),
    ],
)
async def test_staff_is_who_is_root(api: Api, stores: Stores, method: str, path: str) -> None:
    for token, status in ((None, 401), ("nobodys", 401), ("user-token", 403)):
        headers = {} if token is None else {"Authorization": token}
        assert (await api.call(method, path, {}, tcp=True, headers=headers))[0] == status


async def test_staff_sees_data_and_purchases(api: Api, stores: Stores) -> None:
    await _publish(api, price=7)
    _, found = await api.call("GET", PLACE)
    assert found["data"] == {"type": "Value", "data": {"a": [1, None]}, "opaque": True}
    await api.call("PUT", PLACE + "/purchases/guilds/7", {"price": 3})
    await api.call("PUT", PLACE + "/purchases/users/8")
    _, told = await api.call("GET", PLACE + "/purchases?limit=1")
    assert [(p["owner_type"], p["owner_id"], p["price"], p["granted_by"]) for p in told["items"]] == [
        ("guild", "7", 3, "control")
    ]
    _, told = await api.call("GET", PLACE + f"/purchases?after={told['after']}")
    assert [(p["owner_type"], p["owner_id"], p["price"]) for p in told["items"]] == [("user", "8", 7)]
    assert told["after"] is None
    status, told = await api.call("PUT", PLACE + "/purchases/guilds/7")
    assert (status, told["code"]) == (409, "conflict")
    assert (await api.call("DELETE", PLACE + "/purchases/guilds/7"))[0] == 200
    assert (await api.call("DELETE", PLACE + "/purchases/guilds/7"))[0] == 404


async def test_every_action_of_staff_is_logged_with_who_did_it(
    api: Api, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "staff")
    headers = {"Authorization": "root-token"}
    for method, path, body in (
        ("POST", "/i/global-kvs", {**ENTRY, "price": 5}),
        ("PUT", PLACE + "/review", {"state": "approved"}),
        ("PUT", PLACE + "/price", {"price": 6}),
        ("PUT", PLACE + "/purchases/users/8", None),
        ("DELETE", PLACE + "/purchases/users/8", None),
    ):
        assert (await api.call(method, path, body, tcp=True, headers=headers))[0] < 300
    assert [r.getMessage() for r in caplog.records if r.name == "staff"] == [
        "42, global key s/key/1: published it: pending, price 5",
        "42, global key s/key/1: reviewed it: approved",
        "42, global key s/key/1: set its price to 6",
        "42, global key s/key/1: noted that user 8 has bought it for 6",
        "42, global key s/key/1: took the purchase of user 8 back",
    ]
    assert (await stores.global_staff.get("s", "key", 1)).owner_id == "42"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/i/global-kvs", {}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "more": 1}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "version": 0}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "price": -1}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "price": 2**63}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "review_state": "liked"}, 400),
        ("POST", "/i/global-kvs", {**ENTRY, "data": "x" * 300_000}, 413),
        ("PUT", PLACE + "/review", {"state": "liked"}, 400),
        ("PUT", PLACE + "/review", {"state": "approved"}, 404),
        ("PUT", PLACE + "/price", {}, 400),
        ("PUT", PLACE + "/price", {"price": 1.5}, 400),
        ("PUT", PLACE + "/price", {"price": 1}, 404),
        ("PUT", PLACE + "/purchases/guilds/0", None, 400),
        ("PUT", PLACE + "/purchases/guilds/7", None, 404),
        ("GET", PLACE, None, 404),
        ("GET", "/i/global-kvs?state=liked", None, 400),
        ("GET", "/i/global-kvs?after=1:x", None, 400),
        ("GET", "/i/global-kvs?after=0000000000199999999999:key:s", None, 400),
        ("GET", "/i/global-kvs?after=" + "0" * 5_000 + ":key:s", None, 400),
        ("GET", PLACE + "/purchases?after=guild:9999999999999999999", None, 400),
        ("GET", PLACE + "/purchases?after=staff:1", None, 400),
    ],
)
async def test_what_staff_asks_wrongly_is_refused(
    api: Api, stores: Stores, method: str, path: str, body: Any, status: int
) -> None:
    assert (await api.call(method, path, body))[0] == status


async def test_what_waits_for_review_is_listed_in_pages(api: Api, stores: Stores) -> None:
    for scope in ("a:b", "a", "b"):
        await _publish(api, scope=scope, review_state="pending")
    seen: list[str] = []
    after = ""
    while after is not None:
        _, page = await api.call("GET", URL("/i/global-kvs").with_query(limit="1", after=after))
        seen += [item["scope"] for item in page["items"]]
        after = page["after"]
    assert seen == ["a", "a:b", "b"]
