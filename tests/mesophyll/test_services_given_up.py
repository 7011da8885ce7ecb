"""Database operations that their worker gives up, or that do not end, seen from the master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pytw.errors import DeadlineExceeded
from pytw.mesophyll import db_client, services
from tests.mesophyll.test_services import MINE, FakeDb, Served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    yield made
    await made.close()


async def test_what_is_given_up_is_cut_off_and_frees_its_turn(served: Served, until: Callable[..., Any]) -> None:
    """Writes too: one that comes after the next one would undo it."""

    class SlowWrites(FakeDb):
        async def kv_delete(self, tenant: int, key: str, scopes: Any) -> int:
            await self.gate(tenant)
            return 1

    db = db_client(await served.serve(slow := SlowWrites()))
    slow.go.clear()
    asks = [asyncio.ensure_future(ask) for ask in (db.gate(MINE), db.kv_delete(MINE, "k", ["s"]))]
    await until(lambda: len(slow.started) == 2)
    for ask in asks:
        ask.cancel()
    last = asyncio.ensure_future(db.gate(MINE))
    await until(lambda: len(slow.started) == 3)
    slow.go.set()
    assert await last


async def test_an_upload_that_is_given_up_runs_to_its_end(served: Served, until: Callable[..., Any]) -> None:
    class SlowObjects(FakeDb):
        async def object_put(self, tenant: int, key: str, data: bytes) -> None:
            await self.gate(tenant)
            self.written = True

    db = db_client(await served.serve(slow := SlowObjects()))
    slow.go.clear()
    upload = asyncio.ensure_future(db.object_put(MINE, "k", b"1"))
    await until(lambda: len(slow.started) == 1)
    upload.cancel()
    link = served.server.links[1]
    await until(lambda: link.serving == 0)
    slow.go.set()
    await until(lambda: getattr(slow, "written", False))


async def test_an_operation_that_hangs_is_given_up_by_the_master(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "DB_OPERATION_S", 0.02)
    db = db_client(await served.serve())
    served.db.go.clear()
    with pytest.raises(DeadlineExceeded, match=r"gate did not end within 0\.02 s"):
        await db.gate(MINE)
    served.db.go.set()
    assert await db.gate(MINE)
