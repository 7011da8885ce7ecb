"""Random operations of four tenants on keys, with `kill -9` of PostgreSQL between and within them, against a dict.

Each answer is what the dict says; operations on one key at the same time have an order that explains all their answers, and
what broke off has happened or has not, for everybody. A guild and a user of one number have nothing of each other, and room is
exact to the key and the byte. Rows, counts and the table of scopes agree at each end.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pytw import values
from pytw.errors import LimitExceeded, NotFound, Unavailable
from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX, Limits
from pytw.storage.migrate import migrate
from pytw.storage.pool import open_pool
from pytw.storage.postgres import EmbeddedPostgres
from pytw.storage.stores import Stores
from pytw.types import Id, KvRecord
from pytw.worker.memorykv import like_expression
from tests.storage.kvmodel import Place, Row, Step, Store, explained

PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MOMENTS = {"never": None, "past": PAST, "future": FUTURE}
LIMITS = Limits(kv_keys_max=3, kv_bytes_max=320)
CRASHES_MAX = 1
TENANTS = [Id.guild(5).key, Id.user(5).key, Id.guild(50).key]
KEYS = ["a", "a", "a", "a_", "a%", "ab", "b\\", "é"]
PATTERNS = ["%", "%%", "a%", "a_", "a\\_", "a\\%", "b\\", "_", "é%", "x"]
SCOPES = [["s"], ["t"], ["s", "t"], ["S", "s"], ["s", "t", "u"]]
VALUES = [None, 1, "x" * 60, "x" * 200, [1, {"k": True}]]

tenants, keys, scope_sets = st.sampled_from(TENANTS), st.sampled_from(KEYS), st.sampled_from(SCOPES)
written, moments = st.sampled_from(VALUES), st.sampled_from(["never", "past", "past", "future"])
#: What is drawn never depends on what happened before: who is first is not the test's to say.
picks = st.integers(0, 999)
expected = st.sampled_from(["any", "any", "none", "current", "stale"])


class KvMachine(RuleBasedStateMachine):
    server: EmbeddedPostgres
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self.model = Store()
        #: Claims that were given out and not settled: tenant, id, version.
        self.claims: list[tuple[int, str, int]] = []
        self.crashes = 0
        self.stores = self.run_(self._open())
        self.sql("TRUNCATE tenant_kv, tenant_kv_usage, tenant_kv_scopes")

    async def _open(self) -> Stores:
        return Stores(await open_pool(self.server.url, 4), LIMITS)

    def run_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        rows: list[Any] = self.run_(self.stores.db.fetch(statement, *arguments))
        return rows

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)

    def reopen(self) -> None:
        self.run_(self.stores.close())
        assert self.server._process is not None
        self.server._process.wait()
        self.server.start()
        self.stores = self.run_(self._open())

    # ---- what the dict expects ---------------------------------------------------------------------------

    def version(self, place: Place, which: str) -> int | None:
        version = self.model.rows[place].version if place in self.model.rows else 0
        return {"any": None, "none": 0, "current": version, "stale": version + 7}[which]

    def room(self, place: Place, value: Any) -> bool:
        """Whether the tenant may hold this value there."""
        mine = {p: r.value for p, r in self.model.rows.items() if p[0] == place[0]}
        held, old = sum(self.bytes(p, v) for p, v in mine.items()), 0
        if place in mine:
            old = self.bytes(place, mine[place])
        elif len(mine) >= LIMITS.kv_keys_max:
            return False
        more = self.bytes(place, value) - old
        return more <= 0 or held + more <= LIMITS.kv_bytes_max

    def bytes(self, place: Place, value: Any) -> int:
        scopes = "[" + ",".join(f'"{scope}"' for scope in place[2]) + "]"
        return len(place[1].encode()) + len(scopes) + self.json_bytes(value)

    def json_bytes(self, value: Any) -> int:
        """As PostgreSQL writes it: with a space behind each comma and colon."""
        return len(json.dumps(values.to_tagged_json(value), ensure_ascii=False).encode())

    def same(self, record: KvRecord | None, found: tuple[Place, Row] | None) -> None:
        if record is None or found is None:
            assert (record is None) is (found is None), (record, found)
            return
        place, row = found
        assert (record.key, tuple(record.scopes), values.unpack(record.value)) == (place[1], place[2], row.value)
        assert (record.id, record.version, record.resume) == (row.id, row.version, row.resume)
        assert record.expires_at == MOMENTS[row.expires]

    # ---- one after the other --------------------------------------------------------------------------

    def wrote(
        self, place: Place, call: Awaitable[Any], value: Any, if_version: int | None, fields: dict[str, Any]
    ) -> None:
        old = self.model.rows.get(place)
        version = 0 if old is None else old.version
        refused = if_version is not None and if_version != version
        try:
            answer = self.run_(call)  # type: ignore[arg-type]
        except LimitExceeded:
            assert not refused
            assert not self.room(place, value)
            return
        assert answer == ((False, version) if refused else (True, version + 1))
        if refused:
            return
        assert self.room(place, value)
        tenant, key, scopes = place
        record = self.run_(self.stores.kv.get(tenant, key, list(scopes)))
        assert old is None or record.id == old.id
        self.model.rows[place] = Row(record.id, version + 1, value, **fields)

    @rule(
        tenant=tenants,
        key=keys,
        scopes=scope_sets,
        value=written,
        expires=moments,
        resume=st.booleans(),
        which=expected,
    )
    def set(self, tenant: int, key: str, scopes: list[str], value: Any, expires: str, resume: bool, which: str) -> None:
        self._set(tenant, key, scopes, value, expires, resume, which)

    def _set(
        self, tenant: int, key: str, scopes: list[str], value: Any, expires: str, resume: bool, which: str
    ) -> None:
        place = (tenant, key, tuple(scopes))
        if_version = self.version(place, which)
        call = self.stores.kv_set(
            tenant, key, scopes[::-1], values.pack(value), MOMENTS[expires], resume=resume, if_version=if_version
        )
        self.wrote(place, call, value, if_version, {"expires": expires, "resume": resume})

    @rule(pick=picks, value=written, expires=moments, which=expected, stranger=tenants)
    def by_id(self, pick: int, value: Any, expires: str, which: str, stranger: int) -> None:
        if not self.model.rows:
            return
        place = sorted(self.model.rows)[pick % len(self.model.rows)]
        number, row = self.model.rows[place].id, self.model.rows[place]
        self.same(self.run_(self.stores.kv_get_by_id(place[0], number)), (place, row))
        if stranger != place[0]:
            assert self.run_(self.stores.kv_get_by_id(stranger, number)) is None
            assert not self.run_(self.stores.kv_delete_by_id(stranger, number))
            with pytest.raises(NotFound):
                self.run_(self.stores.kv_set_by_id(stranger, number, values.pack(value)))
        if_version = self.version(place, which)
        call = self.stores.kv_set_by_id(place[0], number, values.pack(value), MOMENTS[expires], if_version=if_version)
        self.wrote(place, call, value, if_version, {"expires": expires})

    @rule(tenant=tenants, key=keys, scopes=scope_sets, expires=moments)
    def set_expiry(self, tenant: int, key: str, scopes: list[str], expires: str) -> None:
        self._set_expiry(tenant, key, scopes, expires)

    def _set_expiry(self, tenant: int, key: str, scopes: list[str], expires: str) -> None:
        place = (tenant, key, tuple(scopes))
        row = self.model.rows.get(place)
        assert self.run_(self.stores.kv_set_expiry(tenant, key, scopes, MOMENTS[expires])) is (row is not None)
        if row is not None:
            self.model.rows[place] = Row(row.id, row.version + 1, row.value, expires, row.resume)

    @rule(tenant=tenants, key=keys, scopes=scope_sets)
    def get(self, tenant: int, key: str, scopes: list[str]) -> None:
        best = self.model.best(tenant, key, scopes)
        self.same(self.run_(self.stores.kv_get(tenant, key, scopes)), best)
        assert self.run_(self.stores.kv_exists(tenant, key, scopes)) is (best is not None)

    @rule(tenant=tenants, key=keys, scopes=scope_sets)
    def delete(self, tenant: int, key: str, scopes: list[str]) -> None:
        self._delete(tenant, key, scopes)

    def _delete(self, tenant: int, key: str, scopes: list[str]) -> None:
        doomed = [place for place, _ in self.model.matching(tenant, scopes) if place[1] == key]
        assert self.run_(self.stores.kv_delete(tenant, key, scopes)) == len(doomed)
        for place in doomed:
            del self.model.rows[place]

    @rule(tenant=tenants, pattern=st.sampled_from(PATTERNS), scopes=scope_sets, limit=st.integers(1, 4))
    def find(self, tenant: int, pattern: str, scopes: list[str], limit: int) -> None:
        like = like_expression(pattern)
        found = [(place, row) for place, row in self.model.matching(tenant, scopes) if like.fullmatch(place[1])]
        wanted = sorted(found, key=lambda item: (item[0][1], item[1].id))
        seen: list[KvRecord] = []
        while page := self.run_(
            self.stores.kv_find(tenant, pattern, scopes, limit=limit, after=seen[-1].cursor if seen else None)
        ):
            seen += page
        assert len(seen) == len(wanted)
        for record, expected_ in zip(seen, wanted, strict=True):
            self.same(record, expected_)
        names = sorted({place[1] for place, _ in self.model.matching(tenant, scopes)})
        assert self.run_(self.stores.kv_keys(tenant, scopes)) == names

    # ---- expiry ------------------------------------------------------------------------------------------

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        self._claim(limit)

    def _claim(self, limit: int) -> None:
        due = self.model.due()
        taken = self.run_(self.stores.claim_expired(0, 1, limit=limit))
        assert len(taken) == min(limit, len(due))
        for tenant, record in taken:
            place = (tenant, record.key, tuple(record.scopes))
            assert place in due
            self.same(record, (place, self.model.rows[place]))
            row = self.model.rows[place]
            self.model.change(place, claimed=True, attempts=row.attempts + 1)
            self.claims.append((tenant, record.id, record.version))

    @rule(pick=picks, well=st.booleans())
    def settle(self, pick: int, well: bool) -> None:
        self._settle(pick, well)

    def _settle(self, pick: int, well: bool) -> None:
        if not self.claims:
            return
        tenant, number, version = claim = self.claims[pick % len(self.claims)]
        self.claims.remove(claim)
        place = self.model.by_id(tenant, number)
        row = self.model.rows[place] if place is not None else None
        unchanged = row is not None and row.version == version
        if well:
            assert self.run_(self.stores.finish_expired(tenant, [(number, version)])) == int(unchanged)
            if unchanged:
                assert place is not None
                del self.model.rows[place]
            return
        given_up = self.run_(self.stores.fail_expired(tenant, number, version))
        # A wait must not end by itself while the test goes on.
        self.sql("UPDATE tenant_kv SET expiry_retry_at = '2100-01-01' WHERE expiry_retry_at IS NOT NULL")
        if unchanged and row is not None and row.claimed:
            assert place is not None
            assert given_up is (row.attempts >= KV_EXPIRY_ATTEMPTS_MAX)
            self.model.change(place, claimed=False, waits=True)
        else:
            assert not given_up

    @rule(pick=picks, how=st.sampled_from(["set", "expiry", "delete"]), expires=moments)
    def meddle(self, pick: int, how: str, expires: str) -> None:
        self._meddle(pick, how, expires)

    def _meddle(self, pick: int, how: str, expires: str) -> None:
        """Somebody touches a key while its handler runs, which then ends."""
        tenant, number, _ = self.claims[pick % len(self.claims)] if self.claims else (0, "", 0)
        place = self.model.by_id(tenant, number)
        if place is None:
            return
        _, key, scopes = place
        if how == "set":
            self._set(tenant, key, list(scopes), 2, expires, False, "any")
        elif how == "expiry":
            self._set_expiry(tenant, key, list(scopes), expires)
        else:
            self._delete(tenant, key, list(scopes))

    @rule(
        tenant=tenants, key=keys, scopes=scope_sets, pick=picks, well=st.booleans(),
        how=st.sampled_from(["nothing", "set", "expiry", "delete", "lost"]), expires=moments,
    )  # fmt: skip
    def handler(self, tenant: int, key: str, scopes: list[str], pick: int, well: bool, how: str, expires: str) -> None:
        """A key's whole way: it is due, its handler runs, something happens meanwhile, the handler ends."""
        self._set(tenant, key, scopes, 3, "past", False, "any")
        self._claim(10)
        if how == "lost":
            self._release()
            self._claim(10)
        elif how != "nothing":
            self._meddle(pick, how, expires)
        self._settle(pick, well)

    @rule()
    def waits_end(self) -> None:
        self.sql("UPDATE tenant_kv SET expiry_retry_at = NULL WHERE expiry_retry_at IS NOT NULL")
        for place in self.model.rows:
            self.model.change(place, waits=False)

    @rule()
    def worker_begins_anew(self) -> None:
        self._release()

    def _release(self) -> None:
        claimed = [place for place, row in self.model.rows.items() if row.claimed]
        assert sum(self.run_(self.stores.release_claims(0, 1))) == len(claimed)
        for place in claimed:
            self.model.change(place, claimed=False)

    # ---- at the same time, and broken off --------------------------------------------------------------

    @rule(
        tenant=tenants, key=keys, scopes=scope_sets, kinds=st.lists(st.sampled_from("ssgd"), min_size=2, max_size=5),
        which=st.sampled_from(["any", "current"]), crash=st.booleans(),
    )  # fmt: skip
    def together(self, tenant: int, key: str, scopes: list[str], kinds: list[str], which: str, crash: bool) -> None:
        place = (tenant, key, tuple(scopes))
        if len(self.model.matching(tenant, scopes)) != (1 if place in self.model.rows else 0):
            return
        if place not in self.model.rows and not self.room(place, 9):
            return
        crash = crash and self.crashes < CRASHES_MAX
        old = self.model.rows.get(place)
        before = (0, None) if old is None else (old.version, old.value)
        if_version = self.version(place, which)
        steps = [
            {"s": Step("set", number, if_version), "g": Step("get"), "d": Step("delete")}[kind]
            for number, kind in enumerate(kinds)
        ]
        done = self.run_(self._all(place, steps, crash=crash))
        if crash:
            self.crashes += 1
            self.reopen()
        record = self.run_(self.stores.kv_get(tenant, key, scopes))
        after = (0, None) if record is None else (record.version, values.unpack(record.value))
        assert explained(done, before, after), (done, before, after)
        self.model.rows.pop(place, None)
        if record is not None:
            untouched = old is not None and record.version == old.version and record.id == old.id
            self.model.rows[place] = old if untouched and old is not None else Row(record.id, *after)

    async def _all(self, place: Place, steps: list[Step], *, crash: bool) -> list[Step]:
        asked = [asyncio.ensure_future(self._one(place, step)) for step in steps]
        if crash:
            # Some have been sent and some have not.
            await asyncio.sleep(0)
            self.kill()
        return list(await asyncio.gather(*asked))

    async def _one(self, place: Place, step: Step) -> Step:
        tenant, key, scopes = place
        try:
            if step.kind == "get":
                found = await self.stores.kv_get(tenant, key, list(scopes))
                answer: Any = (0, None) if found is None else (found.version, values.unpack(found.value))
            elif step.kind == "delete":
                answer = await self.stores.kv_delete(tenant, key, list(scopes))
            else:
                packed = values.pack(step.value)
                answer = tuple(await self.stores.kv_set(tenant, key, list(scopes), packed, if_version=step.if_version))
        except Unavailable:
            answer = "broke"
        return step._replace(answer=answer)

    @rule()
    def crash(self) -> None:
        if self.crashes >= CRASHES_MAX:
            return
        self.crashes += 1
        self.kill()
        self.reopen()

    def teardown(self) -> None:
        """Everything is where it was written, and all that is kept beside the rows agrees with them."""
        held = self.sql(
            "SELECT owner_type, owner_id, count(*), sum(bytes)::bigint FROM tenant_kv GROUP BY 1, 2 ORDER BY 1, 2"
        )
        used = self.sql("SELECT owner_type, owner_id, keys, bytes FROM tenant_kv_usage WHERE keys > 0 ORDER BY 1, 2")
        assert [tuple(row) for row in held] == [tuple(row) for row in used]
        for row in held:
            place_bytes = [
                self.bytes(place, r.value) for place, r in self.model.rows.items()
                if (Id.of(place[0]).owner_type.value, Id.of(place[0]).owner_id) == (row[0], row[1])
            ]  # fmt: skip
            assert (len(place_bytes), sum(place_bytes)) == (row[2], row[3])
        under = "SELECT owner_id, owner_type, kv_scope(s), key, id FROM tenant_kv, unnest(scopes) AS s"
        for one, other in ((under, "TABLE tenant_kv_scopes"), ("TABLE tenant_kv_scopes", under)):
            assert self.sql(f"{one} EXCEPT {other}") == []
        for place, row in self.model.rows.items():
            self.same(self.run_(self.stores.kv_get(place[0], place[1], list(place[2]))), (place, row))
        self.run_(self.stores.close())


@pytest.fixture
def durable_server() -> Iterator[EmbeddedPostgres]:
    """A server that keeps what it has acknowledged, to be killed."""
    directory = Path(tempfile.mkdtemp(prefix="pytw-kv-"))
    server = EmbeddedPostgres(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.weakness(12)
@pytest.mark.weakness(21)
def test_the_store_is_a_dict_that_outlives_its_server(durable_server: EmbeddedPostgres) -> None:
    KvMachine.server, KvMachine.loop = durable_server, asyncio.new_event_loop()
    try:
        KvMachine.loop.run_until_complete(migrate(durable_server.url))
        run_state_machine_as_test(
            KvMachine,
            settings=settings(
                max_examples=15,
                stateful_step_count=150,
                derandomize=True,
                deadline=None,
                database=None,
                # Runs are not the same twice, so that a shorter example is no easier to find than the first one.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        KvMachine.loop.close()
