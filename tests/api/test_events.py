"""POST /test/event over TCP in dev mode."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pytw.eventnames import DISCORD_EVENTS
from pytw.limits import API_BODY_BYTES_MAX
from pytw.types import USER_BIT, DispatchResult, Outcome
from tests.api.conftest import Api


async def test_the_documented_line_answers(api: Api) -> None:
    api.workers.ran(Outcome.OK, [["greet", 0, None, "ok", None]])
    status, body = await api.fire({"type": "MESSAGE_CREATE", "guild_id": "123"})
    assert status == 200
    assert body.pop("time_ms") >= 0
    assert body == {
        "worker_id": 0,
        "request_id": None,
        "outcome": "ok",
        "limit": None,
        "templates": [{"template": "greet", "outcome": "ok", "value": "ok", "error": None, "limit": None}],
    }
    ((tenant, event),) = api.workers.events
    assert (tenant, event.name, event.author) == (123, "MESSAGE", None)
    data = orjson.loads(event.payload)
    assert (data["guild_id"], data["content"]) == ("123", "test")


async def test_data_crosses_as_it_came(api: Api) -> None:
    await api.fire(b'{"type":"MESSAGE","guild_id":"410000000000000001","data": {"a" : [1,  2.50, "\\u00e9"]} }')
    ((tenant, event),) = api.workers.events
    assert (tenant, event.payload) == (410000000000000001, b'{"a" : [1,  2.50, "\\u00e9"]}')


async def test_worker_id_is_the_documented_formula(api: Api) -> None:
    _, body = await api.fire({"type": "MESSAGE", "guild_id": "410000000000000001"})
    assert body["worker_id"] == (410000000000000001 >> 22) % 4


async def test_users_are_tenants_too(api: Api) -> None:
    status, _ = await api.fire({"type": "INTERACTION_CREATE", "user_id": "77"})
    assert status == 200
    ((tenant, event),) = api.workers.events
    assert tenant == 77 | USER_BIT
    assert "guild_id" not in orjson.loads(event.payload)


async def test_every_event_can_be_fired_without_data(api: Api) -> None:
    assert len(DISCORD_EVENTS) == 71
    for name in (
        *DISCORD_EVENTS,
        "OnStartup",
        "KeyExpiry",
        "KeyResume",
        "GetSettings",
        "ExecuteSetting",
        "WebGetSettings",
    ):
        assert (await api.fire({"type": name, "guild_id": "5"}))[0] == 200
    assert [event.name for _, event in api.workers.events][-1] == "WebGetSettings"


@pytest.mark.parametrize(
    ("name", "author"),
    [
        ("WebGetSettings", "1"),
        ("WebAnything", "1"),
        ("GetSettings", "1"),
        ("MESSAGE", None),
        ("INTERACTION_CREATE", None),
        ("OnStartup", None),
    ],
)
async def test_events_of_the_website_have_an_author(api: Api, name: str, author: str | None) -> None:
    """A developer at this machine is no user: the author is nobody's id."""
    await api.fire({"type": name, "guild_id": "5"})
    assert api.workers.events[0][1].author == author


async def test_author_is_the_caller_where_it_is_a_user(api: Api) -> None:
    headers = {"Authorization": "root-token"}
    await api.fire({"type": "WebGetSettings", "guild_id": "5"}, headers=headers)
    await api.fire({"type": "MESSAGE", "guild_id": "5"}, headers=headers)
    assert [event.author for _, event in api.workers.events] == ["42", None]


@pytest.mark.parametrize("name", ["web", "WEBHOOK", "webGetSettings", "xWebGetSettings", " WebX", "Web\n"])
async def test_events_of_the_website_begin_with_web(api: Api, name: str) -> None:
    assert (await api.fire({"type": name, "guild_id": "5"}))[0] == 400


async def test_without_wait_the_event_is_handed_over(api: Api) -> None:
    status, body = await api.fire({"type": "MESSAGE", "guild_id": "5", "wait": False})
    assert (status, body["outcome"]) == (202, None)
    assert [tenant for tenant, _ in api.workers.thrown] == [5]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.NOT_SUBSCRIBED, 200),
        (Outcome.BANNED, 403),
        (Outcome.QUARANTINED, 503),
        (Outcome.SHED, 503),
        (Outcome.NOT_READY, 503),
        (Outcome.WORKER_LOST, 502),
    ],
)
async def test_outcomes_without_a_run_have_their_status(api: Api, outcome: Outcome, status: int) -> None:
    api.workers.result = DispatchResult.nothing_ran(outcome, "why")
    got, body = await api.fire({"type": "MESSAGE", "guild_id": "5"})
    assert (got, body["outcome"], body["limit"], body["templates"]) == (status, outcome.slug, "why", [])
    async with api.tcp.post("/test/event", json={"type": "MESSAGE", "guild_id": "5"}) as response:
        assert ("Retry-After" in response.headers) is (status == 503)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(Outcome.SCRIPT_ERROR, 200), (Outcome.LIMIT_EXCEEDED, 200), (Outcome.CANCELLED, 200), (Outcome.TIMEOUT, 504)],
)
async def test_what_ran_is_an_answer(api: Api, outcome: Outcome, status: int) -> None:
    api.workers.ran(outcome, [["a", int(outcome), "cpu", None, "init:1: boom"], ["b", 0, None, [1], None]], "cpu")
    got, body = await api.fire({"type": "MESSAGE", "guild_id": "5"})
    assert (got, body["outcome"], body["limit"]) == (status, outcome.slug, "cpu")
    assert [t["error"] for t in body["templates"]] == ["init:1: boom", None]


async def test_values_come_as_plain_json(api: Api) -> None:
    from pytw import values

    given = {
        "text": "é",
        "big": 2**63,
        "nan": float("nan"),
        "buffer": values.Buffer(b"\x00\xff"),
        "vector": values.Vector(1.0, 2.0, 3.0),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "raw": values.RawText(b"a\xff"),
        "deep": [[[{}]]],
    }
    api.workers.ran(Outcome.OK, [["t", 0, None, given, None]])
    status, body = await api.fire({"type": "MESSAGE", "guild_id": "5"})
    value = body["templates"][0]["value"]
    assert status == 200
    assert value == {
        "text": "é",
        "big": 2**63,
        "nan": None,
        "buffer": "AP8=",
        "vector": [1.0, 2.0, 3.0],
        "when": "2026-01-02T00:00:00+00:00",
        "raw": "a\ufffd",
        "deep": [[[{}]]],
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        {"type": 5, "guild_id": "123"},
        {"type": "MESSAGE_CREATE", "guild_id": "x"},
        {"type": "MESSAGE_CREATE", "guild_id": "9" * 30},
        {"type": "MESSAGE_CREATE", "guild_id": "٣"},
        {"type": "MESSAGE_CREATE", "guild_id": "0"},
        {"type": "MESSAGE_CREATE", "guild_id": -1},
        {"type": "MESSAGE_CREATE", "guild_id": 1 << 63},
        {"type": "MESSAGE_CREATE", "guild_id": 1.5},
        {"type": "MESSAGE_CREATE", "guild_id": ["1"]},
        {"type": "MESSAGE_CREATE", "guild_id": "1", "user_id": "2"},
        {"type": "MESSAGE_CREATE"},
        {"guild_id": "1"},
        {"type": "MESSAGE_CREATE", "guild_id": "1", "wait": "yes"},
        {"type": "MESSAGE_CREATE", "guild_id": "1", "owner": "me"},
        {"type": "NO_SUCH", "guild_id": "1"},
        {"type": "Web" + "x" * 200, "guild_id": "1"},
        {"type": "", "guild_id": "1"},
        b'{"type":"MESSAGE_CREATE","guild_id":"1","data":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"type":"MESSAGE_CREATE","guild_id":"1","data":{"a":NaN}}',
        b'{"type":"MESSAGE_CREATE","guild_id":"1","data":"\xff"}',
        b'{"type":"MESSAGE_CREATE","guild_id":"1"} trailing',
    ],
)
async def test_bad_bodies_are_the_callers_fault(api: Api, body: Any) -> None:
    status, answer = await api.fire(body)
    assert status == 400
    assert answer["code"] == "bad_request"
    assert answer["message"]
    assert api.workers.events == []


async def test_unknown_events_get_a_suggestion(api: Api) -> None:
    _, body = await api.fire({"type": "message_crate", "guild_id": "1"})
    assert "MESSAGE" in body["hint"]
    _, body = await api.fire({"type": "onstartup", "guild_id": "1"})
    assert body["hint"] == "did you mean OnStartup?"


async def test_too_large_bodies_are_refused(api: Api) -> None:
    status, body = await api.fire(b" " * (API_BODY_BYTES_MAX + 1))
    assert (status, body["code"]) == (413, "too_large")
    data = b'"' + b"x" * api.context.limits.event_bytes_max + b'"'
    status, body = await api.fire(b'{"type":"MESSAGE","guild_id":"1","data":' + data + b"}")
    assert (status, body["code"]) == (413, "limit_exceeded")


async def test_methods_and_paths_have_the_envelope(api: Api) -> None:
    status, body = await api.call("GET", "/test/event", tcp=True)
    assert (status, body["code"]) == (405, "method_not_allowed")
    status, body = await api.call("GET", "/nothing", tcp=True)
    assert (status, body["code"]) == (404, "not_found")


async def test_a_bug_is_500_without_a_traceback(api: Api) -> None:
    async def broken(*args: Any, **kw: Any) -> Any:
        raise RuntimeError("secret")

    api.workers.dispatch_event = broken  # type: ignore[method-assign]
    status, body = await api.fire({"type": "MESSAGE", "guild_id": "1"})
    assert (status, body["code"]) == (500, "internal")
    assert "secret" not in str(body)


async def test_a_draining_server_takes_no_events_and_lets_what_runs_end(api: Api) -> None:
    api.workers.hold = asyncio.Event()
    running = asyncio.ensure_future(api.fire({"type": "MESSAGE", "guild_id": "1"}))
    while not api.workers.events:
        await asyncio.sleep(0.001)
    api.server.stop_intake()
    status, body = await api.fire({"type": "MESSAGE", "guild_id": "1"})
    assert (status, body["code"]) == (503, "not_ready")
    api.workers.hold.set()
    assert (await running)[0] == 200
