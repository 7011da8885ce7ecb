"""Who may do what, over both ways in."""

from __future__ import annotations

import os
import re
import stat

import pytest

from pytw.api.auth import is_loopback
from pytw.api.server import application
from tests.api.conftest import Api

EVENT = {"type": "MESSAGE", "guild_id": "5"}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "LOCALHOST", "tw.localhost"])
def test_loopback_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "evil.test", "127.0.0.1.evil.test", "10.0.0.1", "localhost.evil.test", "0.0.0.0"])
def test_other_names(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"Host": "127.0.0.1.evil.test:60000"},
        {"Host": "[bad"},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_dev_mode_is_closed_to_web_pages(api: Api, headers: dict[str, str]) -> None:
    status, body = await api.fire(EVENT, headers=headers)
    assert (status, body["code"]) == (403, "forbidden")
    assert api.workers.events == []


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost:60000"}, {"Host": "localhost:1"}])
async def test_dev_mode_is_open_to_this_machine(api: Api, headers: dict[str, str]) -> None:
    assert (await api.fire(EVENT, headers=headers))[0] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("wrong", 401),
        ("", 401),
        ("Bearer ", 401),
        ("x" * 5000, 401),
        ("user-token", 403),
        ("root-token", 200),
        ("Bearer root-token", 200),
    ],
)
async def test_outside_of_dev_mode_events_are_for_root_users(api: Api, authorization: str | None, status: int) -> None:
    api.context.dev = False
    headers = {} if authorization is None else {"Authorization": authorization}
    assert (await api.fire(EVENT, headers=headers))[0] == status
    assert len(api.workers.events) == (status == 200)


async def test_templates_are_for_root_users_also_in_dev_mode(api: Api) -> None:
    assert (await api.call("GET", "/guilds/1/templates", tcp=True))[0] == 401
    headers = {"Authorization": "user-token"}
    assert (await api.call("GET", "/guilds/1/templates", tcp=True, headers=headers))[0] == 403
    headers = {"Authorization": "Bearer root-token"}
    assert (await api.call("GET", "/guilds/1/templates", tcp=True, headers=headers))[0] == 200


#: Of all routes, what strangers may ask, and the mock's, which are nobody's outside of the control socket.
FOR_EVERYBODY = {
    "/global-kvs",
    "/global-kvs/{scope}/{key}/{version}",
    "/objects/{kind}/{tenant}/{key}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/healthcheck",
    "/mock/say",
}
#: For the parts of a path that are not any text.
PARTS = {"owner": "guilds", "id": "5", "version": "1", "number": "1"}


async def test_every_route_is_for_root_users_unless_it_is_listed_here(api: Api) -> None:
    api.context.dev = False
    asked = set()
    for route in application(api.context).router.routes():
        assert route.resource is not None
        place = route.resource.canonical
        if place in FOR_EVERYBODY or route.method == "HEAD":
            continue
        path = re.sub(r"\{(\w+)\}", lambda part: PARTS.get(part[1], "x"), place)
        for headers, status in (({}, 401), ({"Authorization": "user-token"}, 403)):
            answer = await api.call(route.method, path, tcp=True, headers=headers)
            assert answer[0] == status, (route.method, path, answer)
        asked.add(place)
    assert len(asked) > 25


async def test_the_control_socket_is_its_owners_and_root(api: Api) -> None:
    assert stat.S_IMODE(os.stat(api.control_path).st_mode) == 0o600
    api.context.dev = False
    assert (await api.call("GET", "/guilds/1/templates"))[0] == 200
    assert (await api.call("POST", "/test/event", EVENT))[0] == 200


async def test_the_control_socket_checks_its_peer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytw.api.auth.peer_uid", lambda request: 12_345)
    status, body = await api.call("GET", "/guilds/1/templates")
    assert (status, body["code"]) == (403, "forbidden")
    assert (await api.call("POST", "/mock/say", {"guild_id": "1", "content": "x"}))[0] == 404


async def test_the_control_socket_is_gone_after_the_end(api: Api) -> None:
    await api.server.close()
    assert not api.control_path.exists()


async def test_the_mock_speaks_only_by_control_socket_and_in_dev_mode(api: Api) -> None:
    body = {"guild_id": "5", "content": "hello", "wait_s": 0.5}
    assert (await api.call("POST", "/mock/say", body, tcp=True))[0] == 404
    status, answer = await api.call("POST", "/mock/say", body)
    assert (status, answer["sent"]) == (200, {"content": "hello"})
    assert api.said == [(5, "hello", 0.5)]
    for bad in ({"guild_id": "x", "content": "a"}, {"guild_id": "1", "content": ""}, {**body, "wait_s": 1e9}):
        assert (await api.call("POST", "/mock/say", bad))[0] == 400
    api.context.mock = None
    assert (await api.call("POST", "/mock/say", body))[0] == 404
