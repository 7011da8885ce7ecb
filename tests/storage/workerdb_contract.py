"""What every `workerdb.WorkerDb` promises. A twin inherits `WorkerDbContract` and gives the fixtures `db` and `stores`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgpack
import pytest

from pytw.errors import Forbidden, LimitExceeded, NotFound, PytwError, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import (
    KV_KEY_BYTES_MAX,
    KV_SCOPE_BYTES_MAX,
    KV_VALUE_BYTES_MAX,
    TENANT_DATA_BYTES_MAX,
    TENANT_EVENTS_MAX,
)
from pytw.storage.stores import Stores
from pytw.types import Draft, Id, KvPlace, ScriptCaller, TenantState
from pytw.workerdb import WorkerDb

GUILD = Id.guild(7 << 22)
USER = Id.user(7 << 22)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def pack(value: object) -> bytes:
    return bytes(msgpack.packb(value))


class WorkerDbContract:
    """Fixtures of the subclass: `db`, the one under test, and `stores`, the master's own on the same database."""

    async def test_set_then_get_gives_the_value(self, db: WorkerDb) -> None:
        value = pack({"a": [1, 2.5, "x", None, True]})
        await db.kv_set(GUILD.key, "k", ["s"], value)
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert (found.key, found.scopes, found.value, found.version) == ("k", ["s"], value, 1)

    async def test_missing_key_is_none(self, db: WorkerDb) -> None:
        assert await db.kv_get(GUILD.key, "k", ["s"]) is None

    async def test_guild_and_user_of_one_number_are_strangers(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1))
        assert await db.kv_get(USER.key, "k", ["s"]) is None
        assert await db.kv_delete(USER.key, "k", ["s"]) == 0

    async def test_set_again_keeps_id_and_grows_the_version(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1))
        first = await db.kv_get(GUILD.key, "k", ["s"])
        await db.kv_set(GUILD.key, "k", ["s"], pack(2))
        second = await db.kv_get(GUILD.key, "k", ["s"])
        assert first is not None
        assert second is not None
        assert (second.id, second.created_at, second.version, second.value) == (first.id, first.created_at, 2, pack(2))

    async def test_scopes_are_a_set(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["b", "a", "b"], pack(1))
        await db.kv_set(GUILD.key, "k", ["a", "b"], pack(2))
        found = await db.kv_find(GUILD.key, "%%", ["a"], limit=10)
        assert [(r.scopes, r.value) for r in found] == [(["a", "b"], pack(2))]

    @pytest.mark.weakness(21)
    async def test_get_prefers_the_exact_scopes_then_the_fewest(self, db: WorkerDb) -> None:
        for scopes in (["a", "c", "d"], ["a", "c"], ["a", "b"]):
            await db.kv_set(GUILD.key, "k", scopes, pack("".join(scopes)))
        wider = await db.kv_get(GUILD.key, "k", ["a"])
        assert wider is not None
        assert wider.scopes == ["a", "b"]
        await db.kv_set(GUILD.key, "k", ["a"], pack("a"))
        exact = await db.kv_get(GUILD.key, "k", ["a"])
        assert exact is not None
        assert exact.scopes == ["a"]
        assert await db.kv_get(GUILD.key, "k", ["a", "x"]) is None

    async def test_delete_takes_every_row_whose_scopes_contain_these(self, db: WorkerDb) -> None:
        for scopes in (["a"], ["a", "b"], ["b"]):
            await db.kv_set(GUILD.key, "k", scopes, pack(1))
        assert await db.kv_delete(GUILD.key, "k", ["a"]) == 2
        assert await db.kv_get(GUILD.key, "k", ["b"]) is not None

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("%%", ["A", "a", "a%", "a\\", "ab", "b_c", "bxc"]),
            ("%", ["A", "a", "a%", "a\\", "ab", "b_c", "bxc"]),
            ("a", ["a"]),
            ("a_", ["a%", "a\\", "ab"]),
            ("a%", ["a", "a%", "a\\", "ab"]),
            ("a\\%", ["a%"]),
            ("b\\_c", ["b_c"]),
            ("b_c", ["b_c", "bxc"]),
            ("a\\", ["a\\"]),
            ("a\\\\", ["a\\"]),
            ("x", []),
        ],
    )
    async def test_find_is_like(self, db: WorkerDb, pattern: str, found: list[str]) -> None:
        for key in ("a", "ab", "a%", "a\\", "b_c", "bxc", "A"):
            await db.kv_set(GUILD.key, key, ["s"], pack(key))
        assert [r.key for r in await db.kv_find(GUILD.key, pattern, ["s"], limit=100)] == found

    @pytest.mark.weakness(40)
    async def test_find_pages_without_gap_or_repeat(self, db: WorkerDb) -> None:
        keys = [f"k{n:02}" for n in range(7)]
        for key in keys:
            await db.kv_set(GUILD.key, key, ["s"], pack(1))
            await db.kv_set(GUILD.key, key, ["s", "t"], pack(2))
        seen, after = [], None
        while page := await db.kv_find(GUILD.key, "k%", ["s"], limit=3, after=after):
            seen += [(r.key, r.id) for r in page]
            after = page[-1].cursor
        assert [key for key, _ in seen] == sorted(keys * 2)
        assert len(set(seen)) == 14

    async def test_scopes_are_listed_once_and_sorted(self, db: WorkerDb) -> None:
        assert await db.kv_list_scopes(GUILD.key) == []
        await db.kv_set(GUILD.key, "a", ["y", "x"], b"\x01")
        await db.kv_set(GUILD.key, "b", ["x", "Z"], b"\x01")
        assert await db.kv_list_scopes(GUILD.key) == ["Z", "x", "y"]
        assert await db.kv_list_scopes(USER.key) == []

    @pytest.mark.weakness(22)
    async def test_long_scopes_are_stored(self, db: WorkerDb) -> None:
        scopes = [f"{n}{'é' * 200}" for n in range(10)]
        await db.kv_set(GUILD.key, "k" * KV_KEY_BYTES_MAX, scopes, pack(1))
        assert await db.kv_get(GUILD.key, "k" * KV_KEY_BYTES_MAX, scopes) is not None

    @pytest.mark.parametrize(
        ("key", "scopes", "value", "error", "words"),
        [
            ("k" * (KV_KEY_BYTES_MAX + 1), ["s"], pack(1), LimitExceeded, "Key length too long"),
            ("k", ["s"], pack("x" * KV_VALUE_BYTES_MAX), LimitExceeded, "Value length too long"),
            ("k", [], pack(1), RequestError, "without a scope"),
            ("k", [str(n) for n in range(11)], pack(1), RequestError, "at most 10"),
            ("k\0", ["s"], pack(1), RequestError, "NUL"),
            ("k", ["s\0"], pack(1), RequestError, "NUL"),
            ("k", ["s" * (KV_SCOPE_BYTES_MAX + 1)], pack(1), LimitExceeded, "Scope length too long"),
            ("k", ["s"], pack("a\0b"), RequestError, "NUL"),
            ("", ["s"], pack(1), RequestError, "empty"),
        ],
    )
    async def test_what_cannot_be_stored_is_refused_in_words(
        self, db: WorkerDb, key: str, scopes: list[str], value: bytes, error: type[PytwError], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            await db.kv_set(GUILD.key, key, scopes, value)

    async def test_text_that_looks_like_an_escaped_nul_is_stored(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack("\\u0000"))
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert found.value == pack("\\u0000")

    async def test_due_key_is_claimed_once_by_its_worker(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1), PAST)
        await db.kv_set(GUILD.key, "later", ["s"], pack(1), datetime.now(UTC) + timedelta(hours=1))
        assert await db.claim_expired(0, 2, limit=10) == []
        claimed = await db.claim_expired(1, 2, limit=10)
        assert [(tenant, r.key, r.expires_at) for tenant, r in claimed] == [(GUILD.key, "k", PAST)]
        assert await db.claim_expired(1, 2, limit=10) == []

    async def test_finished_key_is_gone(self, db: WorkerDb) -> None:
        await db.kv_set(USER.key, "k", ["s"], pack(1), PAST)
        ((tenant, record),) = await db.claim_expired(1, 2, limit=10)
        assert tenant == USER.key
        await db.finish_expired(tenant, [(record.id, record.version)])
        assert await db.kv_get(USER.key, "k", ["s"]) is None

    async def test_key_that_was_written_meanwhile_stays(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1), PAST)
        ((tenant, record),) = await db.claim_expired(1, 2, limit=10)
        await db.kv_set(GUILD.key, "k", ["s"], pack(2), datetime.now(UTC) + timedelta(hours=1))
        await db.finish_expired(tenant, [(record.id, record.version)])
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert found.value == pack(2)

    async def test_set_without_expiry_takes_it_away(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1), PAST)
        await db.kv_set(GUILD.key, "k", ["s"], pack(1))
        assert await db.claim_expired(1, 2, limit=10) == []

    @pytest.mark.weakness(21)
    async def test_of_two_rows_the_exact_one_is_read_in_whatever_order_they_came(self, db: WorkerDb) -> None:
        for key, order in (("k", (["a"], ["a", "b"])), ("l", (["a", "b"], ["a"]))):
            for scopes in order:
                await db.kv_set(GUILD.key, key, scopes, pack(len(scopes)))
            for scopes in order:
                found = await db.kv_get(GUILD.key, key, scopes)
                assert found is not None
                assert (found.scopes, found.value) == (scopes, pack(len(scopes)))

    async def test_exists_is_what_get_would_find(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["a", "b"], pack(None))
        for scopes, there in ((["a"], True), (["a", "b"], True), (["b", "a", "a"], True), (["a", "c"], False)):
            assert await db.kv_exists(GUILD.key, "k", scopes) is there
        assert not await db.kv_exists(USER.key, "k", ["a"])
        assert not await db.kv_exists(GUILD.key, "K", ["a"])

    async def test_keys_are_listed_once_and_sorted(self, db: WorkerDb) -> None:
        for key, scopes in (("b", ["s"]), ("a", ["s", "t"]), ("a", ["s"]), ("B", ["s"]), ("z", ["t"])):
            await db.kv_set(GUILD.key, key, scopes, pack(1))
        assert await db.kv_keys(GUILD.key, ["s"]) == ["B", "a", "b"]
        assert await db.kv_keys(GUILD.key, ["s", "t"]) == ["a"]
        assert await db.kv_keys(USER.key, ["s"]) == []

    async def test_a_write_of_the_wrong_version_is_none(self, db: WorkerDb) -> None:
        assert await db.kv_set(GUILD.key, "k", ["s"], pack(1), if_version=1) == (False, 0)
        assert await db.kv_set(GUILD.key, "k", ["s"], pack(1), if_version=0) == (True, 1)
        assert await db.kv_set(GUILD.key, "k", ["s"], pack(2), if_version=0) == (False, 1)
        assert await db.kv_set(GUILD.key, "k", ["s"], pack(2)) == (True, 2)
        assert await db.kv_set(GUILD.key, "k", ["s"], pack(3), if_version=1) == (False, 2)
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert found.value == pack(2)

    async def test_one_of_many_with_the_same_version_writes(self, db: WorkerDb) -> None:
        for version in range(3):
            asks = (db.kv_set(GUILD.key, "k", ["s"], pack(n), if_version=version) for n in range(4))
            written = [done.written for done in await asyncio.gather(*asks)]
            assert sorted(written) == [False, False, False, True]

    async def test_a_record_is_reached_by_its_id(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s", "t"], pack(1), resume=True)
        first = await db.kv_get(GUILD.key, "k", ["s"])
        assert first is not None
        assert await db.kv_get_by_id(GUILD.key, first.id) == first
        assert await db.kv_set_by_id(GUILD.key, first.id, pack(2), if_version=7) == (False, 1)
        assert await db.kv_set_by_id(GUILD.key, first.id, pack(2)) == (True, 2)
        assert await db.kv_set_expiry_by_id(GUILD.key, first.id, PAST)
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert (found.id, found.value, found.version, found.expires_at, found.resume) == (
            first.id,
            pack(2),
            3,
            PAST,
            False,
        )
        for stranger, number in ((USER.key, first.id), (GUILD.key, "unknown")):
            assert await db.kv_get_by_id(stranger, number) is None
            assert not await db.kv_set_expiry_by_id(stranger, number, None)
            assert not await db.kv_delete_by_id(stranger, number)
            with pytest.raises(NotFound):
                await db.kv_set_by_id(stranger, number, pack(1))
        assert await db.kv_delete_by_id(GUILD.key, first.id)
        assert await db.kv_get(GUILD.key, "k", ["s"]) is None

    async def test_expiry_is_set_on_the_exact_row_and_taken_away(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s", "t"], pack(1))
        assert not await db.kv_set_expiry(GUILD.key, "k", ["s"], PAST)
        assert await db.kv_set_expiry(GUILD.key, "k", ["t", "s"], PAST)
        found = await db.kv_get(GUILD.key, "k", ["s"])
        assert found is not None
        assert (found.expires_at, found.version, found.value) == (PAST, 2, pack(1))
        assert await db.kv_set_expiry(GUILD.key, "k", ["s", "t"], None)
        assert await db.claim_expired(1, 2, limit=10) == []

    @pytest.mark.weakness(12)
    async def test_key_that_was_extended_meanwhile_stays(self, db: WorkerDb) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1), PAST)
        ((tenant, record),) = await db.claim_expired(1, 2, limit=10)
        await db.kv_set_expiry(GUILD.key, "k", ["s"], datetime.now(UTC) + timedelta(hours=1))
        assert await db.finish_expired(tenant, [(record.id, record.version)]) == 0
        assert await db.kv_exists(GUILD.key, "k", ["s"])

    async def test_many_keys_are_finished_at_once(self, db: WorkerDb) -> None:
        for key in "abc":
            await db.kv_set(GUILD.key, key, ["s"], pack(1), PAST)
        claimed = await db.claim_expired(1, 2, limit=10)
        await db.kv_set(GUILD.key, "b", ["s"], pack(2))
        assert await db.finish_expired(GUILD.key, [(r.id, r.version) for _, r in claimed]) == 2
        assert await db.kv_keys(GUILD.key, ["s"]) == ["b"]

    async def test_first_and_last_moment_there_are_hold_up_nobodys_keys(self, db: WorkerDb) -> None:
        for key, at in (("first", datetime.min), ("last", datetime.max), ("k", PAST)):
            await db.kv_set(GUILD.key, key, ["s"], pack(1), at.replace(tzinfo=UTC))
            found = await db.kv_get(GUILD.key, key, ["s"])
            assert found is not None
            assert found.expires_at == at.replace(tzinfo=UTC)
        assert [r.key for _, r in await db.claim_expired(1, 2, limit=10)] == ["first", "k"]

    async def test_keys_of_busy_tenants_are_passed_over(self, db: WorkerDb) -> None:
        for tenant in (GUILD, USER):
            await db.kv_set(tenant.key, "k", ["s"], pack(1), PAST)
        assert [t for t, _ in await db.claim_expired(1, 2, limit=10, busy=[GUILD.key])] == [USER.key]
        assert [t for t, _ in await db.claim_expired(1, 2, limit=10)] == [GUILD.key]

    async def test_key_that_was_given_up_stays_until_it_is_tried_again(self, db: WorkerDb, stores: Stores) -> None:
        await db.kv_set(GUILD.key, "k", ["s"], pack(1), PAST)
        given_up = False
        while not given_up:
            ((tenant, record),) = await db.claim_expired(1, 2, limit=10)
            given_up = await db.fail_expired(tenant, record.id, record.version)
            await stores.db.execute("UPDATE tenant_kv SET expiry_retry_at = NULL")
        assert await db.claim_expired(1, 2, limit=10) == []
        assert await db.kv_exists(GUILD.key, "k", ["s"])
        assert await db.retry_expired(GUILD.key) == 1
        assert len(await db.claim_expired(1, 2, limit=10)) == 1

    async def test_keys_to_resume_come_in_pages(self, db: WorkerDb) -> None:
        for tenant in (GUILD, USER, Id.guild(8 << 22)):
            for number in range(5):
                await db.kv_set(tenant.key, f"k{number}", ["s"], pack(1), resume=number < 3)
        mine: list[KvPlace] = []
        while page := await db.resume_keys(1, 2, mine[-1].id if mine else "", 4):
            mine += page
        assert sorted((p.tenant, p.key, *p.scopes) for p in mine) == [
            (tenant.key, f"k{number}", "s") for tenant in (GUILD, USER) for number in range(3)
        ]
        first = await db.tenant_resume_keys(USER.key, "", 2)
        rest = await db.tenant_resume_keys(USER.key, first[-1].id, 2)
        assert {(p.tenant, p.key) for p in [*first, *rest]} == {(USER.key, f"k{number}") for number in range(3)}
        await db.kv_set(USER.key, "k0", ["s"], pack(1))
        assert len(await db.tenant_resume_keys(USER.key, "", 9)) == 2

    async def test_find_by_several_scopes_finds_what_has_them_all(self, db: WorkerDb) -> None:
        for number in range(6):
            await db.kv_set(GUILD.key, f"ban:{number}", ["common", "rare"] if number % 3 == 0 else ["common"], pack(1))
        assert [r.key for r in await db.kv_find(GUILD.key, "ban:%", ["rare", "common"], limit=9)] == ["ban:0", "ban:3"]

    async def test_unknown_tenant_has_the_default_gate_and_state(self, db: WorkerDb) -> None:
        gate = await db.gate(GUILD.key)
        assert (gate.tenant, gate.events, gate.banned) == (GUILD.key, DEFAULT_EVENTS, False)
        state = await db.tenant_state(GUILD.key)
        assert (state.events, dict(state.data), state.banned) == (DEFAULT_EVENTS, {}, False)
        assert await db.program(GUILD.key) == []

    async def test_state_is_kept(self, db: WorkerDb) -> None:
        await db.set_tenant_state(GUILD.key, TenantState(frozenset({"B", "A"}), {"x": [1]}))
        state = await db.tenant_state(GUILD.key)
        assert (state.events, dict(state.data)) == (frozenset({"A", "B"}), {"x": [1]})
        assert (await db.gate(GUILD.key)).events == frozenset({"A", "B"})

    async def test_writers_of_one_reading_lose_nothing(self, db: WorkerDb) -> None:
        read = await db.tenant_state(GUILD.key)
        await db.update_tenant_state(GUILD.key, read, TenantState(read.events | {"A"}, {"o": {"a": [1, None]}}))
        stored = await db.update_tenant_state(GUILD.key, read, TenantState(frozenset({"B"}), {"o": {"b": 2.5}}))
        assert stored == await db.tenant_state(GUILD.key)
        assert (stored.events, stored.data) == ({"A", "B"}, {"o": {"a": [1, None], "b": 2.5}})
        assert stored.revision == read.revision + 2
        await db.update_tenant_state(GUILD.key, None, TenantState(frozenset({"C"}), {}))
        assert (await db.gate(GUILD.key)).events == {"C"}

    async def test_update_that_cannot_be_kept_is_refused(self, db: WorkerDb) -> None:
        read = await db.tenant_state(GUILD.key)
        with pytest.raises(LimitExceeded):
            await db.update_tenant_state(GUILD.key, read, TenantState(read.events, {"x": "y" * TENANT_DATA_BYTES_MAX}))
        assert await db.tenant_state(GUILD.key) == read

    async def test_templates_are_changed_by_scripts_within_their_rights(self, db: WorkerDb) -> None:
        caller = ScriptCaller("caller", ["a"], False)
        await db.template_save(GUILD.key, caller, Draft("t", {"init.luau": "return {}"}, allowed_caps=["a"]), True)
        await db.template_save(GUILD.key, caller, Draft("t", {}, events_override=["X"], paused=True), False)
        (listed,) = await db.template_list(GUILD.key, False)
        assert (listed.name, listed.events, listed.allowed_caps, listed.paused) == ("t", ["X"], ["a"], True)
        found = await db.template_get(GUILD.key, "t", False)
        assert found is not None
        assert (found.content, listed.content) == ({"init.luau": "return {}"}, None)
        assert await db.template_get(USER.key, "t", False) is None
        weak = ScriptCaller("weak", [], False)
        with pytest.raises(Forbidden):
            await db.template_delete(GUILD.key, weak, "t")
        await db.template_delete(GUILD.key, caller, "t")
        assert await db.template_list(GUILD.key, False) == []
        with pytest.raises(NotFound):
            await db.template_delete(GUILD.key, caller, "t")

    async def test_secret_is_read_by_its_template(self, db: WorkerDb, stores: Stores) -> None:
        await stores.secrets.put(GUILD, "t", "key", "hunter2")
        assert await db.secret_get(GUILD.key, "t", "key") == "hunter2"
        assert await db.secret_get(GUILD.key, "u", "key") is None
        assert await db.secret_get(USER.key, "t", "key") is None

    async def test_too_many_events_are_refused(self, db: WorkerDb) -> None:
        with pytest.raises(LimitExceeded):
            await db.set_tenant_state(
                GUILD.key, TenantState(frozenset(f"E{n}" for n in range(TENANT_EVENTS_MAX + 1)), {})
            )

    async def test_a_tenant_cannot_lift_its_ban(self, db: WorkerDb, stores: Stores) -> None:
        await stores.tenants.set_banned(GUILD.key, True)
        await db.set_tenant_state(GUILD.key, TenantState(frozenset({"A"}), {}, banned=False))
        assert (await db.gate(GUILD.key)).banned
        assert (await db.tenant_state(GUILD.key)).banned

    async def test_gate_is_state_and_unpaused_templates(self, db: WorkerDb, stores: Stores) -> None:
        await stores.templates.put(GUILD, Draft("t", {"init.luau": "return {}"}, events=["MESSAGE"]))
        assert (await db.gate(GUILD.key)).events == DEFAULT_EVENTS | {"MESSAGE"}
        await stores.templates.put(GUILD, Draft("u", {"init.luau": "return {}"}, events=["X"], events_override=["Y"]))
        await db.set_tenant_state(GUILD.key, TenantState(frozenset({"A"}), {}))
        assert (await db.gate(GUILD.key)).events == {"A", "MESSAGE", "Y"}
        await stores.templates.set_paused(GUILD, "t", True)
        assert (await db.gate(GUILD.key)).events == {"A", "Y"}
        gates = {gate.tenant: gate.events for gate in await db.gates(1, 2)}
        assert gates == {GUILD.key: {"A", "Y"}}
        assert await db.gates(0, 2) == []

    async def test_program_holds_the_deployed_sources(self, db: WorkerDb, stores: Stores) -> None:
        files = {"/init.luau": "return require('./lib')", "lib.luau": "return {}"}
        version = await stores.templates.put(GUILD, Draft("t", files, events=["MESSAGE"], allowed_caps=["discord:*"]))
        (template,) = await db.program(GUILD.key)
        assert template.files == {"init.luau": b"return require('./lib')", "lib.luau": b"return {}"}
        assert (template.name, template.entry, template.version) == ("t", "init", version)
        assert (template.events, list(template.allowed_caps), template.paused) == ({"MESSAGE"}, ["discord:*"], False)
