"""A tenant's state and its ban by control socket."""

from __future__ import annotations

import logging

import pytest

from pytw.errors import NotReady
from pytw.types import Id, TenantState
from tests.api.conftest import Api

DEFAULT = TenantState(frozenset({"B", "A"}), {"k": [1]}, revision=3)


class FakeTenants:
    def __init__(self) -> None:
        self.banned: dict[int, bool] = {}

    async def tenant_state(self, tenant: int) -> TenantState:
        return TenantState(DEFAULT.events, DEFAULT.data, self.banned.get(tenant, False), DEFAULT.revision)

    async def set_banned(self, tenant: int, banned: bool) -> None:
        self.banned[tenant] = banned


@pytest.fixture
def tenants(api: Api) -> FakeTenants:
    api.context.tenants = made = FakeTenants()
    return made


@pytest.mark.parametrize(("owner", "key"), [("guilds", Id.guild(5).key), ("users", Id.user(5).key)])
async def test_ban_and_unban_answer_when_the_worker_has_them(
    api: Api, tenants: FakeTenants, owner: str, key: int
) -> None:
    assert await api.call("PUT", f"/{owner}/5/ban") == (200, {"banned": True, "running": True})
    assert (tenants.banned, api.workers.refreshed) == ({key: True}, [key])
    status, state = await api.call("GET", f"/{owner}/5/state")
    assert (status, state) == (200, {"events": ["A", "B"], "data": {"k": [1]}, "banned": True, "revision": 3})
    assert await api.call("DELETE", f"/{owner}/5/ban") == (200, {"banned": False, "running": True})
    assert (tenants.banned, api.workers.refreshed) == ({key: False}, [key, key])


async def test_who_bans_is_in_the_log(api: Api, tenants: FakeTenants, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "staff")
    await api.call("PUT", "/guilds/5/ban")
    await api.call("DELETE", "/guilds/5/ban")
    assert caplog.messages == ["banned by control", "ban lifted by control"]
    assert {record.tenant for record in caplog.records} == {5}


async def test_ban_is_kept_where_the_worker_is_away(api: Api, tenants: FakeTenants) -> None:
    api.workers.error = NotReady("it restarts")
    status, body = await api.call("PUT", "/guilds/5/ban")
    assert (status, body["banned"], body["running"]) == (202, True, False)
    assert tenants.banned == {5: True}


async def test_who_puts_a_template_hears_of_the_ban(api: Api, tenants: FakeTenants) -> None:
    files = {"files": {"init.luau": "return { MESSAGE = function() end }"}}
    _, free = await api.call("PUT", "/guilds/5/templates/t", files)
    await api.call("PUT", "/guilds/5/ban")
    _, banned = await api.call("PUT", "/guilds/5/templates/t", files)
    told = "this guild is banned: nothing of it runs until the ban is lifted"
    assert (told in free.get("warnings", []), told in banned["warnings"]) == (False, True)


@pytest.mark.parametrize(("method", "path"), [("GET", "state"), ("PUT", "ban"), ("DELETE", "ban")])
async def test_only_root_may(api: Api, tenants: FakeTenants, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "user-token"}):
        status, _ = await api.call(method, f"/guilds/5/{path}", tcp=True, headers=headers)
        assert status in (401, 403)
    assert (await api.call(method, f"/guilds/x/{path}"))[0] == 400
    assert tenants.banned == {}


async def test_server_without_a_store_says_so(api: Api) -> None:
    status, body = await api.call("GET", "/guilds/5/state")
    assert (status, body["message"]) == (503, "this server keeps no state of tenants")
