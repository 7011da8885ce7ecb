"""`ctx.GlobalKV`: what a template may publish, and what it gets of what others have."""

import math
from dataclasses import replace
from datetime import UTC

import msgpack
import orjson
import pytest

from pytw.errors import Conflict, Forbidden, LimitExceeded, NotFound, PytwError, RequestError
from pytw.limits import GLOBAL_KV_DATA_BYTES_MAX, GLOBAL_KV_FIND_ROWS_MAX, GLOBAL_KV_VERSION_MAX
from pytw.types import USER_BIT
from pytw.worker.context.answers import JSON, LAZY_JSON, OPAQUE_JSON
from pytw.worker.context.globalkv import GlobalKv

from .fakes import GUILD, MemoryDb, call, results

ENTRY = {"key": "key", "version": 1, "short": "what it is", "scope": "s", "public_data": True, "data": {"a": [1, None]}}


class World:
    def __init__(self) -> None:
        self.db = MemoryDb()
        self.operations = GlobalKv(self.db, "https://site.example/").operations()

    async def ask(self, action: str, *args: object, **options) -> list:
        return await results(self.operations, call(f"globalkv.{action}", *args, **options))

    async def publish(self, **more: object) -> None:
        entry = {**ENTRY, **more}
        assert await self.ask("create", entry) == []
        self.change(entry, review_state="approved")

    def change(self, entry: dict, **more: object) -> None:
        place = (entry["scope"], entry["key"], entry["version"])
        self.db.published[place] = replace(self.db.published[place], **more)


@pytest.fixture
def world() -> World:
    return World()


async def test_an_entry_is_pending_and_its_tenants(world: World):
    await world.ask("create", ENTRY, tenant=GUILD | USER_BIT)
    (record,) = world.db.published.values()
    assert (record.owner_type, record.owner_id, record.review_state) == ("user", str(GUILD), "pending")
    assert await world.ask("get", "key", 1, "s") == [None]
    assert await world.ask("find", "%%", "s") == [[]]


async def test_partial_record_has_its_fields(world: World):
    await world.publish(public_metadata={"n": None, "l": []}, long="more of it")
    ((found,),) = await world.ask("find", "k%", "s")
    ((got),) = await world.ask("get", "key", 1, "s")
    assert set(got) == {"partial", "data"}
    for partial, long in ((found, None), (got["partial"], "more of it")):
        metadata = partial.pop("public_metadata")
        assert (metadata.code, orjson.loads(metadata.data)) == (JSON, {"n": None, "l": []})
        assert partial.pop("created_at").tzinfo == partial.pop("last_updated_at").tzinfo == UTC
        assert partial == {
            "key": "key",
            "version": 1,
            "owner_id": str(GUILD),
            "owner_type": "guild",
            "price": None,
            "short": "what it is",
            "long": long,
            "scope": "s",
            "public_data": True,
            "review_state": "approved",
        }


@pytest.mark.parametrize(("public", "code"), [(True, LAZY_JSON), (False, OPAQUE_JSON), (None, OPAQUE_JSON)])
async def test_data_is_an_object_by_who_may_look(world: World, public, code: int):
    await world.publish(public_data=public)
    ((got),) = await world.ask("get", "key", 1, "s")
    assert got["data"]["type"] == "Value"
    assert (got["data"]["data"].code, orjson.loads(got["data"]["data"].data)) == (code, {"a": [1, None]})


async def test_what_has_a_price_is_to_be_bought(world: World):
    await world.publish(scope="a/b")
    world.change({**ENTRY, "scope": "a/b"}, price=5)
    ((got),) = await world.ask("get", "key", 1, "a/b")
    url = f"https://site.example/global-kvs/a%2Fb/key/1?guild={GUILD}"
    assert got["data"] == {"type": "PurchaseRequired", "purchase_url": url}
    assert got["partial"]["price"] == 5


@pytest.mark.parametrize("data", [0, False, "", [], {}, 1.5, "text", [[{}]], 2**63])
async def test_data_is_any_json_value(world: World, data: object):
    await world.publish(data=data)
    ((got),) = await world.ask("get", "key", 1, "s")
    assert orjson.loads(got["data"]["data"].data) == data


async def test_numbers_that_json_lacks_are_null(world: World):
    await world.publish(data=[math.inf, math.nan])
    ((got),) = await world.ask("get", "key", 1, "s")
    assert got["data"]["data"].data == b"[null,null]"


@pytest.mark.parametrize("version", [1, 1.0, 1.9, "1", "1.0"])
async def test_versions_are_numbers_as_luau_coerces_them(world: World, version: object):
    await world.publish()
    assert (await world.ask("get", "key", version, "s"))[0]["partial"]["version"] == 1


async def test_versions_that_cannot_be_are_not_there(world: World):
    for version in (0, -1, GLOBAL_KV_VERSION_MAX):
        assert await world.ask("get", "key", version, "s") == [None]


@pytest.mark.parametrize(
    "version", [None, True, "x", "", [], 2**31, -(2**40), math.inf, math.nan, 1e300, 2**64 - 1, "9" * 400]
)
async def test_other_versions_are_refused(world: World, version: object):
    for ask in (
        ("get", "key", version, "s"),
        ("delete", "key", version, "s"),
        ("create", {**ENTRY, "version": version}),
    ):
        with pytest.raises(RequestError, match=r"version must be a whole number from 1 to 2,147,483,647"):
            await world.ask(*ask)


async def test_only_the_owner_deletes(world: World):
    await world.publish()
    with pytest.raises(NotFound, match="you have no version 1 of key"):
        await world.ask("delete", "key", 1, "s", tenant=GUILD + 1)
    assert await world.ask("delete", "key", 1, "s") == []
    with pytest.raises(NotFound):
        await world.ask("delete", "key", 1, "s")


async def test_a_version_is_published_once(world: World):
    await world.publish()
    with pytest.raises(Conflict, match="version 1 of key exists already"):
        await world.ask("create", ENTRY, tenant=GUILD + 1)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, "the entry must be a table"),
        ([], "the entry must be a table"),
        ([1], "the entry must be a table"),
        ({**ENTRY, "data": None}, "data is missing"),
        ({**ENTRY, "key": None}, "key must be a string"),
        ({**ENTRY, "key": "a b"}, "not a key: 'a b'"),
        ({**ENTRY, "scope": 5}, "scope must be a string"),
        ({**ENTRY, "scope": ""}, "Scope is empty"),
        ({**ENTRY, "short": None}, "short must be a string"),
        ({**ENTRY, "long": 1}, "long must be a string"),
        ({**ENTRY, "public_data": 1}, "public_data must be a boolean"),
        ({**ENTRY, "version": 0}, "version must be a whole number"),
        ({**ENTRY, "data": {1: 2}}, "table keys must be strings here"),
        ({**ENTRY, "data": msgpack.ExtType(2, b"buffer")}, "only plain values are allowed here"),
        ({**ENTRY, "data": "a\0"}, "data contains a NUL character"),
        ({**ENTRY, "data": "x" * GLOBAL_KV_DATA_BYTES_MAX}, "data length too long (262,146 bytes, at most 262,144)"),
        ({**ENTRY, "data": ["x" * 2**19, "x" * 2**19]}, "the entry is too long"),
    ],
)
async def test_bad_entries_say_what_is_wrong_and_publish_nothing(world: World, entry: object, text: str):
    with pytest.raises(PytwError) as refused:
        await world.ask("create", entry)
    assert text in refused.value.detail
    assert world.db.published == {}


@pytest.mark.parametrize("args", [(), ("%",), (1, "s"), ("%", 1), ("%", None), (msgpack.ExtType(1, b"\xff"), "s")])
async def test_bad_searches_are_refused(world: World, args: tuple):
    with pytest.raises(RequestError):
        await world.ask("find", *args)


async def test_find_refuses_to_give_a_part_for_the_whole(world: World):
    await world.publish()
    place, record = next(iter(world.db.published.items()))
    for version in range(2, GLOBAL_KV_FIND_ROWS_MAX + 1):
        world.db.published[(*place[:2], version)] = replace(record, version=version)
    assert len((await world.ask("find", "%%", "s"))[0]) == GLOBAL_KV_FIND_ROWS_MAX
    world.db.published[(*place[:2], 5000)] = replace(record, version=5000)
    with pytest.raises(LimitExceeded, match="more than 1,000 versions match 'key'"):
        await world.ask("find", "key", "s")


async def test_find_gives_pages_to_who_asks_for_them(world: World):
    for version in (1, 2, 3):
        await world.publish(version=version)
    records, after = await world.ask("find", "%%", "s", {"limit": 2})
    assert [record["version"] for record in records] == [1, 2]
    assert [
        [record["version"] for record in page] for page in await world.ask("find", "%%", "s", {"after": after})
    ] == [[3]]
    ((all_of_them),) = await world.ask("find", "%%", "s", {})
    assert len(all_of_them) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (5, "options must be a table"),
        ({"max": 1}, "there is no option 'max'; limit and after are options"),
        ({"limit": 0}, "limit must be a number from 1 to 1,000"),
        ({"limit": True}, "limit must be a number from 1 to 1,000"),
        ({"limit": 1.5}, "limit must be a whole number"),
        ({"limit": math.nan}, "limit must be a number from 1 to 1,000"),
        ({"after": 5}, "after must be the text"),
        ({"after": "5"}, "not a cursor: '5'"),
    ],
)
async def test_wrong_pages_are_refused(world: World, options: object, told: str):
    with pytest.raises(RequestError, match=told):
        await world.ask("find", "%%", "s", options)


@pytest.mark.parametrize("action", ["find", "get", "create", "delete"])
async def test_each_action_needs_its_capability(world: World, action: str):
    held = ("globalkv:*", "globalkv:access:*", "globalkv:access:s", "globalkv:access", f"globalkv:{action}", "kv:*")
    with pytest.raises(Forbidden) as refused:
        await world.ask(action, caps=held)
    told = f"Global KV operation `{action}` not allowed in this template context: it needs globalkv:access:{action}"
    assert refused.value.detail == told
    for cap in ("*", f"globalkv:access:{action}"):
        world.operations[f"globalkv.{action}"].admit(call(f"globalkv.{action}", caps=(cap,)))
    assert world.operations[f"globalkv.{action}"].bucket == ("globalkv", action)
