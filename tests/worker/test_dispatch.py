"""`WorkerDispatch` and `ProgramLoads` over real engines: gate, bounds, lazy loads, notes."""

import asyncio
import logging

import pytest

from pytw.limits import Limits
from pytw.types import CreateEvent, DispatchResult, Outcome, TenantState
from pytw.worker import loads
from pytw.worker.cache import ENTRY_BYTES, PROGRAM_LIFE_S
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import LIMITS, WAIT, A, B, C, event, spec

ONE = "return { E = function() return 1 end }"


class World:
    """A started worker with a tenant A whose template listens for E."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.db = MemoryDb()
        self.discord = MemoryDiscord()
        self.worker = Worker(spec(limits=limits), self.db, self.discord)
        self.thread = WorkerThread(self.worker)

    async def start(self, source: str = ONE, *tenants: int) -> "World":
        for tenant in tenants or (A,):
            self.db.put(tenant, template("t", source, "E"))
        await self.thread.start()
        return self

    async def run(self, tenant: int = A, name: str = "E", payload: bytes = b"{}") -> DispatchResult:
        return await self.thread.dispatch_event(tenant, event(name, payload))

    def submit(self, tenant: int = A, name: str = "E", timeout_ms: int = 0) -> tuple[int, list[DispatchResult]]:
        ended: list[DispatchResult] = []
        request = self.worker.dispatch.dispatch(
            tenant, event(name), lambda body: ended.append(DispatchResult(body)), timeout_ms
        )
        return request, ended


@pytest.fixture
async def make():
    worlds: list[World] = []

    def world(limits: Limits = LIMITS) -> World:
        worlds.append(World(limits))
        return worlds[-1]

    yield world
    for one in worlds:
        for waiting in one.db.blocked.values():
            waiting.set()
        await one.thread.kill()


async def test_failure_beside_a_result_that_has_a_table_for_a_key_is_answered(make):
    world = make()
    odd = template("odd", "return { E = function() return { [{ 1 }] = 2 } end }", "E")
    world.db.put(A, odd, template("bad", "return { E = function() error('no') end }", "E"))
    await world.thread.start()
    async with asyncio.timeout(5):
        assert (await world.run()).outcome is Outcome.SCRIPT_ERROR


class TestLoading:
    async def test_program_is_loaded_with_the_first_event_and_only_then(self, make):
        world = await make().start()
        assert ("program", A) not in world.db.calls
        for _ in range(3):
            assert (await world.run()).outcome is Outcome.OK
        assert world.db.calls.count(("program", A)) == 1

    async def test_slow_load_keeps_order_and_delays_no_other_tenant(self, make):
        source = "local n = 0 return { E = function() n += 1 return n end }"
        world = await make().start(source, A, B)
        world.db.blocked[A] = asyncio.Event()
        order: list[int] = []
        for number in range(5):
            world.worker.dispatch.dispatch(A, event(), lambda body, n=number: order.append(n))
        async with asyncio.timeout(2):
            assert (await world.run(B)).outcome is Outcome.OK
        assert order == []
        world.db.blocked[A].set()
        await until(lambda: len(order) == 5, "the events")
        assert order == [0, 1, 2, 3, 4]
        assert (await world.run()).templates[-1].value == 6

    async def test_events_that_wait_for_a_load_are_bounded(self, make):
        world = await make(Limits(queue_events_max=3)).start()
        world.db.blocked[A] = asyncio.Event()
        results = [world.submit()[1] for _ in range(4)]
        assert [len(ended) for ended in results] == [0, 0, 0, 1]
        assert (results[3][0].outcome, results[3][0].limit) == (Outcome.SHED, "load_queue")

    async def test_event_outlives_a_short_absence_of_the_database(self, make):
        world = await make().start()
        world.db.failing = True
        _, ended = world.submit()
        await until(lambda: world.db.calls.count(("program", A)) > 1, "the second try")
        world.db.failing = False
        await until(lambda: ended, "the answer")
        assert ended[0].outcome is Outcome.OK

    async def test_failed_load_is_an_outcome_and_the_next_event_tries_again(self, make, monkeypatch):
        monkeypatch.setattr(loads, "RETRY_FOR_S", 0.0)
        world = await make().start()
        world.db.failing = True
        result = await world.run()
        assert result.outcome is Outcome.NOT_READY
        assert "the database is away" in (result.limit or "")
        world.db.failing = False
        assert (await world.run()).outcome is Outcome.OK

    async def test_change_during_a_load_is_not_lost(self, make):
        world = await make().start()
        world.db.blocked[A] = asyncio.Event()
        _, ended = world.submit()
        await until(lambda: ("program", A) in world.db.calls, "the load")
        world.db.put(A, template("t", "return { E = function() return 2 end }", "E"))
        refreshed = asyncio.create_task(world.worker.refresh_tenant(A))
        await asyncio.sleep(0)
        world.db.blocked.pop(A).set()
        await refreshed
        assert (await world.run()).templates[-1].value == 2
        assert len(ended) == 1

    async def test_deadline_runs_while_an_event_waits_for_its_load(self, make):
        world = await make().start()
        world.db.blocked[A] = asyncio.Event()
        _, ended = world.submit(timeout_ms=1)
        await until(lambda: ended, "the deadline")
        assert (ended[0].outcome, ended[0].limit) == (Outcome.TIMEOUT, "load")

    async def test_event_that_waits_for_its_load_can_be_cancelled(self, make):
        world = await make().start()
        world.db.blocked[A] = asyncio.Event()
        request, ended = world.submit()
        world.worker.dispatch.cancel(A, request)
        assert ended[0].outcome is Outcome.CANCELLED
        assert world.worker.dispatch.in_flight == 0

    async def test_ban_that_comes_during_the_load_counts(self, make):
        world = await make().start()
        world.db.blocked[A] = asyncio.Event()
        _, ended = world.submit()
        world.db.states[A] = TenantState(frozenset({"E"}), {}, banned=True)
        refreshed = asyncio.create_task(world.worker.refresh_tenant(A))
        world.db.blocked.pop(A).set()
        await refreshed
        await until(lambda: ended, "the answer")
        assert ended[0].outcome is Outcome.BANNED

    async def test_a_program_whose_life_is_over_is_unloaded_and_loaded_again(self, make):
        world = await make().start(ONE, A, B)
        for tenant in (A, B):
            assert (await world.run(tenant)).outcome is Outcome.OK
        world.worker.cache.loaded[A].used -= PROGRAM_LIFE_S + 1
        world.worker._sweep()
        assert list(world.worker.cache.loaded) == [B]
        assert (await world.run()).outcome is Outcome.OK
        assert world.db.calls.count(("program", A)) == 2
        stats = world.worker.stats()
        assert (stats["program_hits"], stats["program_misses"], stats["program_evictions"]) == (0, 3, 1)

    async def test_evicted_program_is_loaded_again(self, make):
        world = await make().start(ONE, A, B, C)
        world.worker.cache._bytes_max = 2 * (ENTRY_BYTES + 100)
        for tenant in (A, B, C, A):
            assert (await world.run(tenant)).outcome is Outcome.OK
        assert world.db.calls.count(("program", A)) == 2
        assert len(world.worker.cache) == 2


class TestBounds:
    async def test_worker_sheds_what_is_over_its_queue(self, make):
        world = await make(Limits(worker_queue_events_max=64)).start(WAIT)
        results = [world.submit()[1] for _ in range(65)]
        assert (results[-1][0].outcome, results[-1][0].limit) == (Outcome.SHED, "worker_queue")
        assert world.worker.dispatch.in_flight == 64

    async def test_payload_over_the_bound_is_refused(self, make):
        world = await make(Limits(event_bytes_max=1024)).start()
        assert (await world.run(payload=b"{" + b" " * 1024 + b"}")).outcome is Outcome.SHED

    async def test_drain_waits_for_what_runs_and_takes_nothing_new(self, make):
        world = await make().start("return { E = function() task.wait(0.2) return 1 end }")
        _, ended = world.submit()
        draining = asyncio.create_task(world.worker.drain(5))
        await asyncio.sleep(0)
        assert (await world.run()).outcome is Outcome.NOT_READY
        assert await draining
        assert ended[0].outcome is Outcome.OK

    async def test_drain_gives_up_at_its_deadline(self, make):
        world = await make().start(WAIT)
        world.submit()
        assert not await world.worker.drain(0.05)

    async def test_receivers_bug_costs_nobody_else_a_result(self, make):
        world = await make().start()
        await world.run()

        def broken(body: bytes) -> None:
            raise ValueError("a bug")

        world.worker.dispatch.dispatch(A, event(), broken)
        assert (await world.run()).outcome is Outcome.OK


class TestWhy:
    async def test_what_did_not_run_is_noted_with_its_reason(self, make):
        world = await make().start()
        await world.run(name="NOBODY")
        world.worker.state.quarantine(A, 4e9)
        await world.run()
        notes = world.worker.dispatch.why.of(A)
        assert [(note.event, note.outcome) for note in notes] == [
            ("NOBODY", Outcome.NOT_SUBSCRIBED),
            ("E", Outcome.QUARANTINED),
        ]
        assert world.worker.stats()["outcome_quarantined"] == 1

    async def test_script_error_is_logged_with_tenant_and_request(self, make, caplog):
        world = await make().start("return { E = function() error('oops') end }")
        with caplog.at_level(logging.INFO, "pytw.worker.dispatch"):
            request, ended = world.submit()
            await until(lambda: ended, "the answer")
        (line,) = [record for record in caplog.records if "oops" in record.getMessage()]
        assert (line.tenant, line.request) == (A, f"0-{request}")
        assert "template t" in line.getMessage()
        assert "oops" in (world.worker.dispatch.why.of(A)[0].reason or "")


class TestHostCalls:
    async def test_template_may_only_what_its_capabilities_say(self, make):
        source = "return { E = function(ctx) return ctx.KV:get('k', {'s'}) end }"
        world = make()
        world.db.put(A, template("may", source, "E", caps=["kv:get:k"]), template("not", source, "E", caps=[]))
        await world.thread.start()
        result = await world.run()
        may, may_not = result.templates
        assert may.outcome is Outcome.OK
        assert may_not.outcome is Outcome.SCRIPT_ERROR
        assert "KV operation `get` not allowed in this template context for key 'k'" in (may_not.error or "")

    async def test_script_holds_every_capability(self, make):
        world = await make().start()
        source = "local ctx = ... ctx.KV:set('k', {1, 'x'}, {'s'}) return ctx.KV:get('k', {'s'})"
        result = await world.thread.run_script(A, "admin", source)
        assert result.templates[0].value == [1, "x"]

    async def test_value_round_trips_through_the_store(self, make):
        world = await make().start(
            "return { E = function(ctx) ctx.KV:set('k', ctx:event().data, {'s'}) local v, ok = ctx.KV:get('k', {'s'})"
            " return {v, ok} end }"
        )
        result = await world.run(payload=b'{"a": [1, 2.5, "x", true]}')
        assert result.templates[-1].value == [{"a": [1, 2.5, "x", True]}, True]

    async def test_storage_error_is_raised_at_the_call(self, make):
        world = await make().start(
            "return { E = function(ctx) local ok, e = pcall(function() ctx.KV:get('k', {'s'}) end) return tostring(e) end }"
        )
        await world.worker.loads.ensure(A)
        world.db.failing = True
        assert "the database is away" in (await world.run()).templates[-1].value

    async def test_tenant_state_takes_effect_with_the_call(self, make):
        world = await make().start(
            "return { E = function(ctx) ctx.Runtime:settenantstate({events = {'NEW'}, data = {}}) end }"
        )
        assert (await world.run(name="NEW")).outcome is Outcome.NOT_SUBSCRIBED
        assert (await world.run()).outcome is Outcome.OK
        assert world.worker.state.listens(A, "NEW")

    async def test_message_into_another_guild_is_refused(self, make):
        world = await make().start(
            "return { E = function(ctx) ctx.Discord:create_message({channel_id = '9', data = {content = 'x'}}) end }"
        )
        world.discord.channels[9] = B
        result = await world.run()
        assert "does not belong to this guild" in (result.templates[-1].error or "")
        assert world.discord.sent == []


class TestStart:
    async def test_subscribed_tenants_hear_of_the_start(self, make):
        world = make()
        world.discord.channels[9] = A
        source = (
            "return { OnStartup = function(ctx) ctx.Discord:create_message("
            "{channel_id = '9', data = {content = ctx:event().data.reason}}) end }"
        )
        world.db.put(A, template("t", source, "OnStartup"))
        await world.thread.start()
        await until(lambda: world.discord.sent, "the event")
        assert world.discord.sent == [(9, {"content": "worker_startup"})]

    async def test_offer_tells_the_gateway_the_outcome(self, make):
        world = await make().start()
        outcomes: list[Outcome] = []
        world.worker.offer(A, CreateEvent("E", b"{}"), outcomes.append)
        world.worker.offer(A, CreateEvent("NOBODY", b"{}"), outcomes.append)
        await until(lambda: len(outcomes) == 2, "the outcomes")
        assert outcomes == [Outcome.NOT_SUBSCRIBED, Outcome.OK]
        assert world.worker.listens(A, "E")
        assert not world.worker.listens(A, "NOBODY")

    async def test_failed_vm_thread_is_replaced(self, make):
        world = make()
        world.worker.vms._options["test_hooks"] = True
        await world.start()
        assert (await world.run()).outcome is Outcome.OK
        engine = world.worker.vms._engines[world.worker.vms._place(A)]
        engine.panic()

        async def runs_again() -> bool:
            return (await world.run()).outcome is Outcome.OK

        await until(runs_again, "a new VM thread")

    async def test_answer_to_a_failed_vm_thread_reaches_no_call_of_the_next(self, make):
        world = make()
        world.worker.vms._options["test_hooks"] = True
        await world.start("return { E = function(ctx) return ctx.KV:get('k', { 's' }) end }")
        assert (await world.run()).outcome is Outcome.OK
        gate = world.db.blocked[A] = asyncio.Event()
        _, first = world.submit()
        await until(lambda: world.db.in_flight[A] == 1, "the call")
        world.worker.vms._engines[world.worker.vms._place(A)].panic()
        await until(lambda: first, "the end of the first event")
        assert world.worker.vms._caller(A, 2) is not None
        _, second = world.submit()
        assert world.worker.vms._caller(A, 2) is None
        gate.set()
        await until(lambda: second, "the end of the second event")
