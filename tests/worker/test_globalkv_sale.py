"""What staff sells, as a template of a buyer and one of another tenant see it: real VM, real PostgreSQL."""

from __future__ import annotations

import pytest

from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.types import Id, Outcome, TemplateSource
from pytw.worker.memory import MemoryDb
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDiscord, template
from .workerlike_contract import A, B, event, spec

PRICE = 5_000_000_000
BODY = """
return { E = function(ctx)
    local listed = ctx.GlobalKV:find("k%", "s")[1]
    local data = ctx.GlobalKV:get("key", 1, "s").data
    return { listed.price, data.type, if data.data then typeof(data.data) else data.purchase_url }
end }
"""


class Db(MemoryDb):
    """What is published stands in the database, templates in memory."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.global_find = stores.global_find  # type: ignore[method-assign]
        self.global_get = stores.global_get  # type: ignore[method-assign]


@pytest.mark.weakness(31)
async def test_who_has_bought_a_version_gets_it_and_others_are_told_where(database_url: str) -> None:
    stores = Stores(await open_pool(database_url, 2))
    place = ("s", "key", 1)
    await stores.global_kv.create(
        *place, owner_type="staff", owner_id="1", data={"n": "7"}, short="x", price=PRICE, review_state="approved"
    )
    await stores.global_staff.grant(*place, Id.of(A), granted_by="1")
    db = Db(stores)
    source: TemplateSource = template("t", BODY, "E")
    for tenant in (A, B):
        db.put(tenant, source)
    worker = WorkerThread(Worker(spec(), db, MemoryDiscord()))
    await worker.start()
    try:
        told = []
        for tenant in (A, B):
            result = await worker.dispatch_event(tenant, event())
            assert result.outcome is Outcome.OK, result.templates
            told.append(result.templates[-1].value)
    finally:
        await worker.kill()
        await stores.close()
    assert told == [[PRICE, "Value", "Opaque"], [PRICE, "PurchaseRequired", f"/global-kvs/s/key/1?guild={B}"]]
