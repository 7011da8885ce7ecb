"""`ctx.GlobalKV` and `ctx.ObjectStorage` as a template sees them: real VM, real PostgreSQL, files on disk, restarts."""

import re
from pathlib import Path

import pytest

from pytw.storage.objectblobs import LocalBlobs
from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import Draft, Id, Outcome
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDiscord
from .workerlike_contract import A, B, event, spec


class World:
    """Workers over one database and one folder."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.worker = self._new()

    def _new(self) -> WorkerThread:
        return WorkerThread(Worker(spec(), self.stores, MemoryDiscord()))

    async def restart(self) -> None:
        await self.worker.kill()
        self.worker = self._new()
        await self.worker.start()

    async def run(self, body: str, *, tenant: int = A, caps: tuple[str, ...] = ("*",)) -> object:
        source = f"return {{ E = function(ctx)\n{body}\nend }}"
        await self.stores.templates.put(
            Id.of(tenant), Draft("t", {"init.luau": source}, events=["E"], allowed_caps=list(caps))
        )
        await self.worker.refresh_tenant(tenant)
        result = await self.worker.dispatch_event(tenant, event())
        assert result.outcome is Outcome.OK, result.templates
        return result.templates[-1].value

    async def refusal(self, call: str, **options) -> object:
        return await self.run(
            f"local ok, told = pcall(function() return {call} end)\nreturn if ok then 'allowed' else tostring(told)",
            **options,
        )


@pytest.fixture
async def world(database_url: str, tmp_path: Path):
    database = await open_pool(database_url, 4)
    blobs = LocalBlobs(tmp_path, ObjectLinks(b"k" * 32, "http://127.0.0.1:1"))
    found = World(Stores(database, objects=ObjectStore(database, blobs)))
    await found.worker.start()
    yield found
    await found.worker.kill()
    await found.stores.close()


async def test_files_are_blobs_that_move(world: World):
    body = """
    local blob = require("@antiraid/datamgmt").newblob("from a blob")
    local bucket = ctx.ObjectStorage
    bucket:upload_file("a/blob", blob)
    bucket:upload_file("a/text", "\\255\\0")
    bucket:upload_file("buffer", buffer.fromstring("abc"))
    local found = {}
    for _, file in bucket:list_files() do
        table.insert(found, {file.key, file.size, typeof(file.last_modified), type(file.etag)})
    end
    local back = bucket:download_file("a/text")
    return {found, #blob, #back, buffer.tostring(back:tobuffer()) == "\\255\\0", bucket:file_exists("buffer"),
        bucket:file_exists("a"), #bucket:list_files("a/"), bucket.bucket_name}
    """
    files = [
        ["a/blob", 11, "DateTime", "string"],
        ["a/text", 2, "DateTime", "string"],
        ["buffer", 3, "DateTime", "string"],
    ]
    assert await world.run(body) == [files, 0, 2, True, True, False, 2, str(A)]


async def test_files_outlive_a_restart_and_are_one_tenants(world: World):
    await world.run("ctx.ObjectStorage:upload_file('k', 'kept')")
    await world.restart()
    read = "return buffer.tostring(ctx.ObjectStorage:download_file('k'):tobuffer())"
    assert await world.run(read) == "kept"
    assert await world.run("return #ctx.ObjectStorage:list_files()", tenant=B) == 0
    assert await world.refusal("ctx.ObjectStorage:download_file('k')", tenant=B) == "there is no object 'k'"
    await world.run("ctx.ObjectStorage:delete_file('k')", tenant=B)
    assert await world.run(read) == "kept"
    assert await world.run("ctx.ObjectStorage:delete_file('k') return ctx.ObjectStorage:file_exists('k')") is False


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("upload_file('../x', 'y')", "not a path of an object: '../x': it has an empty part, . or .. between slashes"),
        ("upload_file(string.rep('x', 2049), 'y')", "Path length too long (2,049 bytes, at most 2,048)"),
        ("upload_file('x', buffer.create(524289))", "Data too large (524,289 bytes, at most 524,288)"),
        ("list_files('')", "the prefix is empty: leave it away to list every file"),
        ("get_file_url('x', require('@antiraid/datetime').UTC)", "expiry must be a TimeDelta"),
        ("list_files(nil, {limit = 0})", "limit must be a number from 1 to 1,000"),
        ("list_files(nil, {max = 1})", "there is no option 'max'; limit and after are options"),
    ],
)
async def test_files_that_cannot_be_are_refused_in_words(world: World, call: str, told: str):
    assert await world.refusal(f"ctx.ObjectStorage:{call}") == told


async def test_any_key_is_a_file(world: World):
    body = """
    local bucket, keys = ctx.ObjectStorage, {"a", "a/b", "A", string.rep("x", 300), string.rep("long/", 400) .. "x", "%", "ü"}
    for number, key in keys do
        bucket:upload_file(key, tostring(number))
    end
    local right = 0
    for number, key in keys do
        right += if buffer.tostring(bucket:download_file(key):tobuffer()) == tostring(number) then 1 else 0
    end
    return {right, #bucket:list_files(), bucket:file_exists("a/b/c"), #bucket:list_files("a/b")}
    """
    assert await world.run(body) == [7, 7, False, 1]


async def test_files_are_listed_page_by_page(world: World):
    body = """
    for number = 1, 7 do
        ctx.ObjectStorage:upload_file("d/" .. number, "x")
    end
    local found, pages, after = {}, 0, nil
    repeat
        local files
        files, after = ctx.ObjectStorage:list_files("d/", {limit = 3, after = after})
        pages += 1
        for _, file in files do
            table.insert(found, file.key)
        end
    until after == nil
    return {pages, table.concat(found, " "), select("#", ctx.ObjectStorage:list_files()), #ctx.ObjectStorage:list_files(nil, {})}
    """
    assert await world.run(body) == [3, "d/1 d/2 d/3 d/4 d/5 d/6 d/7", 1, 7]
    told = "bad argument #3 to 'list_files' (table expected, got number)"
    assert told in str(await world.refusal("ctx.ObjectStorage:list_files(nil, 5)"))


async def test_urls_live_for_a_timedelta(world: World):
    body = "return ctx.ObjectStorage:get_file_url('a b', require('@antiraid/datetime').timedelta_minutes(5))"
    assert str(await world.run(body)).startswith(f"http://127.0.0.1:1/objects/guilds/{A}/a%20b?expires=")


CREATE = """
local interop = require("@antiraid/interop")
ctx.GlobalKV:create({
    key = "key", version = 1, short = "what it is", long = "more", scope = "s", public_data = %s,
    public_metadata = {none = interop.null, tags = {"a"}, list = setmetatable({}, interop.array_metatable)},
    data = {n = {1, 2}, text = "x"},
})
"""


async def test_what_one_tenant_publishes_another_gets_when_it_is_approved(world: World):
    get = """
    local interop = require("@antiraid/interop")
    local found = ctx.GlobalKV:get("key", 1, "s")
    if found == nil then return "nothing" end
    local partial, data = found.partial, found.data
    return {data.type, typeof(data.data), data.data.data.n[2], partial.public_metadata.none == interop.null,
        partial.public_metadata.tags[1], typeof(partial.created_at), partial.owner_id, partial.long}
    """
    await world.run(CREATE % "true")
    assert await world.run(get, tenant=B) == "nothing"
    await world.stores.global_staff.review("s", "key", 1, "approved")
    await world.restart()
    assert await world.run(get, tenant=B) == ["Value", "Lazy", 2, True, "a", "DateTime", str(A), "more"]
    find = "local all = ctx.GlobalKV:find('k%', 's') return {#all, all[1].key, all[1].long == nil, #ctx.GlobalKV:find('%%', 't')}"
    assert await world.run(find, tenant=B) == [1, "key", True, 0]
    assert await world.refusal("ctx.GlobalKV:delete('key', 1, 's')", tenant=B) == "you have no version 1 of key"
    assert await world.refusal(f"(function() {CREATE % 'true'} end)()") == "version 1 of key exists already"
    await world.run("ctx.GlobalKV:delete('key', 1, 's')")
    assert await world.run(get, tenant=B) == "nothing"


async def test_a_search_gives_pages_to_who_asks_for_them(world: World):
    for version in (1, 2, 3):
        place = ("s", "key", version)
        await world.stores.global_kv.create(
            *place, owner_type="guild", owner_id=str(A), data={}, short="x", review_state="approved"
        )
    body = """
    local function versions(records)
        local all = {}
        for _, record in records do table.insert(all, record.version) end
        return all
    end
    local seen, after = {}, nil
    repeat
        local page
        page, after = ctx.GlobalKV:find("k%", "s", { limit = 2, after = after })
        table.insert(seen, versions(page))
    until after == nil
    local n = select("#", ctx.GlobalKV:find("k%", "s", nil))
    return { seen, versions(ctx.GlobalKV:find("k%", "s", {})), versions(ctx.GlobalKV:find("k%", "s")), n }
    """
    assert await world.run(body) == [[[1, 2], [3]], [1, 2, 3], [1, 2, 3], 1]
    for options, told in (
        ("5", "table expected, got number"),
        ("{limit = 0}", "limit must be a number from 1 to 1,000"),
        ("{more = 1}", "there is no option 'more'"),
        ("{after = 'x'}", "not a cursor: 'x'"),
    ):
        assert told in str(await world.refusal(f"ctx.GlobalKV:find('k%', 's', {options})"))


async def test_private_data_cannot_be_looked_into(world: World):
    await world.run(CREATE % "false")
    await world.stores.global_staff.review("s", "key", 1, "approved")
    body = """
    local opaque = ctx.GlobalKV:get("key", 1, "s").data.data
    return {typeof(opaque), pcall(function() return opaque.data end)}
    """
    assert (await world.run(body, tenant=B))[:2] == ["Opaque", False]


async def test_what_has_a_price_tells_where_to_buy_it(world: World):
    store = world.stores.global_kv
    await store.create("s", "key", 1, owner_type="staff", owner_id="1", data="secret", short="x", price=7)
    await world.stores.global_staff.review("s", "key", 1, "approved")
    body = "local found = ctx.GlobalKV:get('key', 1, 's') return {found.partial.price, found.data}"
    assert await world.run(body) == [7, {"type": "PurchaseRequired", "purchase_url": f"/global-kvs/s/key/1?guild={A}"}]


async def test_capabilities_bind(world: World):
    caps = ("objectstorage:file_exists", "globalkv:access:find")
    assert await world.run("return {ctx.ObjectStorage:file_exists('k'), #ctx.GlobalKV:find('%%', 's')}", caps=caps) == [
        False,
        0,
    ]
    for call, told in (
        ("ctx.ObjectStorage:list_files()", "Object storage operation `list_files` not allowed"),
        ("ctx.GlobalKV:get('k', 1, 's')", "Global KV operation `get` not allowed"),
        (
            "ctx:with({capabilities = {'globalkv:access:find'}}).ObjectStorage:file_exists('k')",
            "`file_exists` not allowed",
        ),
    ):
        assert told in str(await world.refusal(call, caps=caps))


@pytest.mark.parametrize(
    ("call", "burst", "bucket"),
    [("ctx.GlobalKV:get('k', 1, 's')", 30, "get"), ("ctx.ObjectStorage:file_exists('k')", 75, "file_exists")],
)
async def test_rates_end_in_an_error_that_says_how_long(world: World, call: str, burst: int, bucket: str):
    """Both rates are so many in a second: the wait is for the next one at most."""
    body = f"""
    for count = 0, 2000 do
        local ok, told = pcall(function() return {call} end)
        if not ok then return {{count, tostring(told)}} end
    end
    """
    count, told = await world.run(body)
    assert count >= burst
    wait = re.fullmatch(rf"Global ratelimit hit for bucket '{bucket}', wait time: (\d+(?:\.\d+)?)(ms|\u00b5s|ns)", told)
    assert wait, told
    assert 0 < float(wait[1]) * {"ms": 1e-3, "\u00b5s": 1e-6, "ns": 1e-9}[wait[2]] <= 1 / burst
