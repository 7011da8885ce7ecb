from __future__ import annotations

import asyncio

import pytest

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import Limits
from pytw.storage.stores import Stores
from pytw.storage.templates import TemplateStore
from pytw.types import Id

GUILD = Id.guild(1)
ONE = {"init.luau": "return { A = 1 }"}
TWO = {"init.luau": "return { B = 1 }", "sub/lib.luau": "return {}"}


async def test_every_save_is_a_version_and_what_runs_is_a_pointer(stores: Stores) -> None:
    templates = stores.templates
    first = await templates.put(GUILD, "t", ONE, events=["A"], author="9", message="one")
    second = await templates.put(GUILD, "t", TWO, events=["B"])
    draft = await templates.put(GUILD, "t", ONE, deploy=False, message="later")
    broken = await templates.put(GUILD, "t", {"init.luau": "("}, deploy=False, compiles=False)
    assert [v.id for v in await templates.versions(GUILD, "t")] == [broken, draft, second, first]
    found = await templates.get(GUILD, "t")
    assert (found.version, found.listens, found.files) == (second, ["B"], TWO)
    await templates.deploy(GUILD, "t", first)
    found = await templates.get(GUILD, "t")
    assert (found.version, found.listens, found.files, found.author, found.message) == (first, ["A"], ONE, "9", "one")
    for missing in (broken, 10**9):
        with pytest.raises(NotFound):
            await templates.deploy(GUILD, "t", missing)


async def test_removed_template_can_be_brought_back(stores: Stores) -> None:
    version = await stores.templates.put(GUILD, "t", ONE, events=["A"])
    await stores.templates.remove(GUILD, "t")
    assert await stores.templates.list(GUILD) == []
    with pytest.raises(NotFound):
        await stores.templates.get(GUILD, "t")
    with pytest.raises(NotFound):
        await stores.templates.remove(GUILD, "t")
    await stores.templates.deploy(GUILD, "t", version)
    assert (await stores.templates.get(GUILD, "t")).files == ONE


async def test_draft_of_a_new_template_does_not_run(stores: Stores) -> None:
    await stores.templates.put(GUILD, "t", ONE, events=["A"], deploy=False)
    assert (await stores.templates.get(GUILD, "t")).version is None
    assert await stores.templates.program(GUILD.key) == []
    assert "A" not in (await stores.tenants.gate(GUILD.key)).events


async def test_draft_leaves_what_runs_as_it_is(stores: Stores) -> None:
    await stores.templates.put(GUILD, "t", ONE, events=["A"], events_override=["C"], allowed_caps=["kv:*"])
    await stores.templates.put(GUILD, "t", TWO, events=["B"], deploy=False)
    found = await stores.templates.get(GUILD, "t")
    assert (found.files, found.listens, found.allowed_caps) == (ONE, ["C"], ["kv:*"])


async def test_override_is_of_one_deployment(stores: Stores) -> None:
    await stores.templates.put(GUILD, "t", ONE, events=["A"], events_override=["C"])
    await stores.templates.put(GUILD, "t", ONE, events=["A"])
    assert (await stores.templates.get(GUILD, "t")).listens == ["A"]


async def test_paused_template_is_marked_in_the_program(stores: Stores) -> None:
    await stores.templates.put(GUILD, "t", ONE, events=["A"])
    await stores.templates.set_paused(GUILD, "t", True)
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True]
    await stores.templates.put(GUILD, "t", TWO, events=["A"])
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True]
    await stores.templates.set_paused(GUILD, "t", False)
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [False]
    await stores.templates.put(GUILD, "t", ONE, events=["A"], paused=True)
    await stores.templates.put(GUILD, "v", ONE, events=["A"], paused=True)
    assert [t.paused for t in await stores.templates.program(GUILD.key)] == [True, True]
    with pytest.raises(NotFound):
        await stores.templates.set_paused(GUILD, "u", True)


async def test_program_keeps_the_order_of_creation(stores: Stores) -> None:
    for name in ("z", "a", "m"):
        await stores.templates.put(GUILD, name, ONE, events=["A"])
    await stores.templates.put(GUILD, "z", TWO, events=["B"])
    assert [t.name for t in await stores.templates.program(GUILD.key)] == ["z", "a", "m"]
    assert [t.name for t in await stores.templates.list(GUILD)] == ["a", "m", "z"]


async def test_template_that_lacks_a_source_stops_nobody_else(stores: Stores) -> None:
    await stores.templates.put(GUILD, "bad", {"init.luau": "lost"}, events=["A"])
    await stores.templates.put(GUILD, "good", ONE, events=["A"])
    await stores.db.execute("DELETE FROM sources WHERE source = 'lost'")
    assert [t.name for t in await stores.templates.program(GUILD.key)] == ["good"]


async def test_same_source_is_kept_once(stores: Stores) -> None:
    for guild in range(3):
        await stores.templates.put(Id.guild(guild), "t", ONE)
    assert await stores.db.fetchval("SELECT count(*) FROM sources") == 1


async def test_tenants_do_not_see_each_other(stores: Stores) -> None:
    version = await stores.templates.put(GUILD, "t", ONE)
    with pytest.raises(NotFound):
        await stores.templates.get(Id.user(1), "t")
    with pytest.raises(NotFound):
        await stores.templates.deploy(Id.guild(2), "t", version)
    assert await stores.templates.program(Id.guild(2).key) == []


async def test_number_of_templates_is_bounded_also_among_concurrent_writers(stores: Stores) -> None:
    templates = TemplateStore(stores.db, Limits(templates_max=3))
    done = await asyncio.gather(*(templates.put(GUILD, f"t{n}", ONE) for n in range(8)), return_exceptions=True)
    assert sum(isinstance(result, LimitExceeded) for result in done) == 5
    assert len(await templates.list(GUILD)) == 3
    await templates.put(GUILD, (await templates.list(GUILD))[0].name, TWO)


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
    stores: Stores, name: str, files: dict[str, str], error: type[Exception]
) -> None:
    templates = TemplateStore(stores.db, Limits(source_bytes_max=1024, template_files_max=3))
    with pytest.raises(error):
        await templates.put(GUILD, name, files)
    assert await stores.db.fetchval("SELECT count(*) FROM template_versions") == 0


async def test_what_is_over_a_limit_is_told_which(stores: Stores) -> None:
    templates = TemplateStore(stores.db, Limits(source_bytes_max=1024, template_files_max=3, templates_max=1))
    for files, text in (
        ({"a": "x" * 2000}, "a has 2,000 bytes, and limits.source_bytes_max is 1,024"),
        (dict.fromkeys("abcd", ""), "the template has 4 files, and limits.template_files_max is 3"),
    ):
        with pytest.raises(LimitExceeded, match=text):
            await templates.put(GUILD, "t", files)
    await templates.put(GUILD, "t", ONE)
    with pytest.raises(LimitExceeded, match=r"u would be template number 2, and .*templates_max is 1"):
        await templates.put(GUILD, "u", ONE)


async def test_version_that_does_not_compile_is_not_deployed(stores: Stores) -> None:
    with pytest.raises(RequestError, match="does not compile"):
        await stores.templates.put(GUILD, "t", ONE, compiles=False)


@pytest.mark.parametrize("name", ["hello", "a.b_c-d", "$shop/greeter#2", "x" * 64])
async def test_names_of_the_reference_are_taken(stores: Stores, name: str) -> None:
    await stores.templates.put(GUILD, name, ONE)
    assert (await stores.templates.get(GUILD, name)).name == name


async def test_deployed_sources_of_a_tenant_are_bounded_together(stores: Stores) -> None:
    big = {f"{number}.luau": "-" * 250_000 for number in range(8)}
    for name in ("a", "b"):
        await stores.templates.put(GUILD, name, big)
    with pytest.raises(LimitExceeded):
        await stores.templates.put(GUILD, "c", big)
    await stores.templates.put(GUILD, "c", big, deploy=False)
    await stores.templates.put(GUILD, "b", big)
    await stores.templates.put(Id.guild(2), "c", big)
