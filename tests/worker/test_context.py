"""Host calls: what a call says, what it may, and what it gets."""

import msgpack
import orjson
import pytest

from pytw.errors import Forbidden, LimitExceeded, NotFound, PytwError, RequestError
from pytw.limits import KV_FIND_ROWS_MAX, KV_KEY_BYTES_MAX, KV_SCOPES_MAX, KV_VALUE_BYTES_MAX
from pytw.types import USER_BIT
from pytw.worker.context.answers import LAZY_JSON
from pytw.worker.context.call import plain
from pytw.worker.context.discord import Discord, checked_message, snowflake
from pytw.worker.context.kv import Kv

from .fakes import GUILD, MemoryDb, MemoryDiscord, ReadOnly, call, results


def test_arguments_stay_the_bytes_they_came_as():
    """An extension type that Python does not know crosses untouched."""
    value = msgpack.ExtType(6, b"lazy")
    made = call("kv.set", "k", value, ["s"])
    assert made.raw(1) == msgpack.packb(value)
    assert made.raw(9) == b"\xc0"


@pytest.mark.parametrize("value", [msgpack.ExtType(2, b"x"), b"bytes", {1: 2}, [{"a": msgpack.ExtType(1, b"x")}]])
def test_plain_refuses_what_json_has_no_form_for(value: object):
    with pytest.raises(RequestError):
        plain(msgpack.packb(value))


class TestKv:
    @pytest.fixture
    def kv(self):
        return Kv(MemoryDb()).operations()

    async def test_value_comes_back_as_it_was_stored(self, kv):
        value = {"a": [1, None, 2.5, {"b": msgpack.ExtType(3, b"123456789012")}]}
        assert await results(kv, call("kv.set", "k", value, ["s"])) == []
        assert await results(kv, call("kv.get", "k", ["s"])) == [value, True]

    async def test_missing_key_is_nil_and_false(self, kv):
        assert await results(kv, call("kv.get", "k", ["s"])) == [None, False]
        (missing,) = await results(kv, call("kv.getrecord", "k", ["s"]))
        assert (missing["exists"], missing["id"], missing["scopes"]) == (False, "", [])

    async def test_record_has_its_fields(self, kv):
        await results(kv, call("kv.set", "k", 1, ["b", "a"]))
        (record,) = await results(kv, call("kv.getrecord", "k", ["a", "b"]))
        assert record["scopes"] == ["a", "b"]
        assert (record["key"], record["value"], record["exists"]) == ("k", 1, True)
        assert record["created_at"].year == 2026
        assert isinstance(record, ReadOnly)
        assert await results(kv, call("kv.getrecord", "none", ["a"])) == [
            ReadOnly.fromkeys(("value", "created_at", "last_updated_at", "version", "expires_at", "resume"))
            | {"id": "", "key": "", "scopes": [], "exists": False}
        ]

    async def test_deleted_key_is_gone(self, kv):
        await results(kv, call("kv.set", "k", 1, ["s"]))
        assert await results(kv, call("kv.delete", "k", ["s"])) == []
        assert await results(kv, call("kv.get", "k", ["s"])) == [None, False]

    async def test_scopes_are_listed_to_who_may(self, kv):
        await results(kv, call("kv.set", "k", 1, ["b", "a"]))
        assert await results(kv, call("kv.list_scopes", caps=("kv.meta:list_scopes",))) == [["a", "b"]]
        with pytest.raises(Forbidden, match="KV operation `list_scopes` not allowed"):
            await results(kv, call("kv.list_scopes", caps=("kv:*", "kv.meta:*")))

    async def test_find_gives_records(self, kv):
        for key in ("a1", "a2", "b"):
            await results(kv, call("kv.set", key, key, ["s"]))
        (records,) = await results(kv, call("kv.find", "a%", ["s"]))
        assert [(r["key"], r["value"]) for r in records] == [("a1", "a1"), ("a2", "a2")]
        assert all(isinstance(r, ReadOnly) for r in records)

    async def test_find_refuses_to_give_a_part_for_the_whole(self, kv):
        for number in range(KV_FIND_ROWS_MAX):
            await results(kv, call("kv.set", f"k{number:04}", number, ["s"]))
        (records,) = await results(kv, call("kv.find", "k%", ["s"]))
        assert len(records) == KV_FIND_ROWS_MAX
        await results(kv, call("kv.set", "one more", 1, ["s"]))
        assert len((await results(kv, call("kv.find", "k%", ["s"])))[0]) == KV_FIND_ROWS_MAX
        await results(kv, call("kv.set", "k9", 1, ["s"]))
        with pytest.raises(LimitExceeded, match="more than 1,000 keys match 'k%'"):
            await results(kv, call("kv.find", "k%", ["s"]))

    @pytest.mark.parametrize(
        "held",
        ["*", "kv:*", "kv:get:*", "kv:get:k", "kv[s]:*", "kv[s]:get", "kv[s]:get:k", "kv[r]:*"],
    )
    async def test_capabilities_that_allow_a_read(self, kv, held: str):
        assert await results(kv, call("kv.get", "k", ["s", "r"], caps=(held,))) == [None, False]

    @pytest.mark.parametrize(
        ("action", "args"),
        [
            ("get", ("k", ["s", "r"])),
            ("getrecord", ("k", ["s", "r"])),
            ("set", ("k", 1, ["s", "r"])),
            ("delete", ("k", ["s", "r"])),
            ("find", ("k", ["s", "r"])),
        ],
    )
    async def test_each_operation_asks_for_its_action(self, kv, action: str, args: tuple):
        """A search asks with its pattern for a key; whoever may use one of the scopes may make the call."""
        asked = "get" if action == "getrecord" else action
        for held in ("kv:*", f"kv:{asked}:*", f"kv:{asked}:k", "kv[s]:*", f"kv[r]:{asked}", f"kv[s]:{asked}:k"):
            await results(kv, call(f"kv.{action}", *args, caps=("x", held)))
        other = "set" if asked != "set" else "get"
        for held in (
            f"kv:{other}:*",
            f"kv[s]:{other}",
            f"kv:{asked}",
            f"kv:{asked}:K",
            f"kv[t]:{asked}",
            "kv[s]",
            "*:*",
        ):
            with pytest.raises(Forbidden, match=f"KV operation `{asked}` not allowed"):
                await results(kv, call(f"kv.{action}", *args, caps=(held,)))

    @pytest.mark.parametrize("held", ["", "kv:get", "kv:set:*", "kv:get:other", "kv[t]:*", "discord:*", "k*"])
    async def test_capabilities_that_do_not(self, kv, held: str):
        with pytest.raises(Forbidden) as refused:
            await results(kv, call("kv.get", "k", ["s", "r"], caps=(held,)))
        assert refused.value.detail == "KV operation `get` not allowed in this template context for key 'k'"

    @pytest.mark.parametrize(
        ("args", "text"),
        [
            (("k", []), "Unscoped operations are not allowed"),
            (("k",), "Unscoped operations are not allowed"),
            (("k", [str(i) for i in range(KV_SCOPES_MAX + 1)]), "Scopes length may be at most 10 long (11 given)"),
            (("k" * (KV_KEY_BYTES_MAX + 1), ["s"]), "Key length too long (513 bytes, at most 512)"),
            ((msgpack.ExtType(1, b"\xff"), ["s"]), "a string is not UTF-8 text, and only that can be used here"),
            (
                (msgpack.ExtType(2, b"x"), ["s"]),
                "only plain values are allowed here: nil, boolean, number, string, table",
            ),
            ((1, ["s"]), "key must be a string"),
            (("k", "s"), "scopes must be an array of strings"),
            (("k", [1]), "scopes must be an array of strings"),
        ],
    )
    async def test_bad_reads_say_what_is_wrong(self, kv, args: tuple, text: str):
        with pytest.raises(PytwError) as refused:
            await results(kv, call("kv.get", *args))
        assert refused.value.detail == text

    async def test_writes_need_scopes_and_a_bounded_value(self, kv):
        with pytest.raises(RequestError, match="Setting keys without a scope is not allowed"):
            await results(kv, call("kv.set", "k", 1, []))
        with pytest.raises(LimitExceeded, match=r"Value length too long \(262,149 bytes, at most 262,144\)"):
            await results(kv, call("kv.set", "k", "x" * KV_VALUE_BYTES_MAX, ["s"]))


class TestDiscord:
    @pytest.fixture
    def world(self):
        return MemoryDiscord({10: GUILD, 11: 6 << 22})

    async def test_message_goes_to_a_channel_of_the_own_guild(self, world):
        operations = Discord(world).operations()
        (sent,) = await results(
            operations, call("discord.create_message", {"channel_id": "10", "data": {"content": "hi"}})
        )
        assert sent.code == LAZY_JSON
        assert orjson.loads(sent.data)["content"] == "hi"
        assert world.sent == [(10, {"content": "hi"})]

    async def test_answers_are_discords_bytes_untouched(self, world):
        """They become tables in the VM, when the script reads them."""
        world.raw = b'{ "id": "1",\n "n": 1.50, "big": 12345678901234567890, "u": "\\u00e9", "nothing": null }'
        operations = Discord(world).operations()
        message = {"channel_id": "10", "data": {"content": "hi"}}
        for asked in (call("discord.create_message", message), call("discord.get_guild")):
            assert await results(operations, asked) == [msgpack.ExtType(LAZY_JSON, world.raw)]
        world.raw = b""
        assert await results(operations, call("discord.get_guild")) == [None]

    async def test_channel_of_another_guild_is_refused(self, world):
        with pytest.raises(Forbidden, match="does not belong to this guild"):
            await results(
                Discord(world).operations(),
                call("discord.create_message", {"channel_id": 11, "data": {"content": "x"}}),
            )
        assert world.sent == []

    async def test_unknown_channel_is_discords_error(self, world):
        with pytest.raises(NotFound, match="Unknown Channel"):
            await results(
                Discord(world).operations(), call("discord.create_message", {"channel_id": 1, "data": {"content": "x"}})
            )

    async def test_channel_is_asked_for_once_and_again_after_its_life(self, world):
        now = [0.0]
        operations = Discord(world, clock=lambda: now[0]).operations()
        message = {"channel_id": "10", "data": {"content": "hi"}}
        for _ in range(3):
            await results(operations, call("discord.create_message", message))
        assert world.requests.count(("GET", "/channels/10")) == 1
        now[0] = 1000.0
        await results(operations, call("discord.create_message", message))
        assert world.requests.count(("GET", "/channels/10")) == 2

    async def test_capability_is_the_method_and_no_wildcard(self, world):
        operations = Discord(world).operations()
        await results(operations, call("discord.get_guild", caps=("discord:get_guild",)))
        with pytest.raises(Forbidden, match="`get_guild` not allowed"):
            await results(operations, call("discord.get_guild", caps=("discord:*",)))

    async def test_user_tenant_has_no_guild(self, world):
        with pytest.raises(RequestError, match="not a guild"):
            await results(Discord(world).operations(), call("discord.get_guild", tenant=GUILD | USER_BIT))

    @pytest.mark.parametrize("value", ["12", 12, 12.0])
    def test_ids_are_strings_or_whole_numbers(self, value: object):
        assert snowflake(value, "id") == 12

    @pytest.mark.parametrize("value", ["", "x", "1/../2", 1.5, True, None, 0, -1, "٣", 1 << 70, "9" * 30])
    def test_other_ids_are_refused(self, value: object):
        with pytest.raises(RequestError):
            snowflake(value, "id")

    def test_empty_tables_in_list_places_are_lists(self):
        assert checked_message({"content": "x", "embeds": {}, "allowed_mentions": {"parse": {}}}) == {
            "content": "x",
            "embeds": [],
            "allowed_mentions": {"parse": []},
        }

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"content": ""},
            {"content": 1},
            {"content": "x" * 2001},
            {"embeds": [{}] * 11},
            {"content": "x", "attachments": [{}]},
        ],
    )
    def test_bad_messages_are_refused_before_discord_hears_of_them(self, data: dict):
        with pytest.raises(RequestError):
            checked_message(data)
