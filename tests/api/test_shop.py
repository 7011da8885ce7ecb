"""The shop over HTTP: what staff publishes, lists and withdraws. What tenants run of it is in tests/worker/test_deployments.py."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from pytw.errors import ScriptError
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import Draft, Id
from tests.api.conftest import Api

FILES = {"init.luau": "return { MESSAGE = function(ctx) return 'ok' end }"}


@pytest.fixture
async def stores(api: Api, database_url: str) -> AsyncIterator[Stores]:
    found = Stores(await open_pool(database_url, 4))
    api.context.shop = found.shop
    yield found
    await found.close()


async def _publish(api: Api, version: str = "1", name: str = "greet", **more: Any) -> Any:
    status, told = await api.call("PUT", f"/i/shop/{name}/{version}", {"files": FILES, **more})
    assert status == 200, told
    return told


async def test_what_is_published_listens_for_what_its_entry_names_or_what_is_said(api: Api, stores: Stores) -> None:
    told = await _publish(api)
    assert told == {"name": "greet", "version": "1", "review_state": "pending", "events": ["MESSAGE"]}
    told = await _publish(api, "2", events=["MESSAGE_UPDATE"], allowed_caps=["kv:*"], owner={"type": "user", "id": "8"})
    assert told["events"] == ["MESSAGE_UPDATE"]
    found = await stores.shop.get("greet", "2")
    assert (found.events, found.allowed_caps, found.owner_type, found.owner_id) == (
        ["MESSAGE_UPDATE"],
        ["kv:*"],
        "user",
        "8",
    )
    first = await stores.shop.get("greet", "1")
    assert (first.allowed_caps, first.owner_type, first.published_by) == (["*"], "staff", "control")


async def test_what_is_misspelt_is_warned_of(api: Api, stores: Stores) -> None:
    told = await _publish(api, events=["MESAGE"], allowed_caps=["kv.set"])
    assert len(told["warnings"]) == 2


async def test_what_does_not_run_is_not_published(api: Api, stores: Stores) -> None:
    api.workers.error = ScriptError("init:1: no")
    status, told = await api.call("PUT", "/i/shop/greet/1", {"files": FILES})
    assert (status, told["hint"]) == (422, "nothing was published")
    assert await stores.shop.list() == []


async def test_a_listing_goes_on_at_its_cursor(api: Api, stores: Stores) -> None:
    for name, version in (("b", "1.10"), ("b", "1.9"), ("a", "1")):
        await _publish(api, version, name)
    seen: list[tuple[str, str]] = []
    after = ""
    while after is not None:
        _, page = await api.call("GET", URL("/i/shop").with_query(limit="2", after=after))
        assert len(page["templates"]) <= 2
        seen += [(row["name"], row["version"]) for row in page["templates"]]
        after = page["after"]
    assert seen == [("a", "1"), ("b", "1.9"), ("b", "1.10")]
    _, page = await api.call("GET", "/i/shop?name=a&state=pending")
    assert [row["name"] for row in page["templates"]] == ["a"]


async def test_state_and_note_are_shown(api: Api, stores: Stores) -> None:
    await _publish(api, long="more of it")
    await stores.shop.review("greet", "1", "approved")
    await stores.templates.put(Id.guild(5), Draft("t", {}, shop="$shop/greet#1"))
    assert (await api.call("PUT", "/i/shop/greet/1/withdraw", {"note": "broken"}))[1] == {
        "name": "greet",
        "version": "1",
        "withdrawn": True,
        "tenants": 1,
        "away": 0,
    }
    assert api.workers.refreshed == [5]
    _, shown = await api.call("GET", "/i/shop/greet/1")
    assert (shown["state"], shown["review_note"], shown["reviewed_by"]) == ("withdrawn", "broken", "control")
    assert (shown["files"], shown["long"]) == (FILES, "more of it")


async def test_every_action_of_staff_is_logged_with_who_did_it(
    api: Api, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "staff")
    await _publish(api)
    await api.call("PUT", "/i/shop/greet/1/review", {"state": "denied"})
    await api.call("PUT", "/i/shop/greet/1/withdraw")
    assert [r.getMessage() for r in caplog.records if r.name == "staff"] == [
        "control published version 1 of greet in the shop",
        "control reviewed version 1 of greet in the shop: denied",
        "control withdrew version 1 of greet from the shop",
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/i/shop?limit=0", None, 400),
        ("GET", "/i/shop?limit=201", None, 400),
        ("GET", "/i/shop?state=liked", None, 400),
        ("GET", "/i/shop?after=greet", None, 400),
        ("GET", "/i/shop/greet/1", None, 404),
        ("GET", "/i/shop/greet/latest", None, 400),
        ("PUT", "/i/shop/greet/1", {"files": {}}, 400),
        ("PUT", "/i/shop/greet/1", {"files": FILES, "owner": {"type": "user", "id": "x"}}, 400),
        ("PUT", "/i/shop/greet/1", {"files": FILES, "events": [""]}, 400),
        ("PUT", "/i/shop/greet/1/review", {"state": "liked"}, 400),
        ("PUT", "/i/shop/greet/1/review", {"state": "approved"}, 404),
        ("PUT", "/i/shop/greet/1/withdraw", None, 404),
    ],
)
async def test_what_is_asked_wrongly_is_refused(
    api: Api, stores: Stores, method: str, path: str, body: Any, status: int
) -> None:
    assert (await api.call(method, path, body))[0] == status
