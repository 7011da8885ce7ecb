"""`ctx.ObjectStorage`: a tenant's files."""

import struct
from datetime import UTC

import msgpack
import pytest

from pytw.errors import Forbidden, LimitExceeded, NotFound, PytwError, RequestError
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_LIST_MAX
from pytw.types import USER_BIT
from pytw.values import BUFFER, INTERVAL, RAW_TEXT, TIME_ZONE
from pytw.worker.context.answers import BLOB
from pytw.worker.context.objectstorage import ObjectStorage

from .fakes import GUILD, MemoryDb, call, results

METHODS = ["list_files", "file_exists", "download_file", "get_file_url", "upload_file", "delete_file"]


def span(seconds: int, nanos: int = 0) -> msgpack.ExtType:
    return msgpack.ExtType(INTERVAL, struct.pack(">qI", seconds, nanos))


class World:
    def __init__(self) -> None:
        self.db = MemoryDb()
        self.operations = ObjectStorage(self.db).operations()

    async def ask(self, method: str, *args: object, **options) -> list:
        return await results(self.operations, call(f"objectstorage.{method}", *args, **options))


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("text é", "text é".encode()),
        ("", b""),
        (msgpack.ExtType(RAW_TEXT, b"\xff\x00"), b"\xff\x00"),
        (msgpack.ExtType(BUFFER, b"\x00\x01"), b"\x00\x01"),
        (msgpack.ExtType(BUFFER, b""), b""),
    ],
)
async def test_a_file_comes_back_as_the_blob_of_its_bytes(world: World, content: object, stored: bytes):
    assert await world.ask("upload_file", "a/b", content) == []
    assert await world.ask("download_file", "a/b") == [msgpack.ExtType(BLOB, stored)]
    assert await world.ask("file_exists", "a/b") == [True]
    assert await world.ask("delete_file", "a/b") == []
    assert await world.ask("file_exists", "a/b") == [False]
    assert await world.ask("delete_file", "a/b") == []
    with pytest.raises(NotFound, match="there is no object 'a/b'"):
        await world.ask("download_file", "a/b")


async def test_listed_keys_are_those_that_were_given(world: World):
    for key in ("a/1", "a/2", "b"):
        await world.ask("upload_file", key, "xyz")
    await world.ask("upload_file", "other", "1", tenant=GUILD | USER_BIT)
    (files,) = await world.ask("list_files", None)
    assert [item["key"] for item in files] == ["a/1", "a/2", "b"]
    assert set(files[0]) == {"key", "last_modified", "size", "etag"}
    assert (files[0]["size"], files[0]["last_modified"].tzinfo) == (3, UTC)
    for prefix in ("a", "a/"):
        assert [item["key"] for item in (await world.ask("list_files", prefix))[0]] == ["a/1", "a/2"]
    assert await world.ask("list_files", "c") == [[]]


async def test_list_refuses_to_give_a_part_for_the_whole(world: World):
    await world.ask("upload_file", "k", "")
    one = world.db.objects[GUILD, "k"]
    world.db.objects |= {(GUILD, f"k{number}"): one for number in range(1, OBJECT_LIST_MAX)}
    assert len((await world.ask("list_files"))[0]) == OBJECT_LIST_MAX
    world.db.objects[GUILD, "one more"] = one
    with pytest.raises(LimitExceeded, match="more than 1,000 files: use a longer prefix, or pages"):
        await world.ask("list_files")


async def test_pages_go_on_where_the_one_before_ended(world: World):
    for key in ("a/1", "a/2", "a/3", "b", "ü"):
        await world.ask("upload_file", key, "xyz")
    files, after = await world.ask("list_files", "a", {"limit": 2})
    assert ([item["key"] for item in files], after) == (["a/1", "a/2"], "a/2")
    (files,) = await world.ask("list_files", "a", {"limit": 2.0, "after": after})
    assert [item["key"] for item in files] == ["a/3"]
    (files,) = await world.ask("list_files", None, {"after": "a/3"})
    assert [item["key"] for item in files] == ["b", "ü"]
    (files,) = await world.ask("list_files", None, {})
    assert len(files) == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": 0}, "limit must be a number from 1 to 1,000"),
        ({"limit": 1001}, "limit must be a number from 1 to 1,000"),
        ({"limit": 1.5}, "limit must be a whole number"),
        ({"limit": float("nan")}, "limit must be a number from 1 to 1,000"),
        ({"limit": float("inf")}, "limit must be a number from 1 to 1,000"),
        ({"limit": True}, "limit must be a number from 1 to 1,000"),
        ({"limit": "5"}, "limit must be a number from 1 to 1,000"),
        ({"after": 5}, "after must be the text that list_files gave"),
        ({"after": "../x"}, "not a path of an object"),
        ({"skip": 5}, "there is no option 'skip'"),
        ("x", "options must be a table"),
    ],
)
async def test_other_options_are_refused(world: World, options: object, text: str):
    with pytest.raises(RequestError) as refused:
        await world.ask("list_files", None, options)
    assert text in refused.value.detail
    assert world.db.calls == []


async def test_url_lives_as_long_as_its_timedelta(world: World):
    (url,) = await world.ask("get_file_url", "a/ü", span(90, 500_000_000))
    assert f"guilds/{GUILD}/a/%C3%BC" in url
    for life in (span(0, 999_999_999), span(-5), span(7 * 86_400 + 1), span(2**50)):
        with pytest.raises(RequestError, match="a URL may live from 1 second to 7 days"):
            await world.ask("get_file_url", "k", life)


@pytest.mark.parametrize(
    "life", [None, 60, "60", [], msgpack.ExtType(TIME_ZONE, b"UTC"), msgpack.ExtType(INTERVAL, b"x")]
)
async def test_other_lives_are_refused(world: World, life: object):
    with pytest.raises(RequestError, match="expiry must be a TimeDelta"):
        await world.ask("get_file_url", "k", life)


@pytest.mark.parametrize("content", [None, 5, True, [], {}, {"a": 1}, msgpack.ExtType(TIME_ZONE, b"UTC"), span(5)])
async def test_other_contents_are_refused(world: World, content: object):
    with pytest.raises(RequestError, match="data must be a string, a buffer or a Blob"):
        await world.ask("upload_file", "k", content)
    assert world.db.objects == {}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "list_files"])
@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(
            (key, "not a path of an object")
            for key in ("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0", "a\\b")
        ),
        ("x" * 2049, "Path length too long (2,049 bytes, at most 2,048)"),
        ("é" * 1025, "Path length too long (2,050 bytes, at most 2,048)"),
        (None, "key must be a string"),
        (5, "key must be a string"),
        (msgpack.ExtType(RAW_TEXT, b"\xff"), "a string is not UTF-8 text"),
    ],
)
async def test_bad_keys_leave_nothing_and_ask_nobody(world: World, method: str, key: object, text: str):
    with pytest.raises(PytwError) as refused:
        await world.ask(method, key, span(60) if method == "get_file_url" else "content")
    assert text in refused.value.detail
    assert world.db.calls == []


@pytest.mark.parametrize("prefix", ["", "/", "/a", "a//", "..", "a/.", "x" * 2050, 5, ["a"]])
async def test_bad_prefixes_are_refused(world: World, prefix: object):
    with pytest.raises(PytwError):
        await world.ask("list_files", prefix)
    assert world.db.calls == []


async def test_the_largest_file_and_one_byte_more(world: World):
    await world.ask("upload_file", "k" * 2048, msgpack.ExtType(BUFFER, b"x" * OBJECT_BYTES_MAX))
    with pytest.raises(LimitExceeded, match=r"Data too large \(524,289 bytes, at most 524,288\)"):
        await world.ask("upload_file", "k", msgpack.ExtType(BUFFER, b"x" * (OBJECT_BYTES_MAX + 1)))


@pytest.mark.parametrize("method", METHODS)
async def test_each_method_needs_its_capability(world: World, method: str):
    with pytest.raises(Forbidden) as refused:
        await world.ask(method, caps=("objectstorage:*", "objectstorage", "objectstorage:other", "kv:*"))
    assert refused.value.detail == f"Object storage operation `{method}` not allowed in this template context"
    for held in ("*", f"objectstorage:{method}"):
        world.operations[f"objectstorage.{method}"].admit(call(f"objectstorage.{method}", caps=(held,)))
    assert world.operations[f"objectstorage.{method}"].bucket == ("objectstorage", method)
