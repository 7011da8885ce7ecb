"""What a template's tables are as JSON: arguments of `ctx.Discord`, and the tenant's data, there and back."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytw.types import Outcome
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template
from .workerlike_contract import A, event, spec

CHANNEL = 10
PRELUDE = """
local interop, typesext = require("@antiraid/interop"), require("@antiraid/typesext")
local function told(f, ...)
    local ok, err = pcall(f, ...)
    return if ok then "it did not fail" else tostring(err)
end
"""
REFUSED = {
    "task.wait": "a function cannot leave the script",
    "buffer.create(1)": "only plain values are allowed here",
    "typesext.U64(5)": "only plain values are allowed here",
    'require("@antiraid/datetime").UTC:now()': "only plain values are allowed here",
    '"\\255"': "a string is not UTF-8 text",
    "{1, 2, x = 3}": "mixes list items and named fields",
    "{[true] = 1}": "table keys must be strings here",
    "(function() local t = {} t.t = t return t end)()": "limit: depth",
    "ctx": "a TemplateContext cannot leave the script",
}


class World:
    def __init__(self) -> None:
        self.db, self.discord = MemoryDb(), MemoryDiscord({CHANNEL: A})
        self.worker = WorkerThread(Worker(spec(), self.db, self.discord))

    async def run(self, body: str) -> Any:
        self.db.put(A, template("t", f"{PRELUDE} return {{ E = function(ctx)\n{body}\nend }}", "E"))
        await self.worker.refresh_tenant(A)
        result = await self.worker.dispatch_event(A, event())
        assert result.outcome is Outcome.OK, result.templates
        return result.templates[0].value

    async def message(self, content: str, channel: str = '"10"') -> Any:
        return await self.run(
            "return told(ctx.Discord.create_message, ctx.Discord,"
            f' {{channel_id = {channel}, data = {{content = "x", {content}}}}})'
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    found = World()
    await found.worker.start()
    yield found
    await found.worker.kill()


async def test_tables_become_the_json_of_a_message(world: World) -> None:
    content = """
        nonce = interop.null, embeds = {}, list = {1, 2.5, "a", true}, map = {}, nan = 0/0, at = vector.create(1, 2.5, -3),
        marked = setmetatable({}, interop.array_metatable), deep = {{x = {interop.null, 5}}}, wide = 2^53,
        signed = typesext.I64("9223372036854775807"), absent = nil
    """
    assert await world.message(content) == "it did not fail"
    ((channel, sent),) = world.discord.sent
    assert channel == CHANNEL
    assert math.isnan(sent.pop("nan"))
    assert sent.pop("nonce") is None
    assert sent == {
        "content": "x",
        "embeds": [],
        "list": [1, 2.5, "a", True],
        "map": {},
        "at": [1, 2.5, -3],
        "marked": [],
        "deep": [{"x": [None, 5]}],
        "wide": 2**53,
        "signed": 2**63 - 1,
    }


@pytest.mark.parametrize(("value", "text"), REFUSED.items())
async def test_what_json_has_no_form_for_is_refused(world: World, value: str, text: str) -> None:
    assert text in await world.message(f"bad = {value}")
    assert world.discord.sent == []
    state = f"ctx.Runtime:settenantstate({{events = {{'E'}}, data = {{bad = {value}}}}})"
    assert text in await world.run(f"return told(function() {state} end)")
    assert A not in world.db.states


@pytest.mark.parametrize("channel", ["10", '"10"', "10.0"])
async def test_ids_are_texts_or_whole_numbers(world: World, channel: str) -> None:
    assert await world.message("", channel) == "it did not fail"
    assert [channel for channel, _ in world.discord.sent] == [CHANNEL]


@pytest.mark.parametrize("channel", ["10.5", '"10.0"', '"x"', '""', "-1", "true", "typesext.U64(10)", "nil"])
async def test_other_ids_are_refused_with_their_name(world: World, channel: str) -> None:
    assert "channel_id" in await world.message("", channel)
    assert world.discord.sent == []


async def test_tenant_data_comes_back_as_json_gives_it(world: World) -> None:
    body = """
    local data = {list = {1, {}}, none = interop.null, at = vector.create(1, 2, 3), big = 2^60, half = 0.5, nan = 0/0}
    ctx.Runtime:settenantstate({events = {"E"}, data = setmetatable(data, {}), banned = true})
    local state = ctx.Runtime:gettenantstate()
    state.more, state.data.more = 1, 1
    local got = state.data
    assert(state.banned == false and state.events[1] == "E" and #state.events == 1)
    assert(got.none == interop.null and got.nan == interop.null)
    assert(getmetatable(got.list) == false and #got.list == 2 and getmetatable(got.list[2]) == nil)
    assert(got.at[3] == 3 and getmetatable(got.at) == false)
    return {got.big == 2^60, got.half, told(ctx.Runtime.settenantstate, ctx.Runtime, {events = {"E"}})}
    """
    assert await world.run(body) == [True, 0.5, "field 'data' of argument #1: table expected, got nil"]
