"""`ctx.Runtime`'s templates through a real worker: what a template may change, what it is told, and when it runs."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from pytw.errors import StorageUnavailable
from pytw.limits import DB_READ_TRIES_MAX
from pytw.types import CreateEvent, DispatchResult, Outcome
from pytw.worker import changes
from pytw.worker.cache import FlushOthers, FlushSelf
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, spec

#: Calls `ctx.Runtime[action](argument)` as its event says, within `caps` if that is given.
CALLER = """
return {
	Call = function(ctx)
		local asked = ctx:event().data
		local runtime = ctx.Runtime
		if asked.caps then runtime = ctx:with({ capabilities = asked.caps }).Runtime end
		if asked.argument ~= nil then return runtime[asked.action](runtime, asked.argument) end
		return runtime[asked.action](runtime)
	end,
	Edit = function(ctx)
		local found = ctx.Runtime:get_template('t')
		found.content['init.luau'] = "return { New = function() return 'edited' end }"
		ctx.Runtime:update_template(found)
	end,
	Hold = function(ctx)
		ctx.Runtime:create_template({ name = 'n', content = { ['init.luau'] = "return { New = function() return 'new' end }" } })
		ctx.KV:get('gate', {'s'})
	end,
	Wait = function(ctx) return ctx.KV:get('gate', {'s'}) end,
}
"""
EVENTS = ("Call", "Edit", "Hold", "Wait")
INIT = "return { New = function() return 'new' end }"
CAPS = ("runtime:*", "runtime:create_template", "kv:*", "mine:a", "mine:b")


class Rig:
    def __init__(self) -> None:
        self.db, self.discord = MemoryDb(), MemoryDiscord({5: A >> 0, 6: B})
        self.worker = Worker(spec(), self.db, self.discord)
        self.thread = WorkerThread(self.worker)

    async def start(self, caps: tuple[str, ...] = CAPS) -> "Rig":
        self.db.put(A, template("caller", CALLER, *EVENTS, caps=caps))
        await self.thread.start()
        return self

    async def run(self, name: str, **data: object) -> DispatchResult:
        return await self.thread.dispatch_event(A, CreateEvent(name, orjson.dumps(data)))

    async def ask(self, action: str, argument: object = None, **more: object) -> object:
        """What the call gives, or its error's text."""
        (part,) = (await self.run("Call", action=action, argument=argument, **more)).templates
        return part.value if part.error is None else part.error

    async def create(self, name: str = "t", source: str = INIT, **more: object) -> object:
        return await self.ask("create_template", {"name": name, "content": {"init.luau": source}, **more})

    def named(self, name: str):
        return next((one for one in self.db.templates[A] if one.name == name), None)

    async def runs(self, event: str, value: object) -> None:
        async def given() -> bool:
            return [t.value for t in (await self.run(event)).templates] == [value]

        await until(given, f"{event} to give {value}")


@pytest.fixture
async def rig():
    made = Rig()
    yield made
    for waiting in made.db.blocked.values():
        waiting.set()
    await made.thread.kill()


async def test_create_list_get_update_delete(rig: Rig):
    await rig.start()
    assert await rig.create(allowed_caps=["mine:a"]) is None
    await rig.runs("New", "new")
    listed = await rig.ask("list_templates")
    assert [(t["name"], t["events"], t["allowed_caps"], t["paused"], t["language"]) for t in listed] == [
        ("caller", sorted(EVENTS), list(CAPS), False, "luau"),
        ("t", ["New"], ["mine:a"], False, "luau"),
    ]
    assert all("content" not in one for one in listed)
    found = await rig.ask("get_template", "t")
    assert (found["content"], found["version"]) == ({"init.luau": INIT}, 1)
    assert (await rig.run("Edit")).templates[0].error is None
    await rig.runs("New", "edited")
    assert rig.named("t").allowed_caps == ["mine:a"]
    assert await rig.ask("update_template", {"name": "t", "paused": True, "allowed_caps": {}}) is None
    assert (rig.named("t").paused, rig.named("t").allowed_caps) == (True, [])
    await until(lambda: not rig.worker.state.listens(A, "New"), "the template to be paused")
    assert await rig.ask("delete_template", "t") is None
    assert (await rig.ask("get_template", "t"), rig.named("t")) == (None, None)


async def test_new_template_holds_nothing_unless_it_is_given(rig: Rig):
    await rig.start()
    await rig.create()
    assert rig.named("t").allowed_caps == []


@pytest.mark.parametrize(
    ("narrowed", "given", "missing"),
    [
        (None, ["mine:a", "mine:b"], None),
        (None, ["mine:c"], "mine:c"),
        (None, ["*"], "*"),
        (["runtime:create_template", "mine:a"], ["mine:a"], None),
        (["runtime:create_template", "mine:a"], ["mine:b"], "mine:b"),
    ],
)
async def test_nobody_hands_out_more_than_it_holds(rig: Rig, narrowed: object, given: list, missing: str | None):
    await rig.start()
    wanted = {"name": "t", "content": {"init.luau": INIT}, "allowed_caps": given}
    told = await rig.ask("create_template", wanted, **({"caps": narrowed} if narrowed else {}))
    if missing is None:
        assert (told, rig.named("t").allowed_caps) == (None, given)
    else:
        assert f"Missing capability: {missing}" in told
        assert rig.named("t") is None


async def test_who_holds_all_can_give_all(rig: Rig):
    await rig.start(("*",))
    assert await rig.create(allowed_caps=["*", "any"]) is None


@pytest.mark.parametrize("held", [["*"], ["mine:a", "discord:create_message"]])
async def test_template_that_holds_more_is_not_the_callers_to_change(rig: Rig, held: list):
    await rig.start()
    strong = template("strong", INIT, "New", caps=held)
    rig.db.put(A, *rig.db.templates[A], strong)
    for action, argument in (
        ("update_template", {"name": "strong", "content": {"init.luau": INIT}, "allowed_caps": ["mine:a"]}),
        ("update_template", {"name": "strong", "paused": True}),
        ("delete_template", "strong"),
    ):
        assert "which this one does not" in await rig.ask(action, argument)
    assert rig.named("strong") is strong


async def test_template_with_secrets_is_its_own_and_the_operators(rig: Rig):
    await rig.start()
    await rig.create(allowed_caps=["mine:a"])
    rig.db.secrets[A, "t", "key"] = rig.db.secrets[A, "later", "key"] = "hunter2"
    for action, argument in (
        ("update_template", {"name": "t", "content": {"init.luau": INIT}}),
        ("delete_template", "t"),
        ("create_template", {"name": "later", "content": {"init.luau": INIT}}),
    ):
        assert "has secrets" in await rig.ask(action, argument)
    rig.db.secrets[A, "caller", "key"] = "hunter2"
    assert "hunter2" not in str(await rig.ask("get_template", "caller"))
    assert await rig.ask("update_template", {"name": "caller", "events": ["Call", "Extra"]}) is None


@pytest.mark.parametrize(
    "action", ["list_templates", "get_template", "create_template", "update_template", "delete_template"]
)
async def test_each_action_needs_its_capability(rig: Rig, action: str):
    await rig.start(("runtime:stats", f"runtime:{action}x"))
    argument = {"name": "t", "content": {"init.luau": INIT}} if action.startswith(("create", "update")) else "t"
    told = await rig.ask(action, None if action == "list_templates" else argument)
    assert f"runtime operation `{action}` not allowed in this template context" in told


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"content": {"init.luau": "return {"}}, "t does not compile: init.luau:1:"),
        ({"content": {"init.luau": INIT, "lib.luau": "local ="}}, "t does not compile: lib.luau:1:"),
        ({"content": {"init.luau": "error('boom')"}}, "boom"),
        ({"content": {"init.luau": "return 5"}}, "return"),
        ({"content": {"lib.luau": "return {}"}}, "init"),
        ({"content": {}}, "at least one file"),
        ({"content": {"init.luau": 5}}, "content must be text by path"),
        ({"content": {"../x.luau": ""}}, "not a path"),
        ({"content": {"init.luau": "-- " + "x" * 300_000}}, "source_bytes_max"),
        ({"content": {"init.luau": INIT}, "name": "$builtins"}, "not a template name"),
        ({"content": {"init.luau": INIT}, "name": "a b"}, "not a template name"),
        ({"content": {"init.luau": INIT}, "language": "js"}, "language must be 'luau'"),
        ({"content": {"init.luau": INIT}, "events": [""]}, "not an event name"),
        ({"content": {"init.luau": INIT}, "events": "New"}, "events must be an array"),
        ({"content": {"init.luau": INIT}, "error_channel": "x"}, "not the id of a channel"),
        ({"content": {"init.luau": INIT}, "error_channel": "6"}, "does not belong to this guild"),
        ({"content": {"init.luau": INIT}, "error_channel": 5}, "error_channel must be the id"),
        ({"content": {"init.luau": INIT}, "paused": "yes"}, "paused must be true or false"),
        ({"content": {"init.luau": INIT}, "contents": {}}, "no field 'contents'"),
        ({"content": {"init.luau": INIT}, "name": "caller"}, "there is a template caller already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_is_said_and_nothing_is_changed(rig: Rig, wanted: dict, text: str):
    await rig.start()
    before = list(rig.db.templates[A])
    assert text in await rig.ask("create_template", {"name": "t", **wanted})
    assert rig.db.templates[A] == before
    assert rig.worker.cache.regenerations == {}


async def test_update_of_what_is_not_there_is_said(rig: Rig):
    await rig.start()
    for action, argument in (("update_template", {"name": "no"}), ("delete_template", "no")):
        assert "there is no template no" in await rig.ask(action, argument)


async def test_own_error_channel_is_taken(rig: Rig):
    await rig.start()
    assert await rig.create(error_channel="5") is None


async def test_change_is_in_force_when_the_event_that_made_it_has_ended_and_ends_no_other(rig: Rig):
    await rig.start()
    assert (await rig.run("Wait")).outcome is Outcome.OK
    gate = rig.db.blocked[A] = asyncio.Event()
    other = asyncio.create_task(rig.run("Wait"))
    await until(lambda: rig.db.in_flight[A] == 1, "the other event")
    rig.db.blocked.pop(A)
    maker = asyncio.create_task(rig.run("Hold"))
    await until(lambda: rig.named("n"), "the template")
    assert (await maker).outcome is Outcome.OK
    await rig.runs("New", "new")
    assert not other.done()
    gate.set()
    assert (await other).outcome is Outcome.OK


async def test_it_is_not_in_force_while_that_event_runs(rig: Rig):
    await rig.start()
    assert (await rig.run("Wait")).outcome is Outcome.OK
    reads, go, get = [], asyncio.Event(), rig.db.kv_get

    async def held(*asked: object):
        reads.append(asked)
        await go.wait()
        return await get(*asked)

    rig.db.kv_get = held  # type: ignore[method-assign]
    maker = asyncio.create_task(rig.run("Hold"))
    await until(lambda: reads, "the event to wait behind its change")
    assert rig.named("n")
    (waiting,) = rig.worker.cache.regenerations[A].values()
    assert waiting == {FlushSelf()}
    assert not rig.worker.state.listens(A, "New")
    go.set()
    await maker
    await rig.runs("New", "new")
    assert rig.worker.cache.regenerations == {}


async def test_database_that_is_away_is_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "REGENERATION_PAUSE_S", 0.01)
    await rig.start()
    await rig.run("Wait")
    failed = []

    async def gate(tenant: int):
        failed.append(tenant)
        # More often than a read is tried again by itself.
        if len(failed) <= DB_READ_TRIES_MAX:
            raise StorageUnavailable("away")
        return rig.db._gate(tenant)

    rig.db.gate = gate  # type: ignore[method-assign]
    assert await rig.create() is None
    await rig.runs("New", "new")
    assert len(failed) == DB_READ_TRIES_MAX + 1


async def test_others_are_flushed_where_they_live(rig: Rig):
    await rig.start()
    rig.db.put(B, template("t", INIT, "New"))
    await rig.thread.refresh_tenant(B)
    assert (await rig.thread.dispatch_event(B, CreateEvent("New", b"{}"))).templates[0].value == "new"
    rig.db.put(B, replace(template("t", INIT.replace("'new'", "'newer'"), "New")))
    rig.worker.changes.defer(A, 12345, FlushOthers(frozenset({B})))

    async def newer() -> bool:
        ended = await rig.thread.dispatch_event(B, CreateEvent("New", b"{}"))
        return [t.value for t in ended.templates] == ["newer"]

    await until(newer, "the other tenant's templates")
