"""What a template sees of the boundary: narrowed contexts, rates, and answers that are objects."""

import pytest

from pytw.api.capabilities import capability_warnings
from pytw.types import Outcome, TenantState
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template
from .workerlike_contract import A, event, spec

GUILD = b'{"id":"1","owner":null,"roles":[],"name":"g"}'


class World:
    def __init__(self) -> None:
        self.db, self.discord = MemoryDb(), MemoryDiscord({10: A})
        self.discord.raw = GUILD
        self.worker = WorkerThread(Worker(spec(), self.db, self.discord))

    async def run(self, body: str, caps: tuple[str, ...] = ("*",)) -> object:
        source = f"return {{ E = function(ctx)\n{body}\nend }}"
        self.db.put(A, template("t", source, "E", caps=caps))
        await self.worker.refresh_tenant(A)
        result = await self.worker.dispatch_event(A, event())
        assert result.outcome is Outcome.OK, result.templates
        return result.templates[0].value


@pytest.fixture
async def world():
    found = World()
    await found.worker.start()
    yield found
    await found.worker.kill()


async def test_discords_answer_is_lazy_and_its_nulls_are_nil(world: World):
    body = """
    local guild = ctx.Discord:get_guild()
    return {typeof(guild), guild.data.name, guild.data.owner == nil, #guild.data.roles, guild.data == guild.data}
    """
    assert await world.run(body) == ["Lazy", "g", True, 0, True]


async def test_narrowed_context_may_do_less_than_its_template(world: World):
    """Whoever touched the plugin first does not decide for others, as it does in the reference."""
    body = """
    local first = ctx.Discord:get_guild().data.id
    local narrow = ctx:with({capabilities = {"kv:*", "runtime:stats"}})
    local refused = select(2, pcall(function() return narrow.Discord:get_guild() end))
    return {first, tostring(refused), narrow.Runtime:stats().total_guilds, ctx.Discord:get_guild().data.id}
    """
    told = "Discord action `get_guild` not allowed in this template context"
    assert await world.run(body) == ["1", told, 7, "1"]


async def test_template_may_do_what_it_holds_and_nothing_else(world: World):
    body = """
    local refused = select(2, pcall(function() return ctx.Discord:get_guild() end))
    return {tostring(refused), select(2, ctx.KV:get("k", {"s"}))}
    """
    told = "Discord action `get_guild` not allowed in this template context"
    assert await world.run(body, caps=("kv:get:k", "discord:*", "discord")) == [told, False]


@pytest.mark.parametrize("action", ["links", "eventlist", "getexposedvfs"])
async def test_what_the_engine_answers_itself_asks_for_its_capability_too(world: World, action: str):
    body = f"return (pcall(function() return ctx.Runtime:{action}() end))"
    assert await world.run(body, caps=(f"runtime:{action}",)) is True
    assert await world.run(body, caps=("runtime:stats", "kv:*")) is False
    assert capability_warnings([f"runtime:{action}"]) == []


async def test_rate_ends_in_an_error_that_says_how_long(world: World):
    body = """
    for count = 0, 100 do
        local ok, error = pcall(function() return ctx.Runtime:stats() end)
        if not ok then
            return {count, (string.gsub(tostring(error), "[%d.]+", "N"))}
        end
    end
    """
    count, told = await world.run(body)
    assert count >= 10
    assert told == "Global ratelimit hit for bucket 'stats', wait time: Nms"


async def test_tenant_data_keeps_its_nulls_and_empty_lists(world: World):
    world.db.states[A] = TenantState(frozenset({"E"}), {"none": None, "list": [], "map": {}})
    body = """
    local interop = require("@antiraid/interop")
    local state = ctx.Runtime:gettenantstate()
    local kept = state.data.none == interop.null
    state.data.none = nil
    state.data.added = 1
    ctx.Runtime:settenantstate(state)
    return kept
    """
    assert await world.run(body) is True
    assert world.db.states[A].data == {"list": [], "map": {}, "added": 1}
