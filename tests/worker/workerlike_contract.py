"""What every `WorkerLike` does, be it thread, process or pool: one class of tests, inherited by each kind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytw.errors import LimitExceeded, ScriptError, Unavailable
from pytw.limits import Limits
from pytw.routing import worker_of
from pytw.types import CreateEvent, Outcome, TenantState
from pytw.worker.like import Poolable
from pytw.worker.spec import WorkerSpec

from .fakes import MemoryDb, MemoryDiscord, template, until

#: Tenants that live in different workers and VM threads.
A, B, C = 100 << 22, 101 << 22, 102 << 22
LOOP = "return { E = function() while true do end end }"
#: More than a VM may hold, in an instant.
FILLING = "local all = 'x' while true do all ..= all end"
WAIT = "return { E = function() task.wait(30) end }"
LIMITS = Limits(cpu_bucket_ms=300)


def event(name: str = "E", payload: bytes = b"{}", **options: Any) -> CreateEvent:
    return CreateEvent(name, payload, **options)


def spec(worker_id: int = 0, workers: int = 1, *, limits: Limits = LIMITS, vm_threads: int = 2) -> WorkerSpec:
    return WorkerSpec(worker_id=worker_id, workers=workers, vm_threads=vm_threads, limits=limits)


@dataclass
class Rig:
    """A worker of some kind, and the world around it."""

    like: Poolable | Any
    db: MemoryDb = field(default_factory=MemoryDb)
    discord: MemoryDiscord = field(default_factory=MemoryDiscord)

    async def put(self, tenant: int, source: str, *events: str, name: str = "t") -> None:
        self.db.put(tenant, template(name, source, *(events or ("E",))))
        await self.like.refresh_tenant(tenant)


class WorkerLikeContract:
    """Subclasses give the fixture ``rig``."""

    SIZE = 1
    #: Whether the worker's log lines are of this process.
    LOGS_HERE = True

    async def test_it_knows_how_many_workers_are_behind_it(self, rig: Rig):
        assert len(rig.like) == self.SIZE
        assert rig.like.id == 0

    async def test_event_runs_and_its_value_comes_back(self, rig: Rig):
        await rig.put(A, "return { E = function(ctx) return ctx:event().data.n + 1 end }")
        result = await rig.like.dispatch_event(A, event(payload=b'{"n": 41}'))
        assert result.outcome is Outcome.OK
        assert [(t.template, t.value) for t in result.templates if t.template == "t"] == [("t", 42)]

    async def test_event_carries_name_author_and_redelivery(self, rig: Rig):
        await rig.put(
            A, "return { E = function(ctx) local e = ctx:event() return {e.name, e.author, e.redelivered} end }"
        )
        result = await rig.like.dispatch_event(A, event(author="7", redelivered=True))
        assert result.templates[-1].value == ["E", "7", True]

    async def test_unsubscribed_event_is_an_outcome(self, rig: Rig):
        result = await rig.like.dispatch_event(A, event("NOBODY_LISTENS"))
        assert result.outcome is Outcome.NOT_SUBSCRIBED
        assert result.templates == []

    async def test_unknown_tenant_has_the_builtin_template(self, rig: Rig):
        result = await rig.like.dispatch_event(B, event("MESSAGE", b'{"content": "!ping"}'))
        assert result.outcome is Outcome.OK
        assert [(t.template, t.value) for t in result.templates] == [("$builtins", "pong")]

    async def test_all_templates_that_listen_run_and_are_listed_in_order(self, rig: Rig):
        rig.db.put(
            A,
            template("a", "return { E = function() return 1 end }", "E"),
            template("b", "return { F = function() return 2 end }", "F"),
            template("c", "return { E = function() error('no') end }", "E"),
        )
        await rig.like.refresh_tenant(A)
        result = await rig.like.dispatch_event(A, event())
        assert result.outcome is Outcome.SCRIPT_ERROR
        own = [t for t in result.templates if t.template != "$builtins"]
        assert [(t.template, t.outcome, t.value) for t in own] == [
            ("a", Outcome.OK, 1),
            ("c", Outcome.SCRIPT_ERROR, None),
        ]
        assert own[1].error is not None
        assert "no" in own[1].error

    async def test_script_error_has_file_and_line(self, rig: Rig):
        await rig.put(A, "return { E = function()\n\n error('broken here') end }")
        result = await rig.like.dispatch_event(A, event())
        error = result.templates[-1].error
        assert error is not None
        assert "init.luau" in error
        assert ":3" in error

    async def test_paused_template_does_not_run(self, rig: Rig):
        rig.db.put(A, template("t", "return { MESSAGE = function() return 1 end }", "MESSAGE", paused=True))
        await rig.like.refresh_tenant(A)
        result = await rig.like.dispatch_event(A, event("MESSAGE"))
        assert [t.template for t in result.templates] == ["$builtins"]

    async def test_banned_tenant_runs_nothing(self, rig: Rig):
        await rig.put(A, "return { E = function() return 1 end }")
        rig.db.states[A] = TenantState(frozenset({"E"}), {}, banned=True)
        await rig.like.refresh_tenant(A)
        assert (await rig.like.dispatch_event(A, event())).outcome is Outcome.BANNED

    async def test_quarantined_tenant_runs_nothing_until_it_is_lifted(self, rig: Rig):
        await rig.put(A, "return { E = function() return 1 end }")
        rig.like.quarantine(A, time.time() + 60)
        assert (await rig.like.dispatch_event(A, event())).outcome is Outcome.QUARANTINED
        rig.like.quarantine(A, 0)
        assert (await rig.like.dispatch_event(A, event())).outcome is Outcome.OK

    async def test_deadline_ends_a_handler_that_waits(self, rig: Rig):
        await rig.put(A, WAIT)
        result = await rig.like.dispatch_event(A, event(), timeout_s=0.1)
        assert result.outcome is Outcome.TIMEOUT

    async def test_endless_loop_ends_at_its_limit_and_others_run_meanwhile(self, rig: Rig):
        await rig.put(A, LOOP)
        await rig.put(B, "return { E = function() return 1 end }")
        looping = asyncio.create_task(rig.like.dispatch_event(A, event()))
        for _ in range(5):
            assert (await rig.like.dispatch_event(B, event())).outcome is Outcome.OK
        result = await looping
        assert (result.outcome, result.limit) == (Outcome.LIMIT_EXCEEDED, "cpu")

    async def test_handler_that_waits_delays_no_other_event(self, rig: Rig):
        await rig.put(A, "return { E = function(ctx) if ctx:event().data.slow then task.wait(5) end return 1 end }")
        slow = asyncio.create_task(rig.like.dispatch_event(A, event(payload=b'{"slow": true}')))
        async with asyncio.timeout(2):
            assert (await rig.like.dispatch_event(A, event())).outcome is Outcome.OK
            assert (await rig.like.dispatch_event(B, event("MESSAGE"))).outcome is Outcome.OK
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow

    async def test_events_of_a_tenant_start_in_the_order_they_came(self, rig: Rig):
        await rig.put(A, "local n = 0 return { E = function(ctx) n += 1 return { n, ctx:event().data.i } end }")
        results = await asyncio.gather(
            *(rig.like.dispatch_event(A, event(payload=b'{"i": %d}' % i)) for i in range(1, 65))
        )
        assert [result.templates[-1].value for result in results] == [[i, i] for i in range(1, 65)]

    async def test_nowait_runs_the_event(self, rig: Rig):
        await rig.put(A, "return { E = function(ctx) ctx.KV:set('ran', true, {'s'}) end }")
        rig.like.dispatch_event_nowait(A, event())
        await until(lambda: (A, "ran", ("s",)) in rig.db.records, "the write")

    async def test_cancelled_caller_ends_the_handler(self, rig: Rig):
        source = """
            local n = 0
            return {
                E = function() n += 1 task.wait(0.5) n = -100 end,
                F = function() return n end,
                AFTER = function() task.wait(0.7) return n end,
            }"""
        await rig.put(A, source, "E", "F", "AFTER")
        running = asyncio.create_task(rig.like.dispatch_event(A, event()))

        async def started() -> bool:
            return (await rig.like.dispatch_event(A, event("F"))).templates[-1].value == 1

        await until(started, "the handler to start")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await rig.like.dispatch_event(A, event("AFTER"))).templates[-1].value == 1

    async def test_new_template_is_seen_by_the_next_event(self, rig: Rig):
        for version in range(3):
            await rig.put(A, f"return {{ E = function() return {version} end }}")
            assert (await rig.like.dispatch_event(A, event())).templates[-1].value == version

    async def test_dropped_tenant_starts_anew(self, rig: Rig):
        await rig.put(A, "local n = 0 return { E = function() n += 1 return n end }")
        assert (await rig.like.dispatch_event(A, event())).templates[-1].value == 1
        assert (await rig.like.dispatch_event(A, event())).templates[-1].value == 2
        await rig.like.drop_tenant(A)
        assert (await rig.like.dispatch_event(A, event())).templates[-1].value == 1

    async def test_script_runs_past_the_gate(self, rig: Rig):
        result = await rig.like.run_script(A, "x", "local ctx = ... return ctx:event().name", event("ANY"))
        assert result.outcome is Outcome.OK
        assert result.templates[0].value == "ANY"

    async def test_answer_and_log_call_a_request_the_same(self, rig: Rig, caplog: pytest.LogCaptureFixture):
        caplog.set_level("INFO")
        await rig.put(A, "return { E = function() error('x') end }")
        result = await rig.like.dispatch_event(A, event())
        lines = [record for record in caplog.records if record.name == "pytw.worker.dispatch"]
        if self.LOGS_HERE:
            assert result.request in [record.__dict__["request"] for record in lines]
        assert result.request is not None
        assert result.request.startswith(f"{worker_of(A, self.SIZE)}-")
        script = await rig.like.run_script(A, "x", "return 1")
        assert script.request is not None
        assert len(script.request) < 10
        assert (await rig.like.dispatch_event(A, event("NOBODY_LISTENS"))).request is None

    async def test_why_tells_what_did_not_run_and_what_ended_badly(self, rig: Rig):
        await rig.put(A, "return { E = function() error('oops') end }")
        for name in ("E", "NOBODY_LISTENS"):
            await rig.like.dispatch_event(A, event(name))
        first, second = await rig.like.why(A)
        assert (first.event, first.outcome) == ("E", Outcome.SCRIPT_ERROR)
        assert "oops" in first.reason
        assert abs(first.at - time.time()) < 60
        assert second[1:] == ("NOBODY_LISTENS", Outcome.NOT_SUBSCRIBED, None)
        assert await rig.like.why(B) == []

    async def test_check_names_the_events_of_a_template(self, rig: Rig):
        source = template("t", "return { B = function() end, A = function() end, x = 1 }")
        assert await rig.like.check_template(A, source) == ["A", "B"]
        assert await rig.like.check_template(A, template("t", "return function() end")) == ["*"]

    async def test_check_refuses_what_does_not_compile(self, rig: Rig):
        with pytest.raises(ScriptError, match=r"init\.luau.*2"):
            await rig.like.check_template(A, template("t", "local x = 1\nreturn {{"))

    async def test_check_refuses_what_loops(self, rig: Rig):
        with pytest.raises(LimitExceeded, match="the entry runs too long, or the tenant has used up") as refused:
            await rig.like.check_template(A, template("t", "while true do end"))
        assert (refused.value.limit, refused.value.hint) == ("cpu", None)

    async def test_template_that_used_up_its_cpu_time_can_be_mended(self, rig: Rig):
        await rig.put(A, LOOP)
        for _ in range(2):
            assert (await rig.like.dispatch_event(A, event())).outcome is Outcome.LIMIT_EXCEEDED
        assert await rig.like.check_template(A, template("t", "return { E = function() return 1 end }")) == ["E"]

    @pytest.mark.weakness(8)
    @pytest.mark.parametrize("filling", [FILLING, f"pcall(function() {FILLING} end) task.wait()"])
    async def test_guild_lives_on_after_a_memory_spike(self, rig: Rig, filling: str):
        """The VM that is full is replaced: the next event runs, and the one after it, with all that is stored."""
        source = f"""return {{
            Spike = function(ctx) ctx.KV:set('k', 'kept', {{'s'}}) {filling} end,
            E = function(ctx) return ctx.KV:get('k', {{'s'}}) end,
        }}"""
        await rig.put(A, source, "Spike", "E")
        for _ in range(2):
            full = await rig.like.dispatch_event(A, event("Spike"))
            assert (full.outcome, full.templates[-1].limit) == (Outcome.LIMIT_EXCEEDED, "memory")
            for _ in range(2):
                after = await rig.like.dispatch_event(A, event())
                assert (after.outcome, after.templates[-1].value) == (Outcome.OK, "kept"), after.templates

    async def test_check_refuses_what_is_too_long(self, rig: Rig):
        with pytest.raises(LimitExceeded):
            await rig.like.check_template(A, template("t", " " * (LIMITS.source_bytes_max + 1)))

    async def test_killed_worker_answers_what_was_pending(self, rig: Rig):
        source = "return { E = function(ctx) ctx.KV:get('runs', {'s'}) task.wait(30) end }"
        await rig.put(A, source)
        await rig.put(B, source)
        pending = [asyncio.create_task(rig.like.dispatch_event(t, event())) for t in (A, B)]
        await until(lambda: {("kv_get", A), ("kv_get", B)} <= set(rig.db.calls), "the events to run")
        await rig.like.kill()
        async with asyncio.timeout(2):
            outcomes = [(await task).outcome for task in pending]
        assert outcomes == [Outcome.WORKER_LOST] * 2
        assert not (await rig.like.dispatch_event(A, event())).outcome.ran
        with pytest.raises(Unavailable):
            await rig.like.drop_tenant(A)
