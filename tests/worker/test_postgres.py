"""A worker over the real database: what unit tests with a database in memory cannot show."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgpack
import msgspec
import pytest

from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import Draft, Id, Outcome, TenantState
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDiscord, until
from .workerlike_contract import A, event, spec

GUILD = Id.of(A)


@pytest.fixture
async def stores(database_url: str):
    found = Stores(await open_pool(database_url, 4))
    yield found
    await found.close()


@pytest.fixture
async def thread(stores: Stores):
    found = WorkerThread(Worker(spec(), stores, MemoryDiscord()))
    yield found
    await found.kill()


async def put(stores: Stores, source: str, *events: str) -> None:
    await stores.templates.put(GUILD, Draft("t", {"init.luau": source}, events=list(events or ("E",))))


async def test_deployed_template_runs_after_a_refresh(stores: Stores, thread: WorkerThread):
    await thread.start()
    assert (await thread.dispatch_event(A, event())).outcome is Outcome.NOT_SUBSCRIBED
    await put(
        stores, "return { E = function(ctx) ctx.KV:set('n', {1, {a = 'x'}}, {'s'}) return ctx.KV:get('n', {'s'}) end }"
    )
    await thread.refresh_tenant(A)
    result = await thread.dispatch_event(A, event())
    assert result.templates[-1].value == [1, {"a": "x"}], result.templates
    # A template beside the built-in one does not take the defaults away.
    assert (await thread.dispatch_event(A, event("MESSAGE"))).outcome is Outcome.OK


async def test_gates_are_read_at_the_start(stores: Stores, thread: WorkerThread):
    await put(stores, "return { E = function() return 1 end }")
    await stores.tenants.set_banned(A + (1 << 22), True)
    await thread.start()
    assert (await thread.dispatch_event(A, event())).templates[-1].value == 1
    assert (await thread.dispatch_event(A + (1 << 22), event("MESSAGE"))).outcome is Outcome.BANNED


async def test_tenant_state_survives_a_new_worker(stores: Stores, thread: WorkerThread):
    await put(stores, "return { E = function(ctx) ctx.Runtime:settenantstate({events = {'N'}, data = {n = 1}}) end }")
    await thread.start()
    assert (await thread.dispatch_event(A, event())).outcome is Outcome.OK
    second = WorkerThread(Worker(spec(), stores, MemoryDiscord()))
    await second.start()
    assert second.worker.listens(A, "N")
    assert not second.worker.listens(A, "INTERACTION_CREATE")
    await second.kill()


async def test_due_key_fires_and_is_gone_but_not_if_its_handler_fails(stores: Stores, thread: WorkerThread):
    await put(
        stores,
        "return { KeyExpiry = function(ctx) local key = ctx:event().data.key"
        " ctx.KV:set('seen ' .. key, true, {'s'}) if key == 'bad' then error('no') end end }",
        "KeyExpiry",
    )
    past = datetime.now(UTC) - timedelta(seconds=5)
    for key in ("good", "bad"):
        await stores.kv.set(A, key, ["s"], msgpack.packb(1), past)
    await thread.start()

    async def gone() -> bool:
        return await stores.kv.get(A, "good", ["s"]) is None and await stores.kv.get(A, "seen bad", ["s"]) is not None

    await until(gone, "the events")
    await until(lambda: not thread.worker.dispatch.in_flight, "the handlers")
    assert await stores.kv.get(A, "bad", ["s"]) is not None


async def test_key_that_its_handler_extends_stays(stores: Stores, thread: WorkerThread):
    finish, finished = stores.finish_expired, []

    async def finish_and_note(tenant: int, handled: Sequence[tuple[str, int]]) -> int:
        finished.append(await finish(tenant, handled))
        return finished[-1]

    stores.finish_expired = finish_and_note
    await put(stores, "return { KeyExpiry = function(ctx) ctx.KV:set('k', 2, {'s'}) end }", "KeyExpiry")
    await stores.kv.set(A, "k", ["s"], msgpack.packb(1), datetime.now(UTC) - timedelta(seconds=5))
    await thread.start()

    await until(lambda: finished, "the handler's end")
    assert finished == [0], "no key was deleted"
    record = await stores.kv.get(A, "k", ["s"])
    assert record is not None and msgpack.unpackb(record.value) == 2


#: A loop as small as can be: it runs the templates that the store has, each in the loop's own isolate.
LOOP = """
return function(ctx)
	local results = {}
	for _, record in ctx.KV:find('%%', {'templates'}) do
		local template = record.value
		local events = assert(loadstring(ctx.Runtime:get_template(template.name).content['init.luau']))()
		local handler = events[ctx:event().name]
		if handler then
			local ok, value = pcall(handler, ctx)
			table.insert(results, { type = if ok then 'ok' else 'err', id = template.name, value = value })
		end
	end
	if ctx:event().name == 'Make' then
		ctx.Runtime:create_template({
			name = 'made', content = { ['init.luau'] = "return { New = function() return 'new' end }" },
		})
		task.wait()
	end
	return results
end
"""


async def test_templates_that_a_loop_makes_are_in_its_store_and_run(stores: Stores, tmp_path: Path):
    (tmp_path / "init.luau").write_text(LOOP)
    await stores.tenants.set_tenant_state(A, TenantState(frozenset({"Make"}), {"own": 1}))
    found = WorkerThread(Worker(msgspec.structs.replace(spec(), builtins_dir=str(tmp_path)), stores, MemoryDiscord()))
    await found.start()
    try:
        ended = await found.dispatch_event(A, event("Make"))
        assert ended.outcome is Outcome.OK, ended.templates
        (made,) = await stores.loop_templates.list(GUILD)
        assert (made.name, made.author, made.allowed_caps) == ("made", "template $builtins", [])
        assert await stores.templates.list(GUILD) == []
        await until(lambda: found.worker.state.listens(A, "New"), "the gate")

        async def runs() -> bool:
            ended = (await found.dispatch_event(A, event("New"))).templates
            return [(t.template, t.value, t.error) for t in ended] == [("made", "new", None)]

        await until(runs, "the new template")
        state = await stores.tenants.tenant_state(A)
        assert (state.events, state.data["own"]) == ({"Make", "New"}, 1)
    finally:
        await found.kill()
