"""What staff does: review, price, purchases."""

from __future__ import annotations

from typing import Any

import pytest

from pytw.errors import Conflict, NotFound, RequestError
from pytw.limits import GLOBAL_KV_DATA_BYTES_MAX, GLOBAL_KV_FIND_BYTES_MAX
from pytw.storage.stores import Stores
from pytw.types import Id

STAFF: dict[str, Any] = {"owner_type": "staff", "owner_id": "1", "data": {"a": 1}, "short": "x"}
TENANTS: dict[str, Any] = {**STAFF, "owner_type": "guild"}
BEYOND_32_BITS = 5_000_000_000
BUYER, OTHER = Id.guild(7), Id.user(7)


@pytest.mark.weakness(31)
async def test_a_price_beyond_32_bits_is_listed_read_approved_and_bought(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **STAFF, price=BEYOND_32_BITS)
    (waiting,) = (await stores.global_staff.in_state("pending")).items
    await stores.global_staff.review(waiting.scope, waiting.key, waiting.version, "approved")
    (listed,) = (await stores.global_find(BUYER.key, "s", "%", limit=10)).items
    assert listed.price == BEYOND_32_BITS
    read = await stores.global_get(BUYER.key, "s", "key", 1)
    assert read is not None
    assert (read.price, read.data) == (BEYOND_32_BITS, None)
    assert await stores.global_staff.grant("s", "key", 1, BUYER, granted_by="42") == BEYOND_32_BITS
    bought = await stores.global_get(BUYER.key, "s", "key", 1)
    assert bought is not None
    assert (bought.data, bought.opaque) == (b'{"a": 1}', True)
    (purchase,) = await stores.global_staff.purchases("s", "key", 1)
    assert (purchase.owner, purchase.price, purchase.granted_by) == (BUYER, BEYOND_32_BITS, "42")


async def test_versions_of_a_state_are_listed_in_pages(stores: Stores) -> None:
    places = [("a", "key", 1), ("a", "key", 2), ("a", "other", 1), ("b", "key", 1)]
    for scope, key, version in places:
        await stores.global_kv.create(scope, key, version, **TENANTS)
    seen: list[tuple[str, str, int]] = []
    while True:
        page = await stores.global_staff.in_state("pending", limit=2, after=seen[-1] if seen else ("", "", 0))
        seen += [(r.scope, r.key, r.version) for r in page.items]
        if page.after is None:
            break
    assert seen == places
    assert (await stores.global_staff.in_state("approved")).items == []
    with pytest.raises(RequestError):
        await stores.global_staff.in_state("liked")


async def test_a_page_of_staff_has_so_many_bytes(stores: Stores) -> None:
    large = {"text": "x" * (GLOBAL_KV_DATA_BYTES_MAX - 100)}
    for version in range(1, 11):
        await stores.global_kv.create("s", "key", version, **TENANTS, public_metadata=large)
    page = await stores.global_staff.in_state("pending")
    assert sum(len(r.public_metadata) for r in page.items) <= GLOBAL_KV_FIND_BYTES_MAX
    assert 0 < len(page.items) < 10
    assert page.after is not None


async def test_a_version_is_shown_with_its_data_whatever_its_state(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **STAFF, price=5)
    found = await stores.global_staff.get("s", "key", 1)
    assert (found.review_state, found.price, found.data) == ("pending", 5, b'{"a": 1}')
    for key, version in (("key", 2), ("key", 0), ("key", 2**40), ("a b", 1)):
        with pytest.raises(NotFound):
            await stores.global_staff.get("s", key, version)


async def test_only_what_staff_publishes_has_a_price(stores: Stores) -> None:
    await stores.global_kv.create("s", "theirs", 1, **TENANTS)
    with pytest.raises(RequestError, match="belongs to a guild: only what staff publishes has a price"):
        await stores.global_staff.set_price("s", "theirs", 1, 5)
    await stores.global_staff.set_price("s", "theirs", 1, None)
    await stores.global_kv.create("s", "ours", 1, **STAFF)
    for price in (2**63 - 1, 0, None):
        await stores.global_staff.set_price("s", "ours", 1, price)
        assert (await stores.global_staff.get("s", "ours", 1)).price == price
    for odd in (-1, 2**63):
        with pytest.raises(RequestError):
            await stores.global_staff.set_price("s", "ours", 1, odd)


async def test_a_purchase_outlives_a_change_of_the_price(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **STAFF, price=5)
    await stores.global_staff.review("s", "key", 1, "approved")
    await stores.global_staff.grant("s", "key", 1, BUYER, granted_by="1", price=3)
    await stores.global_staff.set_price("s", "key", 1, 1_000)
    for owner, data in ((BUYER, b'{"a": 1}'), (OTHER, None)):
        found = await stores.global_get(owner.key, "s", "key", 1)
        assert found is not None
        assert found.data == data
    assert [p.price for p in await stores.global_staff.purchases("s", "key", 1)] == [3]


async def test_a_purchase_is_made_once_and_can_be_taken_back(stores: Stores) -> None:
    await stores.global_kv.create("s", "key", 1, **STAFF, price=5)
    await stores.global_staff.grant("s", "key", 1, BUYER, granted_by="1")
    with pytest.raises(Conflict, match="guild 7 has bought version 1 of key already"):
        await stores.global_staff.grant("s", "key", 1, BUYER, granted_by="1")
    await stores.global_staff.grant("s", "key", 1, OTHER, granted_by="1")
    assert [p.owner for p in await stores.global_staff.purchases("s", "key", 1, limit=1)] == [BUYER]
    assert [p.owner for p in await stores.global_staff.purchases("s", "key", 1, after=BUYER)] == [OTHER]
    await stores.global_staff.revoke("s", "key", 1, BUYER)
    with pytest.raises(NotFound, match="guild 7 has not bought"):
        await stores.global_staff.revoke("s", "key", 1, BUYER)
    assert [p.owner for p in await stores.global_staff.purchases("s", "key", 1)] == [OTHER]


async def test_what_is_free_or_missing_cannot_be_bought(stores: Stores) -> None:
    await stores.global_kv.create("s", "free", 1, **STAFF)
    with pytest.raises(RequestError, match="has no price: everybody has it"):
        await stores.global_staff.grant("s", "free", 1, BUYER, granted_by="1")
    with pytest.raises(NotFound):
        await stores.global_staff.grant("s", "missing", 1, BUYER, granted_by="1")


async def test_unknown_review_state_is_refused(stores: Stores) -> None:
    with pytest.raises(RequestError):
        await stores.global_staff.review("s", "key", 1, "liked")
    with pytest.raises(NotFound):
        await stores.global_staff.review("s", "key", 1, "approved")
    with pytest.raises(NotFound):
        await stores.global_staff.set_price("s", "key", 1, 5)
