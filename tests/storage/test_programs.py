"""Programs: rows that are damaged in every way, and the others that run all the same."""

from __future__ import annotations

import pytest

from pytw.storage import programs
from pytw.storage.shop import Publication
from pytw.storage.stores import Stores
from pytw.types import Draft
from tests.storage.templates_contract import GUILD, ONE, TWO

#: What is done to the row of version `bad`, and what is said of it.
DAMAGE = {
    "no such language": ("UPDATE template_versions SET language = 'wren' WHERE template = 'bad'", "language is 'wren'"),
    "files is a list of numbers": (
        """UPDATE template_versions SET files = '{"init.luau": 5}' WHERE template = 'bad'""",
        "list of files is damaged",
    ),
    "no files": ("UPDATE template_versions SET files = '{}' WHERE template = 'bad'", "list of files is damaged"),
    "hash that is none": (
        """UPDATE template_versions SET files = '{"init.luau": "zz"}' WHERE template = 'bad'""",
        "source of init.luau is missing",
    ),
    "source is gone": ("DELETE FROM sources WHERE source = 'lost'", "source of init.luau is missing"),
    "listing is gone": ("DELETE FROM shop_templates", "no approved version for $shop/x#1"),
    "listing is denied": ("UPDATE shop_templates SET review_state = 'denied'", "no approved version for $shop/x#1"),
}


@pytest.mark.weakness(24)
@pytest.mark.parametrize("damage", DAMAGE)
async def test_bad_row_stops_nobody_else(stores: Stores, damage: str) -> None:
    await stores.shop.publish(Publication("x", "1", TWO, ["A"]))
    await stores.shop.review("x", "1", "approved")
    await stores.templates.put(GUILD, Draft("first", ONE, events=["A"]))
    bad = (
        Draft("bad", {}, shop="$shop/x#1") if "listing" in damage else Draft("bad", {"init.luau": "lost"}, events=["A"])
    )
    await stores.templates.put(GUILD, bad)
    await stores.templates.put(GUILD, Draft("last", ONE, events=["A"]))
    statement, why = DAMAGE[damage]
    assert await stores.db.execute(statement)
    first, left_out, last = await stores.program(GUILD.key)
    assert (left_out.name, left_out.files) == ("bad", {})
    assert why in left_out.left_out
    assert all(t.files == {"init.luau": ONE["init.luau"].encode()} and not t.left_out for t in (first, last))


async def test_more_than_a_worker_takes_is_left_out(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``latest`` stands for may have grown."""
    for name in "abc":
        await stores.templates.put(GUILD, Draft(name, {"init.luau": "-" * 100}, events=["A"]))
    monkeypatch.setattr(programs, "TENANT_SOURCE_BYTES_MAX", 250)
    assert [bool(t.left_out) for t in await stores.program(GUILD.key)] == [False, False, True]
