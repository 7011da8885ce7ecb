"""The database, cursors, identify slots and forwarding, asked by workers over real links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pytw.errors import Forbidden, InternalError, NotFound, Overloaded, ProtocolError, WorkerLost
from pytw.limits import Limits
from pytw.mesophyll import CursorClient, ForwardClient, IdentifyClient, Kind, MesophyllClient, Services, db_client
from pytw.mesophyll.dbcodec import OPERATIONS, pack_ask, pack_result, unpack_ask, unpack_cursors, unpack_result
from pytw.mesophyll.turns import Turns
from pytw.routing import worker_of
from pytw.storage.stores import Stores
from pytw.types import (
    CreateEvent,
    Cursor,
    KvPlace,
    KvRecord,
    KvWritten,
    Outcome,
    TemplateSource,
    TenantGate,
    TenantState,
)
from pytw.workerdb import WorkerDb
from tests.mesophyll.conftest import Pair
from tests.storage.commons_contract import ENTRY, CommonsContract, Staff, StoresStaff
from tests.storage.conftest import stores  # noqa: F401 - the contract's fixture
from tests.storage.workerdb_contract import WorkerDbContract

MINE, OTHERS = 1 << 22, 2 << 22
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
RECORD = KvRecord("id", "k", ["a"], b"\xc0", 1, NOW, NOW, None)


class FakeDb:
    """Holds operations until told, and counts them."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.started: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def gate(self, tenant: int) -> TenantGate:
        self.started.append(tenant)
        self.running.append(tenant)
        await self.go.wait()
        self.running.remove(tenant)
        if self.error is not None:
            raise self.error
        return TenantGate(tenant, frozenset({"A"}))

    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
        return [TenantGate(worker_id, frozenset())]


class FakeCursors:
    def __init__(self) -> None:
        self.known: dict[int, Cursor] = {n: Cursor(f"s{n}", "u", n) for n in range(4)}
        self.reports: list[tuple[int, int, Cursor | None]] = []

    async def load(self, shards: int) -> dict[int, Cursor]:
        return self.known

    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        self.reports.append((shards, shard, cursor))


class FakeSlots:
    def __init__(self) -> None:
        self.asked: list[int] = []
        self.given_up: list[int] = []
        self.free = asyncio.Event()

    async def acquire(self, shard: int) -> None:
        self.asked.append(shard)
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.given_up.append(shard)
            raise


class FakeForwarder:
    async def forward(self, tenant: int, event: CreateEvent) -> Outcome:
        return Outcome.NOT_SUBSCRIBED if event.redelivered else Outcome.OK


class Served(Pair):
    """Worker 1 of 2, and what serves it."""

    client_of: MesophyllClient

    async def serve(self, db: Any = None) -> MesophyllClient:
        self.db, self.cursors, self.slots = FakeDb(), FakeCursors(), FakeSlots()
        self.services = Services(
            2,
            shards=4,
            db=db or self.db,
            cursors=self.cursors,
            slots=self.slots,
            forwarder=FakeForwarder(),
            limits=Limits(db_operations_max=2),
        )
        await self.start(self.services.handlers())
        _, client = await self.connect(1)
        return client


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    yield made
    await made.close()


class Routed:
    """A WorkerDb that asks as the worker that may."""

    def __init__(self, clients: dict[int, WorkerDb]) -> None:
        self._clients = clients

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(first: int, *args: Any, **kwargs: Any) -> Any:
            worker = worker_of(first, 2) if OPERATIONS[name].of_tenant else first
            return getattr(self._clients[worker], name)(first, *args, **kwargs)

        return ask


class TestOverMesophyll(WorkerDbContract, CommonsContract):
    """The worker's database satisfies what the master's stores do."""

    @pytest.fixture
    def staff(self, stores: Stores) -> Staff:  # noqa: F811
        return StoresStaff(stores)

    @pytest.fixture
    async def db(self, stores: Stores, served: Served) -> WorkerDb:  # noqa: F811
        one = await served.serve(stores)
        _, zero = await served.connect(0)
        return Routed({0: db_client(zero), 1: db_client(one)})  # type: ignore[return-value]


async def test_a_foreign_tenant_is_refused_for_every_operation_and_counted(served: Served) -> None:
    client = await served.serve()
    db = db_client(client)
    asks = [
        db.gate(OTHERS),
        db.program(OTHERS),
        db.tenant_state(OTHERS),
        db.set_tenant_state(OTHERS, TenantState(frozenset(), {})),
        db.kv_get(OTHERS, "k", []),
        db.kv_set(OTHERS, "k", [], b"\xc0"),
        db.kv_delete(OTHERS, "k", []),
        db.kv_find(OTHERS, "%", [], limit=1),
        db.kv_list_scopes(OTHERS),
        db.kv_get_by_id(OTHERS, "id"),
        db.kv_exists(OTHERS, "k", []),
        db.kv_set_by_id(OTHERS, "id", b"\xc0"),
        db.kv_set_expiry(OTHERS, "k", [], None),
        db.kv_set_expiry_by_id(OTHERS, "id", None),
        db.kv_delete_by_id(OTHERS, "id"),
        db.kv_keys(OTHERS, []),
        db.finish_expired(OTHERS, [("id", 1)]),
        db.fail_expired(OTHERS, "id", 1),
        db.retry_expired(OTHERS),
        db.tenant_resume_keys(OTHERS, "", 1),
        db.global_find(OTHERS, "s", "%", limit=1),
        db.global_get(OTHERS, "s", "key", 1),
        db.global_create(OTHERS, ENTRY),
        db.global_delete(OTHERS, "s", "key", 1),
        db.object_list(OTHERS, "", limit=1),
        db.object_exists(OTHERS, "k"),
        db.object_get(OTHERS, "k"),
        db.object_put(OTHERS, "k", b""),
        db.object_delete(OTHERS, "k"),
        db.object_url(OTHERS, "k", 1),
        db.gates(0, 2),
        db.gates(1, 3),
        db.claim_expired(0, 2, limit=1),
        db.release_claims(0, 2),
        db.resume_keys(0, 2, "", 1),
    ]
    results = await asyncio.gather(*asks, return_exceptions=True)
    assert {type(result) for result in results} == {Forbidden}
    assert served.services.refused == len(asks)
    assert served.db.started == []
    assert not client.lost


async def test_what_the_store_raises_arrives_as_its_class(served: Served) -> None:
    db = db_client(await served.serve())
    assert await db.gate(MINE) == TenantGate(MINE, frozenset({"A"}))
    served.db.error = NotFound("no row")
    with pytest.raises(NotFound, match="no row"):
        await db.gate(MINE)
    served.db.error = KeyError("secret")
    with pytest.raises(InternalError) as raised:
        await db.gate(MINE)
    assert "secret" not in str(raised.value)


async def test_a_busy_tenant_waits_for_itself_alone(served: Served, until: Callable[..., Any]) -> None:
    db = db_client(await served.serve())
    served.db.go.clear()
    quiet = 3 << 22
    busy = [asyncio.ensure_future(db.gate(MINE)) for _ in range(50)]
    await until(lambda: len(served.db.started) == 2)
    other = asyncio.ensure_future(db.gate(quiet))
    await until(lambda: quiet in served.db.running)
    assert served.db.running.count(MINE) == 2
    served.db.go.set()
    await asyncio.gather(other, *busy)
    assert served.db.started.count(MINE) == 50


async def test_objects_that_are_slow_do_not_hold_up_the_database(served: Served, until: Callable[..., Any]) -> None:
    class SlowObjects(FakeDb):
        async def object_get(self, tenant: int, key: str) -> bytes:
            self.started.append(tenant)
            await self.go.wait()
            return b"1"

    db = db_client(await served.serve(slow := SlowObjects()))
    slow.go.clear()
    tenants = [(2 * n + 1) << 22 for n in range(40)]
    reads = [asyncio.ensure_future(db.object_get(tenant, "k")) for tenant in tenants]
    await until(lambda: len(slow.started) == 32)
    gate = asyncio.ensure_future(db.gate(MINE))
    await until(lambda: MINE in slow.running)
    slow.go.set()
    assert await asyncio.gather(*reads) == [b"1"] * 40
    assert await gate


async def test_given_up_operations_that_wait_are_not_started(served: Served, until: Callable[..., Any]) -> None:
    client = await served.serve()
    served.db.go.clear()
    asks = [asyncio.ensure_future(db_client(client).gate(MINE)) for _ in range(5)]
    await until(lambda: len(served.db.started) == 2)
    for ask in asks[2:]:
        ask.cancel()
    link = served.server.links[1]
    await until(lambda: link.serving == 2)
    served.db.go.set()
    await asyncio.gather(*asks[:2])
    assert await db_client(client).gate(MINE)
    assert len(served.db.started) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\xc0",
        msgspec.msgpack.encode(["close"]),
        msgspec.msgpack.encode(["__class__"]),
        msgspec.msgpack.encode(["gate", 1]),
        msgspec.msgpack.encode(["kv_get", 5, []]),
        msgspec.msgpack.encode(["kv_get", "k", [5]]),
        msgspec.msgpack.encode(["kv_find", "k", [], 1 << 64 - 1, None])[:-1],
        b"\x92\xa4gate" + b"\x91" * 2000,
    ],
)
async def test_what_is_no_operation_closes_the_link(served: Served, body: bytes) -> None:
    client = await served.serve()
    with pytest.raises(WorkerLost):
        await client.request(Kind.DB, MINE, body, 5.0)
    assert served.db.started == []


def test_operations_are_those_of_the_protocol() -> None:
    named = {name for name in vars(WorkerDb) if not name.startswith("_")}
    assert set(OPERATIONS) == named


@pytest.mark.parametrize(
    ("name", "args", "result"),
    [
        ("gates", (1, 2), [TenantGate(5, frozenset({"A", "B"}), True)]),
        ("program", (), [TemplateSource("t", {"init.luau": b"\xff"}, frozenset({"A"}), "main", ["kv:*"], True, 7)]),
        ("tenant_state", (), TenantState(frozenset({"A"}), {"a": [1, None, {"b": 2.5}]}, True)),
        ("set_tenant_state", (TenantState(frozenset(), {"x": "y"}),), None),
        ("kv_get", ("k", ["a"]), RECORD),
        ("kv_get", ("k", ["a"]), None),
        ("kv_set", ("k", ["a"], b"\xc0", NOW, True, 3), KvWritten(False, 4)),
        ("claim_expired", (1, 2, 10, [5]), [(5, RECORD)]),
        ("finish_expired", ([("a", 1), ("b", 2)],), 2),
        ("resume_keys", (1, 2, "", 5), [KvPlace(5, "a", "k", ["s"])]),
    ],
)
def test_arguments_and_results_cross_unchanged(name: str, args: tuple[Any, ...], result: Any) -> None:
    ask = unpack_ask(pack_ask(name, *args))
    assert (ask.operation.name, ask.args) == (name, args)
    assert unpack_result(name, pack_result(result)) == result
    with pytest.raises(ProtocolError):
        unpack_result(name, b"\xa1x")


async def test_cursors_of_own_shards_are_loaded_and_reported(served: Served, until: Callable[..., Any]) -> None:
    client = await served.serve()
    cursors = CursorClient(client)
    assert await cursors.load(4) == {1: Cursor("s1", "u", 1), 3: Cursor("s3", "u", 3)}
    cursors.report(4, 3, Cursor("s", "u", 9, [11, 12]))
    cursors.report(4, 1, None)
    cursors.report(4, 0, Cursor("stolen", "u", 1))
    await until(lambda: served.services.refused == 1)
    assert served.cursors.reports == [(4, 3, Cursor("s", "u", 9, [11, 12])), (4, 1, None)]
    with pytest.raises(ProtocolError):
        unpack_cursors(b"\x91\x91\x01")


async def test_cursors_of_another_count_or_past_it_are_refused(served: Served, until: Callable[..., Any]) -> None:
    """A worker cannot fill the table with shards that do not exist."""
    client = await served.serve()
    cursors = CursorClient(client)
    cursors.report(8, 1, Cursor("s", "u", 9))
    cursors.report(4, 5, Cursor("s", "u", 9))
    await until(lambda: served.services.refused >= 1)
    with pytest.raises(Forbidden, match="cursors of 8 shards where there are 4"):
        await cursors.load(8)
    with pytest.raises(Forbidden):
        await IdentifyClient(client).acquire(5)
    assert served.cursors.reports == []


async def test_identify_waits_for_its_slot_and_can_be_given_up(served: Served, until: Callable[..., Any]) -> None:
    client = await served.serve()
    slots = IdentifyClient(client)
    first, second = (asyncio.ensure_future(slots.acquire(shard)) for shard in (1, 3))
    await until(lambda: served.slots.asked == [1, 3])
    second.cancel()
    await until(lambda: served.slots.given_up == [3])
    served.slots.free.set()
    await first
    with pytest.raises(Forbidden):
        await slots.acquire(2)


async def test_events_of_other_workers_are_forwarded(served: Served) -> None:
    forward = ForwardClient(await served.serve(), timeout_s=5.0)
    assert await forward.forward(OTHERS, CreateEvent("MESSAGE", b"{}")) is Outcome.OK
    assert await forward.forward(OTHERS, CreateEvent("MESSAGE", b"{}", None, True)) is Outcome.NOT_SUBSCRIBED


def test_turns_go_round_robin_and_stay_within_their_bounds() -> None:
    turns, started = Turns(per_tenant=2, total=3, waiting_max=5), []
    for tenant in (1, 1, 1, 1, 1, 2, 3, 2, 3):
        turns.submit(tenant, lambda tenant=tenant: started.append(tenant))  # type: ignore[misc]
    assert started == [1, 1, 2]
    turns.done(1)
    turns.done(1)
    turns.done(2)
    assert started == [1, 1, 2, 1, 3, 2]
    with pytest.raises(Overloaded):
        for _ in range(6):
            turns.submit(3, lambda: None)
    for tenant in (1, 3, 2):
        turns.done(tenant)
    assert sorted(started) == [1, 1, 1, 1, 1, 2, 2, 3, 3]


def test_turns_outlast_any_number_that_were_given_up() -> None:
    turns, started = Turns(per_tenant=1, total=1, waiting_max=5_000), []
    turns.submit(1, lambda: None)
    for _ in range(5_000):
        turns.submit(2, lambda: turns.done(2))
    turns.submit(3, lambda: started.append(3))
    turns.done(1)
    assert started == [3]
    turns.done(3)
    turns.submit(2, lambda: started.append(2))
    assert started == [3, 2]


async def test_gates_that_no_record_holds_come_in_parts(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    class ManyGates(FakeDb):
        async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
            return [TenantGate(n << 22, frozenset({"A"})) for n in range(200) if n % workers == worker_id]

    monkeypatch.setattr("pytw.mesophyll.channel.RECORD_BYTES_MAX", 1_000)
    db = db_client(await served.serve(ManyGates()))
    assert sorted(gate.tenant >> 22 for gate in await db.gates(1, 2)) == list(range(1, 200, 2))
    with pytest.raises(Forbidden):
        await db.gates(2, 4)
