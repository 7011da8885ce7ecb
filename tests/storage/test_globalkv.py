from __future__ import annotations

from typing import Any

import pytest

from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.storage.stores import Stores

MINE: dict[str, Any] = {"owner_type": "user", "owner_id": "1"}


async def _published(stores: Stores, key: str, version: int = 1, **more: Any) -> None:
    await stores.global_kv.create("s", key, version, **{**MINE, "data": {"a": [1]}, "short": "what it is", **more})
    await stores.global_kv.review("s", key, version, "approved")


async def test_only_approved_versions_are_seen(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **MINE, data=1, short="x")
    with pytest.raises(NotFound):
        await stores.global_kv.get("s", "key", 1)
    assert await stores.global_kv.find("s") == []
    await stores.global_kv.review("s", "key", 1, "approved")
    assert (await stores.global_kv.get("s", "key", 1)).data == b"1"
    await stores.global_kv.review("s", "key", 1, "denied")
    assert await stores.global_kv.find("s") == []


async def test_versions_are_immutable(stores: Stores) -> None:
    await _published(stores, "key")
    with pytest.raises(Conflict):
        await _published(stores, "key")
    await _published(stores, "key", 2)
    assert [(r.key, r.version, r.data) for r in await stores.global_kv.find("s")] == [
        ("key", 1, None),
        ("key", 2, None),
    ]


async def test_find_is_like_and_pages(stores: Stores) -> None:
    for key in ("abc", "abd", "xyz"):
        await _published(stores, key, long="text")
    assert [r.key for r in await stores.global_kv.find("s", "ab%")] == ["abc", "abd"]
    assert [r.key for r in await stores.global_kv.find("s", limit=1, skip=2)] == ["xyz"]
    assert [r.long for r in await stores.global_kv.find("s", "abc")] == [None]
    assert (await stores.global_kv.get("s", "abc", 1)).long == "text"


async def test_only_the_owner_deletes(stores: Stores) -> None:
    await _published(stores, "key")
    for owner in ({"owner_type": "user", "owner_id": "2"}, {"owner_type": "guild", "owner_id": "1"}):
        with pytest.raises(NotFound):
            await stores.global_kv.delete("s", "key", 1, **owner)
    await stores.global_kv.delete("s", "key", 1, **MINE)
    with pytest.raises(NotFound):
        await stores.global_kv.get("s", "key", 1)


async def test_large_price_of_staff_is_kept_and_makes_it_opaque(stores: Stores) -> None:
    await _published(stores, "key", owner_type="staff", price=5_000_000_000, public_data=True)
    found = await stores.global_kv.get("s", "key", 1)
    assert (found.price, found.opaque) == (5_000_000_000, True)


@pytest.mark.parametrize(
    ("key", "more", "error"),
    [
        ("ab", {}, RequestError),
        (".abc", {}, RequestError),
        ("abc.", {}, RequestError),
        ("a b c", {}, RequestError),
        ("a" * 65, {}, RequestError),
        ("abc", {"price": 1}, RequestError),
        ("abc", {"short": "x" * 1000}, LimitExceeded),
        ("abc", {"long": "x" * 70_000}, LimitExceeded),
        ("abc", {"data": "x" * 300_000}, LimitExceeded),
        ("abc", {"owner_type": "server"}, RequestError),
    ],
)
async def test_what_cannot_be_published_is_refused(
    stores: Stores, key: str, more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await _published(stores, key, **more)


async def test_unknown_review_state_is_refused(stores: Stores) -> None:
    with pytest.raises(RequestError):
        await stores.global_kv.review("s", "key", 1, "liked")
    with pytest.raises(NotFound):
        await stores.global_kv.review("s", "key", 1, "approved")
