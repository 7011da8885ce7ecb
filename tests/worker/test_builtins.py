"""The built-in template: the first minute."""

import asyncio
from pathlib import Path

import msgspec
import orjson
import pytest

from pytw.errors import ConfigError
from pytw.types import Outcome, TenantState
from pytw.worker import changes
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, Rig, event, spec


@pytest.fixture
async def rig():
    db, discord = MemoryDb(), MemoryDiscord({5: A})
    thread = WorkerThread(Worker(spec(), db, discord))
    await thread.start()
    yield Rig(thread, db, discord)
    await thread.kill()


async def say(rig: Rig, text: str) -> str | None:
    message = {"content": text, "channel_id": "5", "author": {"id": "1", "username": "ada"}}
    rig.discord.sent.clear()
    result = await rig.like.dispatch_event(A, event("MESSAGE", orjson.dumps(message)))
    assert result.outcome is Outcome.OK, result.templates
    return rig.discord.sent[0][1]["content"] if rig.discord.sent else None


async def test_ping_answers_pong(rig: Rig):
    assert await say(rig, "!ping") == "pong"


async def test_hello_greets_the_author_and_counts(rig: Rig):
    first = await say(rig, "hello")
    assert first is not None
    assert "ada" in first
    assert "first" in first
    second = await say(rig, "!hello")
    assert second is not None
    assert "number 2" in second


async def test_help_shows_how_to_write_a_template(rig: Rig):
    text = await say(rig, "!help")
    assert text is not None
    assert "tw template put" in text


async def test_other_messages_are_left_alone(rig: Rig):
    assert await say(rig, "good morning") is None


async def test_event_without_a_message_is_harmless(rig: Rig):
    for payload in (b"{}", b"null", b'{"content": 1}', b"[]"):
        assert (await rig.like.dispatch_event(A, event("MESSAGE", payload))).outcome is Outcome.OK


async def test_builtins_listen_only_for_what_they_name(rig: Rig):
    assert (await rig.like.dispatch_event(A, event("GUILD_MEMBER_ADD"))).outcome is Outcome.NOT_SUBSCRIBED


class TestOtherTree:
    """`--builtins-dir`."""

    async def start(self, tree: Path, source: str) -> Rig:
        (tree / "init.luau").write_text(source)
        db = MemoryDb()
        db.put(A, template("t", "return { E = function() return 'own' end }", "E"))
        told = msgspec.structs.replace(spec(), builtins_dir=str(tree))
        thread = WorkerThread(Worker(told, db, MemoryDiscord()))
        await thread.start()
        return Rig(thread, db)

    async def test_entry_that_is_one_function_gets_every_gated_event_alone(self, tmp_path: Path):
        """Loop mode: it dispatches the tenant's templates itself, and widens no gate."""
        rig = await self.start(tmp_path, "return function(ctx) return ctx:event().name end")
        result = await rig.like.dispatch_event(A, event("E"))
        assert [(t.template, t.value) for t in result.templates] == [("$builtins", "E")]
        assert (await rig.like.dispatch_event(A, event("MESSAGE"))).outcome is Outcome.NOT_SUBSCRIBED
        await rig.like.kill()

    async def test_results_of_a_loop_are_those_of_its_templates(self, tmp_path: Path):
        rig = await self.start(
            tmp_path,
            """return function(ctx)
                return { { type = "ok", id = "$builtins", value = { 1 } }, { type = "err", id = "t", value = "no" } }
            end""",
        )
        result = await rig.like.dispatch_event(A, event("E"))
        assert result.outcome is Outcome.SCRIPT_ERROR
        assert [tuple(t) for t in result.templates] == [
            ("$builtins", Outcome.OK, None, [1], None),
            ("t", Outcome.SCRIPT_ERROR, None, None, "no"),
        ]
        assert result.meter.wall_us > 0
        assert result.request is not None
        assert [note.outcome for note in await rig.like.why(A)] == [Outcome.SCRIPT_ERROR]
        await rig.like.kill()

    async def test_what_a_loop_makes_at_its_first_event_is_made_once(self, tmp_path: Path):
        """Its manager, which reads the store first: other events wait until the first one has its answer."""
        rig = await self.start(
            tmp_path,
            """return function(ctx)
                if not ctx.store.manager then
                    made = (made or 0) + 1
                    ctx.KV:find("%%", { "templates" })
                    ctx.store.manager = {}
                end
                return made
            end""",
        )
        results = await asyncio.gather(*(rig.like.dispatch_event(A, event("E")) for _ in range(8)))
        assert [result.templates[0].value for result in results] == [1] * 8
        await rig.like.kill()

    async def test_without_a_loop_such_a_list_is_a_value_like_any_other(self, tmp_path: Path):
        rig = await self.start(
            tmp_path, "return { E = function() return { { type = 'err', id = 't', value = 'no' } } end }"
        )
        result = await rig.like.dispatch_event(B, event("E"))
        assert result.outcome is Outcome.OK
        assert [part.template for part in result.templates] == ["$builtins"]
        assert result.templates[0].value == [{"type": "err", "id": "t", "value": "no"}]
        await rig.like.kill()

    async def test_failure_of_the_loop_is_an_error_of_the_built_in_template(self, tmp_path: Path):
        rig = await self.start(tmp_path, "return function() error('lost') end")
        (part,) = (await rig.like.dispatch_event(A, event("E"))).templates
        assert (part.template, part.outcome) == ("$builtins", Outcome.SCRIPT_ERROR)
        assert "lost" in str(part.error)
        await rig.like.kill()

    async def test_loop_starts_anew_when_the_templates_change(self, tmp_path: Path):
        rig = await self.start(
            tmp_path,
            """local seen = {}
            return function(ctx)
                local event = ctx:event()
                table.insert(seen, event.name .. ":" .. tostring(event.data.reason))
                return table.concat(seen, " ")
            end""",
        )
        rig.db.states[A] = TenantState(frozenset({"E", "OnStartup"}), {})
        await rig.like.dispatch_event(A, event("E"))
        await rig.like.refresh_tenant(A)

        async def began_anew() -> bool:
            (part,) = (await rig.like.dispatch_event(A, event("E"))).templates
            return "OnStartup:updateTemplateCache" in part.value

        await until(began_anew, "the startup event of the new VM")
        await rig.like.kill()

    async def test_what_runs_may_end_before_the_templates_change(self, tmp_path: Path):
        rig = await self.start(tmp_path, "return function() task.wait(0.3) return 'ended' end")
        running = asyncio.create_task(rig.like.dispatch_event(A, event("E")))
        await asyncio.sleep(0)
        await rig.like.refresh_tenant(A)
        assert running.done()
        (part,) = (await running).templates
        assert part.value == "ended"
        await rig.like.kill()

    async def test_a_change_waits_for_what_ran_when_it_came_and_for_no_more(self, tmp_path: Path):
        rig = await self.start(tmp_path, "return function(ctx) return ctx.KV:get('key', {'s'}) end")
        assert (await rig.like.dispatch_event(A, event("E"))).outcome is Outcome.OK
        vms, goes, running = rig.like.worker.vms, [], []
        for number in range(1, 4):
            goes.append(asyncio.Event())
            rig.db.blocked[A] = goes[-1]
            running.append(asyncio.create_task(rig.like.dispatch_event(A, event("E"))))
            await until(lambda: rig.db.in_flight[A] == number, "the event to wait for its key")  # noqa: B023
            if number == 2:
                waits = asyncio.create_task(vms.let_end(A, 60))
                also = asyncio.create_task(vms.let_end(A, 60))
        await vms.let_end(B, 60)
        goes[0].set()
        await running[0]
        await vms.drop_tenant(B)  # a turn of the VM thread, in which a wait that ended too early would be seen
        assert not waits.done() and not also.done()
        goes[1].set()
        await asyncio.gather(waits, also)
        assert running[1].done() and not running[2].done()
        async with asyncio.timeout(5):
            await vms.let_end(A, 0.01)
        goes[2].set()
        assert (await running[2]).outcome is Outcome.OK
        await rig.like.kill()

    async def test_what_never_ends_does_not_hold_up_a_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(changes, "CHANGE_PATIENCE_S", 0.1)
        rig = await self.start(tmp_path, "return function() task.wait(30) end")
        running = asyncio.create_task(rig.like.dispatch_event(A, event("E")))
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await rig.like.refresh_tenant(A)
            assert (await running).outcome is not Outcome.OK
        await rig.like.kill()

    async def test_loop_is_asked_for_settings_by_its_own_names(self, tmp_path: Path):
        rig = await self.start(tmp_path, "return function(ctx) return ctx:event().name end")
        for name in ("GetSettings", "ExecuteSetting", "WebGetSettings", "INTERACTION_CREATE"):
            (part,) = (await rig.like.dispatch_event(B, event(name))).templates
            assert part.value == name
        await rig.like.kill()

    async def test_table_runs_before_the_tenants_templates(self, tmp_path: Path):
        rig = await self.start(tmp_path, "return { E = function() return 'first' end }")
        result = await rig.like.dispatch_event(A, event("E"))
        assert [t.value for t in result.templates] == ["first", "own"]
        await rig.like.kill()

    async def test_tree_that_does_not_run_is_named(self, tmp_path: Path):
        with pytest.raises(ConfigError, match=r"init\.luau"):
            await self.start(tmp_path, "error('broken')")

    def test_tree_that_is_not_there_is_named(self, tmp_path: Path):
        with pytest.raises(ConfigError, match="not a directory"):
            Worker(msgspec.structs.replace(spec(), builtins_dir=str(tmp_path / "no")), MemoryDb(), MemoryDiscord())


@pytest.fixture
async def with_tree(tmp_path):
    """Starts a worker on a tree of files."""
    started: list[WorkerThread] = []

    async def start(files: dict[str, str], db: MemoryDb | None = None) -> WorkerThread:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        placed = msgspec.structs.replace(spec(), builtins_dir=str(tmp_path))
        started.append(WorkerThread(Worker(placed, db or MemoryDb(), MemoryDiscord())))
        await started[-1].start()
        return started[-1]

    yield start
    for thread in started:
        await thread.kill()


async def test_a_loop_starts_at_the_references_root_script(with_tree):
    loop = "local n = require('./lib') return function() return { { type = 'ok', id = 'x', value = n + 1 } } end"
    files = {"builtins.templateloop.luau": loop, "lib.luau": "return 4", "init.luau": "return { E = function() end }"}
    thread = await with_tree(files)
    result = await thread.dispatch_event(A, event("INTERACTION_CREATE"))
    assert [(part.template, part.value) for part in result.templates] == [("x", 5)]


async def test_templates_require_the_types_that_the_tree_has_for_all(with_tree):
    db = MemoryDb()
    db.put(A, template("t", "local s = require('./templating-types/shared') return function() return s end", "E"))
    files = {"init.luau": "return { E = function() end }", "templating-types/shared.luau": "return 'shared'"}
    thread = await with_tree(files, db)
    result = await thread.dispatch_event(A, event("E"))
    assert result.templates[-1].value == "shared"
