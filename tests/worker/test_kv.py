"""`ctx.KV` beyond get and set: options, versions, pages, expiry, records by id, and who may."""

from datetime import UTC, datetime, timedelta

import msgpack
import pytest

from pytw import values
from pytw.api.capabilities import capability_warnings
from pytw.errors import Forbidden, LimitExceeded, RequestError
from pytw.worker.context.call import HostCall
from pytw.worker.context.kv import Kv

from .fakes import GUILD, MemoryDb, call, results

SOON = datetime(2030, 1, 1, tzinfo=UTC)
S = ["s"]


@pytest.fixture
def db():
    return MemoryDb()


@pytest.fixture
def kv(db: MemoryDb):
    return Kv(db).operations()


def packed(name: str, *args: object, caps: tuple[str, ...] = ("*",)) -> HostCall:
    """A call whose arguments are what a script's values become."""
    header = msgpack.packb([1, "t", name, None])[:1]
    body = b"".join(map(values.pack, (1, "t", name, None)))
    made = HostCall(GUILD, b"\x95" + body + bytes([0x90 | len(args)]) + b"".join(map(values.pack, args)))
    assert header == b"\x94"
    made.caps = frozenset(caps)
    return made


async def stored(db: MemoryDb, key: str = "k", scopes: list[str] = S):
    return await db.kv_get(GUILD, key, scopes)


async def test_options_say_how_a_key_is_written(kv, db):
    options = {"expires_at": SOON, "resume": True}
    assert await results(kv, packed("kv.set", "k", 1, S, options)) == []
    record = await stored(db)
    assert (record.expires_at, record.resume) == (SOON, True)
    (told,) = await results(kv, call("kv.getrecord", "k", S))
    assert (told["version"], told["expires_at"], told["resume"]) == (1, SOON, True)
    await results(kv, packed("kv.set", "k", 1, S))
    record = await stored(db)
    assert (record.expires_at, record.resume) == (None, False), "what is left out is taken away"


@pytest.mark.parametrize("alone", [True, False])
async def test_a_time_delta_counts_from_now(kv, db, alone: bool):
    hour = values.Interval(3_600, 0)
    await results(kv, packed("kv.set", "k", 1, S, hour if alone else {"expires_at": hour}))
    left = (await stored(db)).expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


async def test_who_asks_for_a_version_hears_of_it(kv):
    assert await results(kv, packed("kv.set", "k", 1, S, {"if_version": 0})) == [True, 1]
    assert await results(kv, packed("kv.set", "k", 2, S, {"if_version": 0.0})) == [False, 1]
    assert await results(kv, packed("kv.set", "k", 2, S, {"if_version": 1})) == [True, 2]
    assert await results(kv, call("kv.get", "k", S)) == [2, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"expires": 1}, "there is no option 'expires'; there are expires_at, resume, if_version"),
        ({"expires_at": 5}, "options.expires_at must be a DateTime or a TimeDelta"),
        ({"expires_at": values.Interval(10**15, 0)}, "too far away"),
        ({"resume": 1}, "options.resume must be a boolean"),
        ({"if_version": 1.5}, "whole number"),
        ({"if_version": -1}, "whole number"),
        ({"if_version": float("nan")}, "whole number"),
        ([1], "options must be a table"),
    ],
)
async def test_wrong_options_are_refused_in_words(kv, db, options: object, words: str):
    with pytest.raises(RequestError, match=words):
        await results(kv, packed("kv.set", "k", 1, S, options))
    assert db.records == {}


@pytest.mark.weakness(40)
async def test_find_goes_through_pages(kv):
    for number in range(5):
        await results(kv, call("kv.set", f"k{number}", number, S))
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        records, cursor = await results(kv, call("kv.find", "k%", S, {"limit": 2, "after": cursor}))
        seen += [record["value"] for record in records]
        pages += 1
    assert (seen, pages) == ([0, 1, 2, 3, 4], 3)
    assert await results(kv, call("kv.find", "x%", S, {"limit": 2})) == [[], None]
    for wrong in ({"limit": 0}, {"limit": 1_001}, {"after": 5}, {"skip": 1}):
        with pytest.raises(RequestError):
            await results(kv, call("kv.find", "k%", S, wrong))


@pytest.mark.parametrize("time_first", [True, False])
async def test_expiry_is_set_with_the_time_before_or_behind_the_scopes(kv, db, time_first: bool):
    await results(kv, call("kv.set", "k", 1, S))
    for at, found in ((SOON, SOON), (None, None)):
        arguments = (at, S) if time_first else (S, at)
        assert await results(kv, packed("kv.set_expiry", "k", *arguments)) == [True]
        assert (await stored(db)).expires_at == found
    assert await results(kv, packed("kv.set_expiry", "other", SOON, S)) == [False]
    with pytest.raises(RequestError):
        await results(kv, packed("kv.set_expiry", "k", SOON, None))


async def test_records_are_reached_by_id(kv, db):
    await results(kv, call("kv.set", "k", 1, S))
    number = (await stored(db)).id
    assert await results(kv, call("kv.getbyid", number)) == [1, True]
    assert (await results(kv, call("kv.getrecordbyid", number)))[0]["key"] == "k"
    assert await results(kv, call("kv.setbyid", number, 2)) == []
    assert await results(kv, packed("kv.setbyid", number, 2, {"if_version": 1})) == [False, 2]
    assert await results(kv, packed("kv.setexpirybyid", number, SOON)) == [True]
    assert (await stored(db)).expires_at == SOON
    assert await results(kv, call("kv.deletebyid", number)) == [True]
    assert await results(kv, call("kv.deletebyid", number)) == [False]
    assert await results(kv, call("kv.getbyid", number)) == [None, False]
    assert (await results(kv, call("kv.getrecordbyid", number)))[0]["exists"] is False
    with pytest.raises(RequestError, match="no record with this id"):
        await results(kv, call("kv.setbyid", number, 2))
    with pytest.raises(LimitExceeded):
        await results(kv, call("kv.getbyid", "x" * 513))


@pytest.mark.parametrize(
    ("name", "action", "args"),
    [
        ("getbyid", "get", ()),
        ("getrecordbyid", "get", ()),
        ("setbyid", "set", (2,)),
        ("setexpirybyid", "set", (None,)),
        ("deletebyid", "delete", ()),
    ],
)
async def test_who_may_not_touch_a_record_is_not_told_whether_there_is_one(kv, db, name: str, action: str, args: tuple):
    await results(kv, call("kv.set", "k", 1, S))
    number, told = (await stored(db)).id, set()
    for held in ((), (f"kv:{action}:other",), ("kv[other]:*",), ("kv:find:*", "kv.meta:keys")):
        for wanted in (number, "f" * 32):
            with pytest.raises(Forbidden) as refused:
                await results(kv, call(f"kv.{name}", wanted, *args, caps=held))
            told.add(str(refused.value).replace(wanted, "ID"))
    assert told == {f"KV operation `{action}` not allowed in this template context for id 'ID'"}
    assert (await stored(db)).version == 1
    for held in (f"kv:{action}:k", f"kv[s]:{action}", f"kv:{action}:*", "kv:*"):
        await results(kv, call("kv.set", "k", 1, S))
        await results(kv, call(f"kv.{name}", (await stored(db)).id, *args, caps=(held,)))


@pytest.mark.parametrize(
    ("name", "args", "held"),
    [
        ("exists", ("k", S), "kv:get:k"),
        ("exists", ("k", S), "kv[s]:get"),
        ("set_expiry", ("k", None, S), "kv:set:k"),
        ("set_expiry", ("k", S, None), "kv[s]:set:k"),
        ("keys", (S,), "kv:find:*"),
        ("keys", (S,), "kv:find:%%"),
        ("keys", (S,), "kv[s]:find"),
        ("keys", (S,), "kv.meta:keys"),
        ("keys", (S,), "kv.meta[s]:keys"),
    ],
)
async def test_each_call_has_its_capabilities(kv, name: str, args: tuple, held: str):
    await results(kv, call(f"kv.{name}", *args, caps=(held,)))
    assert capability_warnings([held]) == []
    with pytest.raises(Forbidden):
        await results(kv, call(f"kv.{name}", *args, caps=("kv:delete:*", "kv[t]:*", "kv.meta[t]:keys", "kv.meta:x")))


@pytest.mark.parametrize("scope", ["templates", "templates.paused"])
@pytest.mark.parametrize(("name", "args"), [("set", ("k", 1)), ("set_expiry", ("k", None)), ("delete", ("k",))])
async def test_one_scope_gives_no_right_over_templates(kv, scope: str, name: str, args: tuple):
    """Where a loop keeps templates, writing a record is handing out capabilities."""
    scopes = ["mine", scope]
    with pytest.raises(Forbidden):
        await results(kv, call(f"kv.{name}", *args, scopes, caps=("kv[mine]:*",)))
    for held in (f"kv[{scope}]:*", "kv:*", "*"):
        await results(kv, call(f"kv.{name}", *args, scopes, caps=(held,)))


async def test_reading_needs_any_one_of_the_scopes(kv):
    await results(kv, call("kv.set", "k", 1, ["mine", "templates"]))
    assert await results(kv, call("kv.get", "k", ["mine", "templates"], caps=("kv[mine]:*",))) == [1, True]


@pytest.mark.parametrize("name", ["setbyid", "setexpirybyid", "deletebyid"])
async def test_an_id_gives_no_right_over_templates_either(kv, db, name: str):
    scopes = ["mine", "templates"]
    await results(kv, call("kv.set", "k", 1, scopes))
    args = (
        (await stored(db, scopes=scopes)).id,
        *([2] if name == "setbyid" else [None] if name == "setexpirybyid" else []),
    )
    with pytest.raises(Forbidden):
        await results(kv, call(f"kv.{name}", *args, caps=("kv[mine]:*",)))
    await results(kv, call(f"kv.{name}", *args, caps=("kv[templates]:*",)))
