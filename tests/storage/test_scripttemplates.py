"""Templates as scripts change them, in both stores: decided over what is stored, and only if that has not changed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pytw.errors import Conflict, Forbidden, LimitExceeded, NotFound
from pytw.limits import Limits
from pytw.storage.scripttemplates import ScriptTemplates
from pytw.storage.stores import Stores
from pytw.storage.templates import unguarded
from pytw.types import Draft, Id, ScriptCaller

GUILD = Id.guild(7 << 22)
FILES = {"init.luau": "return {}"}
MORE = {"init.luau": "return { MESSAGE = 1 }"}


@pytest.fixture(params=[False, True], ids=["templates", "loop"])
def loop(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def caller(loop: bool, *held: str, template: str = "caller") -> ScriptCaller:
    return ScriptCaller(template, held or ("*",), loop)


def store(stores: Stores, loop: bool) -> Any:
    return stores.loop_templates if loop else stores.templates


async def save(stores: Stores, who: ScriptCaller, draft: Draft, *, new: bool = False) -> None:
    await stores.template_save(GUILD.key, who, draft, new)


async def test_made_changed_and_taken_away(stores: Stores, loop: bool) -> None:
    who = caller(loop, "a", "b")
    await save(stores, who, Draft("t", FILES, events=["X"], allowed_caps=["a"], error_channel="5"), new=True)
    (listed,) = await stores.template_list(GUILD.key, loop)
    assert (listed.name, listed.events, listed.allowed_caps, listed.content) == ("t", ["X"], ["a"], None)
    await save(stores, who, Draft("t", MORE, events=["Y"], allowed_caps=["b"]))
    found = await stores.template_get(GUILD.key, "t", loop)
    assert found is not None
    assert (found.content, found.events, found.allowed_caps, found.error_channel) == (MORE, ["Y"], ["b"], "5")
    await stores.template_delete(GUILD.key, who, "t")
    assert await stores.template_get(GUILD.key, "t", loop) is None
    assert await stores.template_list(GUILD.key, loop) == []


async def test_what_is_left_out_stays_and_the_author_is_known(stores: Stores, loop: bool) -> None:
    await save(stores, caller(loop), Draft("t", FILES, events=["X"], allowed_caps=["a"], paused=True), new=True)
    await save(stores, caller(loop), Draft("t", {}, allowed_caps=["a", "b"]))
    kept = await store(stores, loop).get(GUILD, "t")
    assert (kept.files, kept.listens, kept.allowed_caps, kept.paused) == (FILES, ["X"], ["a", "b"], True)
    assert kept.author == "template caller"
    await save(stores, caller(loop), Draft("t", {}, events_override=["Z"], paused=False))
    kept = await store(stores, loop).get(GUILD, "t")
    assert (kept.listens, kept.events, kept.paused) == (["Z"], ["X"], False)


async def test_events_that_are_given_back_as_they_were_follow_the_entry(stores: Stores, loop: bool) -> None:
    await save(stores, caller(loop), Draft("t", FILES, events=["X"]), new=True)
    await save(stores, caller(loop), Draft("t", MORE, events=["Y"], events_override=["X"]))
    found = await stores.template_get(GUILD.key, "t", loop)
    assert found is not None
    assert found.events == ["Y"]


async def test_new_is_new_and_old_is_old(stores: Stores, loop: bool) -> None:
    await save(stores, caller(loop), Draft("t", FILES), new=True)
    with pytest.raises(Conflict, match="update_template changes it"):
        await save(stores, caller(loop), Draft("t", FILES), new=True)
    with pytest.raises(NotFound, match="create_template makes it"):
        await save(stores, caller(loop), Draft("u", FILES))
    with pytest.raises(NotFound):
        await stores.template_delete(GUILD.key, caller(loop), "u")


async def test_rights_are_those_of_what_is_stored(stores: Stores, loop: bool) -> None:
    await store(stores, loop).put(GUILD, Draft("strong", FILES, allowed_caps=["a", "b"]))
    await store(stores, loop).put(GUILD, Draft("secret", FILES, allowed_caps=["a"]))
    await stores.secrets.put(GUILD, "secret", "key", "hunter2")
    weak = caller(loop, "a")
    for work in (
        save(stores, weak, Draft("strong", MORE, allowed_caps=["a"])),
        stores.template_delete(GUILD.key, weak, "strong"),
        save(stores, weak, Draft("new", FILES, allowed_caps=["b"]), new=True),
        save(stores, caller(loop), Draft("secret", MORE)),
        stores.template_delete(GUILD.key, caller(loop), "secret"),
    ):
        with pytest.raises(Forbidden):
            await work
    assert {t.name: t.version for t in await stores.template_list(GUILD.key, loop)} == {"secret": 1, "strong": 1}
    await stores.template_delete(GUILD.key, caller(loop, "a", template="secret"), "secret")
    assert not await stores.secrets.has_any(GUILD, "secret")


async def test_bounds_are_the_stores(stores: Stores, loop: bool) -> None:
    small = ScriptTemplates(stores.db, stores.secrets, Limits(templates_max=1))
    await small.template_save(GUILD.key, caller(loop), Draft("t", FILES), True)
    with pytest.raises(LimitExceeded, match="template number 2"):
        await small.template_save(GUILD.key, caller(loop), Draft("u", FILES), True)


async def test_a_change_that_came_between_is_decided_over_again(stores: Stores, loop: bool) -> None:
    """An operator gives the template more while a script is about to change it: the script holds less by then."""
    await store(stores, loop).put(GUILD, Draft("t", FILES, allowed_caps=["a"]))
    scripts = stores.script_templates
    find, seen = scripts._find, []

    async def found(*args: Any, **options: Any) -> Any:
        template = await find(*args, **options)
        if "db" not in options and len(seen) == 0:
            seen.append(template)
            await store(stores, loop).put(GUILD, Draft("t", FILES, allowed_caps=["a", "b"]))
        return template

    scripts._find = found  # type: ignore[method-assign]
    with pytest.raises(Forbidden, match="holds b"):
        await scripts.template_save(GUILD.key, caller(loop, "a"), Draft("t", MORE), False)
    assert (await store(stores, loop).get(GUILD, "t")).files == FILES


async def test_writers_at_once_all_come_through_or_are_told(stores: Stores, loop: bool) -> None:
    await save(stores, caller(loop), Draft("t", FILES, allowed_caps=["a"]), new=True)
    ended = await asyncio.gather(
        *(save(stores, caller(loop), Draft("t", {"init.luau": f"-- {n}"})) for n in range(4)), return_exceptions=True
    )
    assert all(one is None or isinstance(one, Conflict) for one in ended)
    assert None in ended
    found = await stores.template_get(GUILD.key, "t", loop)
    assert found is not None
    assert found.allowed_caps == ["a"]


async def test_nothing_guards_a_change_of_an_operator() -> None:
    assert await unguarded(object()) is None
