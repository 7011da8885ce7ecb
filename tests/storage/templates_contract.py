"""What the API may expect of a template store, whichever it is: `TemplateStore` and `LoopTemplateStore` inherit the cases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import Limits
from pytw.storage.stores import Stores
from pytw.types import Draft, Id

GUILD = Id.guild(1)
ONE = {"init.luau": "return { A = 1 }"}
TWO = {"init.luau": "return { B = 1 }", "sub/lib.luau": "return {}"}

#: A store of the kind under test, with these limits.
Make = Callable[..., Any]


class TemplatesContract:
    """Subclasses provide the fixture ``make``."""

    async def test_what_is_put_is_what_is_shown(self, make: Make) -> None:
        templates = make()
        first = await templates.put(
            GUILD,
            Draft("t", TWO, events=["B", "A"], allowed_caps=["kv:*"], error_channel="5", author="9", message="one"),
        )
        found = await templates.get(GUILD, "t")
        assert (found.name, found.version, found.entry, found.files) == ("t", first, "init", TWO)
        assert (found.listens, found.allowed_caps, found.paused) == (["A", "B"], ["kv:*"], False)
        assert (found.error_channel, found.author, found.message) == ("5", "9", "one")

    async def test_put_replaces_and_counts_versions_up(self, make: Make) -> None:
        templates = make()
        first = await templates.put(GUILD, Draft("t", TWO, events=["A"], error_channel="5", allowed_caps=["kv:*"]))
        born = (await templates.get(GUILD, "t")).created_at
        second = await templates.put(GUILD, Draft("t", ONE, events=["B"]))
        found = await templates.get(GUILD, "t")
        assert second > first
        assert (found.version, found.files, found.listens) == (second, ONE, ["B"])
        assert (found.created_at, found.error_channel, found.allowed_caps) == (born, None, ["*"])

    async def test_list_is_by_name_and_without_files(self, make: Make) -> None:
        templates = make()
        for name in ("z", "a", "m"):
            await templates.put(GUILD, Draft(name, ONE, events=["A"]))
        found = await templates.list(GUILD)
        assert [(template.name, template.files) for template in found] == [("a", None), ("m", None), ("z", None)]

    async def test_what_is_not_there_is_not_found(self, make: Make) -> None:
        templates = make()
        for call in (templates.get(GUILD, "t"), templates.remove(GUILD, "t"), templates.set_paused(GUILD, "t", True)):
            with pytest.raises(NotFound):
                await call
        await templates.put(GUILD, Draft("t", ONE))
        await templates.remove(GUILD, "t")
        assert await templates.list(GUILD) == []
        with pytest.raises(NotFound):
            await templates.get(GUILD, "t")

    async def test_pause_stays_until_it_is_resumed(self, make: Make) -> None:
        templates = make()
        await templates.put(GUILD, Draft("t", ONE, events=["A"]))
        await templates.set_paused(GUILD, "t", True)
        await templates.put(GUILD, Draft("t", TWO, events=["A"]))
        found = await templates.get(GUILD, "t")
        assert (found.paused, found.files) == (True, TWO)
        await templates.set_paused(GUILD, "t", False)
        await templates.set_paused(GUILD, "t", False)
        assert not (await templates.get(GUILD, "t")).paused
        await templates.put(GUILD, Draft("t", ONE, events=["A"], paused=True))
        await templates.put(GUILD, Draft("v", ONE, events=["A"], paused=True))
        assert [template.paused for template in await templates.list(GUILD)] == [True, True]

    async def test_tenant_listens_for_what_its_templates_name(self, make: Make, stores: Stores) -> None:
        templates = make()

        async def events() -> set[str]:
            return set((await stores.tenants.gate(GUILD.key)).events) - DEFAULT_EVENTS

        await templates.put(GUILD, Draft("t", ONE, events=["A", "C", "INTERACTION_CREATE"]))
        await templates.put(GUILD, Draft("u", ONE, events=["B", "C"]))
        assert await events() == {"A", "B", "C"}
        await templates.put(GUILD, Draft("t", ONE, events=["D"]))
        assert await events() == {"B", "C", "D"}
        await templates.set_paused(GUILD, "u", True)
        assert await events() == {"D"}
        await templates.set_paused(GUILD, "u", False)
        await templates.remove(GUILD, "t")
        assert await events() == {"B", "C"}
        await templates.put(GUILD, Draft("u", ONE, events=["B"], events_override=["E"]))
        assert await events() == {"E"}
        assert (await templates.get(GUILD, "u")).events_override == ["E"]
        await templates.put(GUILD, Draft("u", ONE, events=["B"]))
        assert (await templates.get(GUILD, "u")).listens == ["B"]
        assert (await stores.tenants.gate(GUILD.key)).events >= DEFAULT_EVENTS

    async def test_tenants_do_not_see_each_other(self, make: Make, stores: Stores) -> None:
        templates = make()
        await templates.put(GUILD, Draft("t", ONE, events=["A"]))
        for other in (Id.user(1), Id.guild(2)):
            with pytest.raises(NotFound):
                await templates.get(other, "t")
            with pytest.raises(NotFound):
                await templates.remove(other, "t")
            assert "A" not in (await stores.tenants.gate(other.key)).events

    async def test_number_of_templates_is_bounded_also_among_concurrent_writers(self, make: Make) -> None:
        templates = make(Limits(templates_max=3))
        done = await asyncio.gather(
            *(templates.put(GUILD, Draft(f"t{n}", ONE)) for n in range(8)), return_exceptions=True
        )
        assert sum(isinstance(result, LimitExceeded) for result in done) == 5
        assert len(await templates.list(GUILD)) == 3
        await templates.put(GUILD, Draft((await templates.list(GUILD))[0].name, TWO))

    @pytest.mark.parametrize("name", ["hello", "a.b_c-d", "my$shop/greeter#2", "x" * 64, "main"])
    async def test_names_of_the_reference_are_taken(self, make: Make, name: str) -> None:
        templates = make()
        await templates.put(GUILD, Draft(name, ONE))
        assert (await templates.get(GUILD, name)).name == name

    @pytest.mark.parametrize(
        ("name", "files", "error"),
        [
            ("", ONE, RequestError),
            ("a b", ONE, RequestError),
            ("x" * 65, ONE, RequestError),
            ("$builtins", ONE, RequestError),
            ("t\n", ONE, RequestError),
            (".", ONE, RequestError),
            ("..", ONE, RequestError),
            ("a/../b", ONE, RequestError),
            ("a/.", ONE, RequestError),
            ("/", ONE, RequestError),
            ("t", {}, RequestError),
            ("t", {"../x": ""}, RequestError),
            ("t", {"a//b": ""}, RequestError),
            ("t", {"a\0": ""}, RequestError),
            ("t", {"a\\b": ""}, RequestError),
            ("t", {"/a": "", "a": ""}, RequestError),
            ("t", {"a": "\0"}, RequestError),
            ("t", {"a": "\udc80"}, RequestError),
            ("t", {"a": "x" * 2000}, LimitExceeded),
            ("t", {"a": "", "b": "", "c": "", "d": ""}, LimitExceeded),
            ("t", {"p" * 300: ""}, LimitExceeded),
        ],
    )
    async def test_what_cannot_be_a_template_is_refused(
        self, make: Make, name: str, files: dict[str, str], error: type[Exception]
    ) -> None:
        templates = make(Limits(source_bytes_max=1024, template_files_max=3))
        with pytest.raises(error):
            await templates.put(GUILD, Draft(name, files))
        assert await templates.list(GUILD) == []

    async def test_what_is_over_a_limit_is_told_which(self, make: Make) -> None:
        templates = make(Limits(source_bytes_max=1024, template_files_max=3, templates_max=1))
        for files, text in (
            ({"a": "x" * 2000}, "a has 2,000 bytes, and limits.source_bytes_max is 1,024"),
            (dict.fromkeys("abcd", ""), "the template has 4 files, and limits.template_files_max is 3"),
        ):
            with pytest.raises(LimitExceeded, match=text):
                await templates.put(GUILD, Draft("t", files))
        await templates.put(GUILD, Draft("t", ONE))
        with pytest.raises(LimitExceeded, match=r"u would be template number 2, and .*templates_max is 1"):
            await templates.put(GUILD, Draft("u", ONE))

    async def test_put_that_fails_changes_nothing(self, make: Make, stores: Stores) -> None:
        templates = make()
        await templates.put(GUILD, Draft("t", ONE, events=["A"]))
        with pytest.raises(LimitExceeded):
            await templates.put(GUILD, Draft("t", TWO, events=[f"E{number}" for number in range(200)]))
        assert (await templates.get(GUILD, "t")).files == ONE
        assert (await stores.tenants.gate(GUILD.key)).events == DEFAULT_EVENTS | {"A"}
