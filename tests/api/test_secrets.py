"""Secrets by control socket: written, listed by name, removed; never read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from pytw.limits import SECRET_BYTES_MAX
from pytw.storage.pool import open_pool
from pytw.storage.secretbox import SecretBox
from pytw.storage.secrets import SecretStore
from pytw.types import Id
from tests.api.conftest import Api

PLACE = "/guilds/5/templates/a%2Fb/secrets"
GOOD = {"files": {"init.luau": "return { MESSAGE = function() end }"}}


@pytest.fixture
async def secrets(api: Api, database_url: str) -> AsyncIterator[SecretStore]:
    database = await open_pool(database_url, 2)
    api.context.secrets = made = SecretStore(database, SecretBox(b"k" * 32))
    yield made
    await database.close()


async def test_set_list_change_and_remove(api: Api, secrets: SecretStore) -> None:
    await api.call("PUT", "/guilds/5/templates/a%2Fb", GOOD)
    assert await api.call("PUT", f"{PLACE}/token", {"value": "one"}) == (200, {"template": "a/b", "name": "token"})
    assert (await api.call("PUT", f"{PLACE}/token", {"value": "two"}))[0] == 200
    status, body = await api.call("GET", PLACE)
    assert (status, [(s["name"], s["readable"]) for s in body["secrets"]]) == (200, [("token", True)])
    assert "two" not in str(body)
    assert await secrets.secret_get(Id.guild(5).key, "a/b", "token") == "two"
    assert (await api.call("GET", f"{PLACE}/token"))[0] == 405
    assert (await api.call("DELETE", f"{PLACE}/token"))[0] == 200
    assert (await api.call("DELETE", f"{PLACE}/token"))[0] == 404


async def test_who_sets_one_is_in_the_log_and_its_value_is_not(
    api: Api, secrets: SecretStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await api.call("PUT", f"{PLACE}/token", {"value": "hunter2"})
    await api.call("PUT", f"{PLACE}/token", {"value": "hunter2" * 1_000})
    await api.call("DELETE", f"{PLACE}/token")
    said = [record.getMessage() for record in caplog.records if record.name == "staff"]
    assert said == [f"secret token of template a/b {what} by control" for what in ("set", "removed")]
    assert "hunter2" not in caplog.text


async def test_secret_before_its_template_is_kept_and_told(api: Api, secrets: SecretStore) -> None:
    _, body = await api.call("PUT", f"{PLACE}/token", {"value": "one"})
    assert body["warnings"] == ["there is no template a/b yet"]
    assert "warnings" not in (await api.call("PUT", "/guilds/5/templates/$builtins/secrets/token", {"value": "x"}))[1]


async def test_secrets_stay_through_deployments_and_go_with_the_template(api: Api, secrets: SecretStore) -> None:
    await api.call("PUT", f"{PLACE}/token", {"value": "one"})
    for _ in range(2):
        await api.call("PUT", "/guilds/5/templates/a%2Fb", GOOD)
    assert await secrets.has_any(Id.guild(5), "a/b")
    assert (await api.call("DELETE", "/guilds/5/templates/a%2Fb"))[0] == 200
    assert not await secrets.has_any(Id.guild(5), "a/b")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{PLACE}/a%20b", {"value": "x"}, 400),
        (f"{PLACE}/a", {"value": ""}, 400),
        (f"{PLACE}/a", {"value": "x" * (SECRET_BYTES_MAX + 1)}, 413),
        (f"{PLACE}/a", {"value": 1}, 400),
        (f"{PLACE}/a", {"value": "x", "more": 1}, 400),
        ("/guilds/5/templates/$builtinsx/secrets/a", {"value": "x"}, 400),
        ("/guilds/x/templates/t/secrets/a", {"value": "x"}, 400),
    ],
)
async def test_bad_ones_are_refused(api: Api, secrets: SecretStore, path: str, body: object, status: int) -> None:
    assert (await api.call("PUT", path, body))[0] == status


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PUT", "/a"), ("DELETE", "/a")])
async def test_only_root_may(api: Api, secrets: SecretStore, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "user-token"}):
        assert (await api.call(method, PLACE + path, tcp=True, headers=headers))[0] in (401, 403)
