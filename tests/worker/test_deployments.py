"""From the API to the VM: what is deployed is what the next event runs, modules included. Real VM, real PostgreSQL, real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pytw import values
from pytw.api import ApiContext, ApiServer
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.storage.templatechoice import choose, choose_versions
from pytw.types import Id, Outcome
from pytw.worker.pool import WorkerPool
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker
from tests.api.conftest import FakeHealth

from .fakes import MemoryDiscord, until
from .workerlike_contract import A, B, C, event, spec

ENTRY = "local lib = require('./lib') return { E = function() return lib.value end }"


@dataclass
class Rig:
    """A served API over a pool of two workers."""

    stores: Stores
    pool: WorkerPool
    http: aiohttp.ClientSession
    context: ApiContext

    async def call(self, method: str, path: str, body: Any = None, *, tenant: int = A, status: int = 200) -> Any:
        where = path if path.startswith("/i/") else f"/guilds/{tenant}/templates/{path}"
        async with self.http.request(method, where, json=body) as response:
            answer = await response.json()
            assert response.status == status, answer
            return answer

    async def put(self, value: object, name: str = "t", **more: Any) -> Any:
        return await self.call("PUT", name, {"files": files(value), **more})

    async def publish(self, version: str, value: object) -> None:
        await self.call("PUT", f"/i/shop/greet/{version}", {"files": files(value)})

    async def runs(self, tenant: int = A) -> list[Any]:
        """What the templates answer to the next event, in order."""
        result = await self.pool.dispatch_event(tenant, event())
        if result.outcome is Outcome.NOT_SUBSCRIBED:
            return []
        assert result.outcome is Outcome.OK, result.templates
        return [part.value for part in result.templates if part.template != "$builtins"]


def files(value: object) -> dict[str, str]:
    """Only the module differs; the entry never changes."""
    return {"init.luau": ENTRY, "lib.luau": f"return {{ value = '{value}' }}"}


@pytest.fixture
async def rig(database_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    stores = Stores(await open_pool(database_url, 4))
    pool = WorkerPool([WorkerThread(Worker(spec(number, 2), stores, MemoryDiscord())) for number in range(2)])
    for member in pool:
        await member.start()
    context = ApiContext(
        workers=pool,
        templates=lambda: stores.templates,
        versions=lambda: stores.versions,
        shop=stores.shop,
        health=FakeHealth(),
    )
    server = ApiServer(context)
    await server.start(None, tmp_path / "control.sock")
    connector = aiohttp.UnixConnector(str(tmp_path / "control.sock"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
        yield Rig(stores, pool, http, context)
    await server.close()
    for member in pool:
        await member.kill()
    await stores.close()


async def test_each_change_is_what_the_next_event_runs(rig: Rig) -> None:
    await rig.put("one")
    assert await rig.runs() == ["one"]
    assert (await rig.put("two"))["version"] == 2
    assert await rig.runs() == ["two"]
    await rig.put("three", events=["E"])
    assert await rig.runs() == ["three"]
    assert (await rig.call("POST", "t/rollback"))["version"] == 2
    assert await rig.runs() == ["two"]
    assert (await rig.call("POST", "t/rollback", {}))["version"] == 1
    assert await rig.runs() == ["one"]
    answer = await rig.call("POST", "t/deploy", {"version": 3})
    assert (answer["version"], answer["running"], answer["events"]) == (3, True, ["E"])
    assert await rig.runs() == ["three"]
    assert (await rig.call("POST", "t/rollback", {"version": 2}))["version"] == 2
    assert await rig.runs() == ["two"]
    await rig.call("DELETE", "t")
    assert await rig.runs() == []
    assert (await rig.call("POST", "t/undelete"))["version"] == 2
    assert await rig.runs() == ["two"]


@pytest.mark.weakness(15)
async def test_paused_template_never_runs(rig: Rig) -> None:
    """Paused while it is loaded, put while it is paused, put paused, and paused before its worker ever saw it."""
    await rig.put("one")
    await rig.put("beside", "u")
    assert await rig.runs() == ["one", "beside"]
    await rig.call("POST", "t/pause")
    assert await rig.runs() == ["beside"]
    await rig.put("two")
    assert await rig.runs() == ["beside"]
    await rig.call("POST", "t/rollback")
    assert await rig.runs() == ["beside"]
    await rig.call("POST", "t/resume")
    assert await rig.runs() == ["one", "beside"]
    await rig.put("three", paused=True)
    assert await rig.runs() == ["beside"]
    await rig.call("POST", "u/pause")
    assert await rig.runs() == []
    anew = WorkerThread(Worker(spec(), rig.stores, MemoryDiscord()))
    await anew.start()
    assert (await anew.dispatch_event(A, event())).outcome is Outcome.NOT_SUBSCRIBED
    await anew.kill()


@pytest.mark.parametrize(
    ("module", "said"),
    [("return {", "t does not compile: lib.luau:1"), ("error('no database')", "no database")],
)
async def test_what_does_not_run_is_saved_and_what_runs_stays(rig: Rig, module: str, said: str) -> None:
    await rig.put("one")
    answer = await rig.call("PUT", "t", {"files": {**files(""), "lib.luau": module}, "message": "oops"}, status=422)
    assert (answer["version"], said in answer["message"]) == (2, True)
    assert await rig.runs() == ["one"]
    broken, runs = (await rig.call("GET", "t/versions"))["versions"]
    assert (broken["version"], broken["runs"], broken["message"], runs["runs"]) == (2, False, "oops", True)
    assert said in broken["error"]
    answer = await rig.call("POST", "t/deploy", {"version": 2}, status=422)
    assert (answer["version"], said in answer["message"]) == (2, True)
    assert await rig.runs() == ["one"]
    await rig.put("three")
    assert await rig.runs() == ["three"]
    await rig.call("POST", "t/rollback")
    assert await rig.runs() == ["one"]
    assert (await rig.call("GET", "t/versions/2"))["files"]["lib.luau"] == module


async def test_version_that_failed_runs_when_it_no_longer_does(rig: Rig) -> None:
    """Its failure was not its own; it is evaluated anew when it is to run."""
    await rig.put("one")
    await rig.put("two")
    await rig.stores.db.execute(
        "UPDATE template_versions SET error = 'no CPU time was left', compiles = false, events = NULL WHERE number = 1"
    )
    assert (await rig.call("POST", "t/deploy", {"version": 1}))["events"] == ["E"]
    assert await rig.runs() == ["one"]
    assert (await rig.call("GET", "t/versions/1"))["error"] is None


async def test_draft_runs_when_it_is_deployed(rig: Rig) -> None:
    await rig.put("one")
    answer = await rig.put("two", deploy=False)
    assert (answer["version"], answer["deployed"]) == (2, False)
    assert await rig.runs() == ["one"]
    await rig.call("POST", "t/deploy", {"version": 2})
    assert await rig.runs() == ["two"]


async def test_shop_is_what_the_next_event_runs_for_every_tenant_that_takes_it(rig: Rig) -> None:
    await rig.publish("1.9", "nine")
    answer = await rig.call("PUT", "t", {"shop": "$shop/greet#latest"}, status=404)
    assert answer["hint"] == "version 1.9 is pending"
    await rig.call("PUT", "/i/shop/greet/1.9/review", {"state": "approved"})
    for tenant, ref in ((A, "latest"), (B, "latest"), (C, "1.9")):
        answer = await rig.call("PUT", "t", {"shop": f"$shop/greet#{ref}"}, tenant=tenant)
        assert (answer["shop_version"], answer["events"], answer["running"]) == ("1.9", ["E"], True)
        assert await rig.runs(tenant) == ["nine"]
    await rig.publish("1.10", "ten")
    answer = await rig.call("PUT", "/i/shop/greet/1.10/review", {"state": "approved"})
    assert (answer["tenants"], answer["away"]) == (2, 0)
    assert [await rig.runs(tenant) for tenant in (A, B, C)] == [["ten"], ["ten"], ["nine"]]
    answer = await rig.call("PUT", "/i/shop/greet/1.9/review", {"state": "denied"})
    assert answer["tenants"] == 3
    assert [await rig.runs(tenant) for tenant in (A, B, C)] == [["ten"], ["ten"], []]
    (note,) = [note for note in await rig.pool.why(C) if note.outcome is Outcome.NOT_READY]
    assert (note.event, note.reason) == ("load of t", "the shop has no approved version for $shop/greet#1.9")
    await rig.call("PUT", "/i/shop/greet/1.10/withdraw")
    assert [await rig.runs(tenant) for tenant in (A, B, C)] == [[], [], []]
    await rig.call("PUT", "/i/shop/greet/1.9/review", {"state": "approved"})
    assert [await rig.runs(tenant) for tenant in (A, B, C)] == [["nine"]] * 3


@pytest.mark.weakness(24)
async def test_bad_row_leaves_the_other_templates_running(rig: Rig) -> None:
    await rig.put("one", "a")
    await rig.put("bad", "b")
    await rig.put("three", "c")
    await rig.stores.db.execute(
        """UPDATE template_versions SET language = 'wren', files = '{"x": 1}' WHERE template = 'b'"""
    )
    await rig.pool.refresh_tenant(A)
    assert await rig.runs() == ["one", "three"]
    assert "language is 'wren'" in str([note.reason for note in await rig.pool.why(A)])
    anew = WorkerThread(Worker(spec(), rig.stores, MemoryDiscord()))
    await anew.start()
    assert (await anew.dispatch_event(A, event())).outcome is Outcome.OK
    await anew.kill()


async def test_of_deployments_at_once_the_last_one_saved_runs(rig: Rig) -> None:
    await asyncio.gather(*(rig.put(number) for number in range(6)))
    runs = await rig.stores.templates.get(Id.of(A), "t")
    assert await rig.runs() == [runs.files["lib.luau"].split("'")[1]]  # type: ignore[index]
    assert runs.version == 6


async def test_handler_that_runs_while_its_template_changes_ends_as_it_began(rig: Rig) -> None:
    """The reference drops the VM, and with it whatever runs in it."""
    slow = """
        local lib = require('./lib')
        return { E = function(ctx)
            ctx.KV:set('in', 1, {'s'})
            while ctx.KV:get('go', {'s'}) == nil do task.wait(0.02) end
            return lib.value
        end }"""
    await rig.put("one", "beside")
    await rig.call("PUT", "t", {"files": {**files("one"), "init.luau": slow}})
    running = asyncio.create_task(rig.runs())
    await until(lambda: rig.stores.kv.get(A, "in", ["s"]), "the handler to start")
    await rig.put("two", "beside")
    await rig.put("two")
    assert await rig.runs() == ["two", "two"]
    assert not running.done()
    await rig.stores.kv.set(A, "go", ["s"], values.pack(1))
    assert await running == ["one", "one"]


async def test_in_loop_mode_there_is_what_runs_and_the_rest_is_refused_with_the_reason(rig: Rig) -> None:
    rig.context.templates = lambda: choose(rig.stores, loop_mode=True)
    rig.context.versions = lambda: choose_versions(rig.stores, loop_mode=True)
    assert (await rig.put("one"))["version"] == 1
    for method, path, body in (
        ("PUT", "t", {"shop": "$shop/greet#1"}),
        ("PUT", "t", {"files": files("two"), "deploy": False}),
        ("GET", "t/versions", None),
        ("GET", "t/versions/1", None),
        ("POST", "t/deploy", {"version": 1}),
        ("POST", "t/rollback", {}),
        ("POST", "t/undelete", None),
    ):
        answer = await rig.call(method, path, body, status=400)
        assert "in loop mode a template is one record of the key-value store" in answer["message"]
    answer = await rig.call("PUT", "t", {"files": {"init.luau": "return {"}}, status=422)
    assert answer["hint"] == "nothing was saved"
    assert (await rig.call("GET", "t"))["files"] == files("one")
