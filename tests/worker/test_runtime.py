"""`ctx.Runtime`: the tenant's state, and what is known of the bot."""

from datetime import UTC, datetime

import msgpack
import orjson
import pytest

from pytw.errors import Conflict, DiscordUnavailable, Forbidden, PytwError
from pytw.eventnames import DISCORD_EVENTS, EVENT_LIST
from pytw.limits import BOT_STATS_RETRY_S, BOT_STATS_S, TENANT_EVENT_BYTES_MAX, TENANT_EVENTS_MAX
from pytw.types import TenantState
from pytw.worker.context.answers import JSON
from pytw.worker.context.botstats import BotStats
from pytw.worker.context.runtime import Runtime, runtime_info

from .fakes import GUILD, MemoryDb, MemoryDiscord, ReadOnly, call, results

LINKS = {"support_server": "s", "api_url": "a", "frontend_url": "f", "docs_url": "d"}


class World:
    def __init__(self) -> None:
        self.db, self.discord, self.now, self.told = MemoryDb(), MemoryDiscord(), 0.0, []
        stats = BotStats(self.discord, lambda: 4, clock=lambda: self.now)
        self.operations = Runtime(self.db, self._changed, stats).operations()

    async def _changed(self, tenant: int) -> None:
        self.told.append((tenant, self.db.states[tenant].events))

    async def ask(self, action: str, *args: object, **options) -> list:
        return await results(self.operations, call(f"runtime.{action}", *args, **options))


@pytest.fixture
def world() -> World:
    return World()


async def test_state_is_written_and_the_gate_told_before_the_answer(world: World):
    assert await world.ask("settenantstate", {"events": ["X"], "data": {"n": 1}}) == []
    assert world.told == [(GUILD, {"X"})]
    ((state),) = await world.ask("gettenantstate")
    assert (state["events"], state["banned"]) == (["X"], False)
    assert (state["data"].code, orjson.loads(state["data"].data)) == (JSON, {"n": 1})


async def test_tenant_without_a_state_has_the_default_one(world: World):
    (state,) = await world.ask("gettenantstate")
    assert state["events"] == ["INTERACTION_CREATE", "WebExecuteSetting", "WebGetSettings"]
    assert (state["banned"], orjson.loads(state["data"].data)) == (False, {})


async def test_data_crosses_as_json_so_that_nulls_and_empty_lists_stay(world: World):
    data = {"none": None, "list": [], "map": {}, "deep": [[None, {}]], "i": 2**60, "f": 1.5, "t": "\x00é"}
    world.db.states[GUILD] = TenantState(frozenset(), data)
    ((state),) = await world.ask("gettenantstate")
    assert orjson.loads(state["data"].data) == data
    await world.ask("settenantstate", {"events": [], "data": state["data"]})
    assert world.db.states[GUILD].data == data


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (None, "the state must be a table"),
        ({"data": {}}, 'events must be an array of event names, such as {"MESSAGE", "OnStartup"}, or {} for none'),
        ({"events": "X", "data": {}}, "events must be an array"),
        ({"events": {"X": True}, "data": {}}, "events must be an array"),
        ({"events": [1], "data": {}}, "events must be an array"),
        ({"events": ["X"] * (TENANT_EVENTS_MAX + 1), "data": {}}, "at most 100 long (101 given)"),
        ({"events": [""], "data": {}}, "'' is no event name"),
        ({"events": ["a\nb"], "data": {}}, "is no event name"),
        ({"events": ["x" * (TENANT_EVENT_BYTES_MAX + 1)], "data": {}}, "1 to 128 bytes"),
        ({"events": ["X"]}, "data must be a table: {} for none, or what gettenantstate gave to keep it"),
        ({"events": [], "data": 1}, "data must be a table with text for keys"),
        ({"events": [], "data": [1]}, "data must be a table with text for keys"),
        ({"events": [], "data": {"f": msgpack.ExtType(2, b"")}}, "only plain values"),
    ],
)
async def test_bad_states_say_what_to_do_and_change_nothing(world: World, state: object, text: str):
    with pytest.raises(PytwError) as refused:
        await world.ask("settenantstate", state)
    assert text in refused.value.detail
    assert world.db.states == {}
    assert world.told == []


@pytest.mark.parametrize("empty", [[], {}])
async def test_empty_tables_are_what_their_place_asks_for(world: World, empty: object):
    """Luau does not tell an empty list from an empty map."""
    await world.ask("settenantstate", {"events": empty, "data": empty})
    assert world.db.states[GUILD] == TenantState(frozenset(), {}, revision=1)


async def test_as_many_events_as_may_be(world: World):
    names = [f"e{number}" for number in range(TENANT_EVENTS_MAX)]
    await world.ask("settenantstate", {"events": names, "data": {}})
    assert world.db.states[GUILD].events == set(names)


async def read(world: World, **options) -> dict:
    """The state as a script has it: JSON made into tables."""
    (state,) = await world.ask("gettenantstate", **options)
    return {**state, "data": orjson.loads(state["data"].data)}


async def test_what_others_wrote_since_the_table_was_read_stays(world: World):
    mine, theirs = await read(world, request=1), await read(world, request=2)
    theirs["events"].append("Theirs")
    theirs["data"]["refs"] = {"t": True}
    await world.ask("settenantstate", theirs, request=2)
    mine["events"].remove("WebGetSettings")
    mine["data"]["refs"] = {"m": True}
    await world.ask("settenantstate", mine, request=1)
    state = world.db.states[GUILD]
    assert state.events == {"INTERACTION_CREATE", "WebExecuteSetting", "Theirs"}
    assert (state.data, state.revision) == ({"refs": {"t": True, "m": True}}, 2)


async def test_table_that_is_written_again_is_what_it_was_written_as(world: World):
    """What a template put there itself it can take away, in the same request or in a later one."""
    mine = await read(world, request=1)
    for request, data in ((1, {"a": 1}), (1, {"b": 1}), (7, {"c": 1})):
        await world.ask("settenantstate", {**mine, "data": data}, request=request)
        assert world.db.states[GUILD].data == data


async def test_two_requests_that_read_one_revision_do_not_undo_each_other(world: World):
    one, two = await read(world, request=1), await read(world, request=2)
    await world.ask("settenantstate", {**one, "data": {"one": 1}}, request=1)
    await world.ask("settenantstate", {**two, "data": {"two": 1}}, request=2)
    assert world.db.states[GUILD].data == {"one": 1, "two": 1}


async def test_table_without_revision_is_a_change_of_what_its_request_read_last(world: World):
    await read(world, request=1)
    world.db.states[GUILD] = TenantState(frozenset({"Theirs"}), {"theirs": 1}, revision=5)
    await world.ask("settenantstate", {"events": ["Mine"], "data": {"mine": 1}}, request=1)
    assert world.db.states[GUILD].events == {"Theirs", "Mine"}
    assert world.db.states[GUILD].data == {"theirs": 1, "mine": 1}
    await world.ask("settenantstate", {"events": ["Only"], "data": {}}, request=2)
    assert (world.db.states[GUILD].events, world.db.states[GUILD].data) == ({"Only"}, {})


async def test_revision_that_nobody_remembers_is_only_good_while_it_is_the_last(world: World):
    world.db.states[GUILD] = TenantState(frozenset({"A"}), {"a": 1}, revision=5)
    await world.ask("settenantstate", {"events": ["A"], "data": {}, "revision": 5.0})
    world.db.states[GUILD] = TenantState(frozenset({"A"}), {"a": 1}, revision=9)
    with pytest.raises(Conflict, match=r"revision 8, now 9.*read it again"):
        await world.ask("settenantstate", {"events": [], "data": {}, "revision": 8})
    assert world.db.states[GUILD].events == {"A"}


@pytest.mark.parametrize("revision", ["1", True, 1.5, float("inf"), float("nan"), {}])
async def test_revision_is_a_number(world: World, revision: object):
    with pytest.raises(PytwError, match="revision must be the number"):
        await world.ask("settenantstate", {"events": [], "data": {}, "revision": revision})


@pytest.mark.parametrize("action", ["gettenantstate", "settenantstate", "stats"])
async def test_each_action_needs_its_capability(world: World, action: str):
    with pytest.raises(Forbidden) as refused:
        await world.ask(action, caps=("kv:*", "runtime", "runtime:other"))
    assert refused.value.detail == f"runtime operation `{action}` not allowed in this template context"
    for held in ("*", "runtime:*", f"runtime:{action}"):
        world.operations[f"runtime.{action}"].admit(call(f"runtime.{action}", caps=(held,)))


async def test_stats_are_asked_of_discord_now_and_then(world: World):
    before = datetime.now(UTC)
    for _ in range(3):
        (stats,) = await world.ask("stats")
    assert stats["last_started_at"] <= before
    assert isinstance(stats, ReadOnly)
    del stats["last_started_at"]
    assert stats == {"total_cached_guilds": 4, "total_guilds": 7, "total_users": 3}
    assert len(world.discord.requests) == 1
    world.now += BOT_STATS_S
    await world.ask("stats")
    assert len(world.discord.requests) == 2


async def test_stats_outlive_a_discord_that_is_away(world: World):
    world.discord.failure = DiscordUnavailable("away")
    with pytest.raises(DiscordUnavailable):
        await world.ask("stats")
    world.discord.failure = None
    with pytest.raises(DiscordUnavailable, match="try again"):
        await world.ask("stats")
    assert len(world.discord.requests) == 1
    world.now += BOT_STATS_RETRY_S
    await world.ask("stats")
    world.now += BOT_STATS_S
    world.discord.failure = DiscordUnavailable("away")
    assert (await world.ask("stats"))[0]["total_guilds"] == 7


def test_links_and_events_are_what_the_engine_is_told():
    assert msgpack.unpackb(runtime_info(LINKS)) == {"links": LINKS, "events": list(EVENT_LIST)}


def test_event_list_has_the_71_of_discord_and_two_of_the_host():
    assert len(EVENT_LIST) == len(set(EVENT_LIST)) == 73
    assert set(EVENT_LIST) == DISCORD_EVENTS | {"OnStartup", "KeyExpiry"}
