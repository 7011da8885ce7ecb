"""The template store by control socket."""

from __future__ import annotations

import re
from typing import Any

import msgpack
import pytest
from yarl import URL

from pytw.api.capabilities import capability_warnings
from pytw.errors import LimitExceeded, NotReady, ScriptError, StorageUnavailable
from pytw.types import USER_BIT, Id
from pytw.worker.context.call import HostCall
from tests.api.conftest import Api

GOOD = {"files": {"init.luau": "return { MESSAGE = function(ctx) return 'ok' end }"}}


async def test_put_checks_saves_and_runs(api: Api) -> None:
    status, body = await api.call("PUT", "/guilds/5/templates/greet", GOOD)
    assert (status, body) == (
        200,
        {"name": "greet", "version": 1, "events": ["MESSAGE"], "paused": False, "running": True},
    )
    assert api.workers.refreshed == [5]
    (checked,) = api.workers.checked
    assert (checked.name, checked.entry, tuple(checked.allowed_caps)) == ("greet", "init", ("*",))
    row = api.templates.rows[Id.guild(5), "greet"]
    assert (row["author"], row["events"], row["events_override"]) == ("control", ["MESSAGE"], None)
    assert (await api.call("PUT", "/guilds/5/templates/greet", GOOD))[1]["version"] == 2


async def test_put_takes_all_its_fields(api: Api) -> None:
    more = {"events": ["MESSAGE", "MESSAGE_UPDATE"], "allowed_caps": ["kv:*"], "message": "why", "paused": True}
    status, body = await api.call("PUT", "/users/9/templates/a%2Fb", {**GOOD, **more, "entry": "main"})
    assert (status, body["events"], body["paused"]) == (200, more["events"], True)
    row = api.templates.rows[Id.user(9), "a/b"]
    assert (row["events_override"], row["allowed_caps"], row["entry"]) == (more["events"], ["kv:*"], "main")
    assert (row["message"], row["paused"]) == ("why", True)
    assert api.workers.refreshed == [9 | USER_BIT]


async def test_what_does_not_compile_is_refused_with_file_and_line(api: Api) -> None:
    files = {"init.luau": "return {}", "lib/bad.luau": "local x = 1\nlocal = 2", "README.md": "not luau ("}
    status, body = await api.call("PUT", "/guilds/5/templates/t", {"files": files})
    assert (status, body["code"]) == (422, "script_error")
    assert "lib/bad.luau:2:" in body["message"]
    assert [(e["file"], e["line"]) for e in body["errors"]] == [("lib/bad.luau", 2)]
    assert (api.templates.rows, api.workers.checked) == ({}, [])
    (saved,) = api.templates.saved
    assert (saved.files, saved.error) == (files, body["message"])
    assert (body["version"], "what runs stays" in body["hint"]) == (1, True)


@pytest.mark.parametrize("error", [ScriptError("init:1: boom"), LimitExceeded("too slow", limit="cpu", hint="wait")])
async def test_an_entry_that_fails_is_saved_and_not_run(api: Api, error: Any) -> None:
    api.workers.error = error
    status, body = await api.call("PUT", "/guilds/5/templates/t", GOOD)
    assert (status, body["code"], body["message"], body["version"]) == (422, error.code, error.detail, 1)
    assert body["hint"].startswith("saved as version 1")
    assert [draft.error for draft in api.templates.saved] == [error.detail]
    assert (api.templates.rows, api.workers.refreshed) == ({}, [])


@pytest.mark.parametrize(
    ("error", "status"), [(LimitExceeded("too long"), 413), (NotReady("the worker is starting"), 503)]
)
async def test_what_nobody_evaluated_is_not_saved(api: Api, error: Any, status: int) -> None:
    api.workers.error = error
    got, body = await api.call("PUT", "/guilds/5/templates/t", GOOD)
    assert (got, body["code"], body["message"]) == (status, error.code, error.detail)
    assert (api.templates.rows, api.templates.saved) == ({}, [])


async def test_a_draft_is_evaluated_if_it_can_be_and_runs_nothing(api: Api) -> None:
    draft = {**GOOD, "deploy": False}
    status, body = await api.call("PUT", "/guilds/5/templates/t", draft)
    assert (status, body) == (200, {"name": "t", "version": 1, "deployed": False, "events": ["MESSAGE"]})
    api.workers.error = NotReady("the worker is starting")
    assert (await api.call("PUT", "/guilds/5/templates/t", draft))[0] == 200
    assert [saved.events for saved in api.templates.saved] == [["MESSAGE"], None]
    assert (api.templates.rows, api.workers.refreshed) == ({}, [])


async def test_in_loop_mode_what_does_not_run_is_not_saved(api: Api) -> None:
    api.templates.keeps_versions = False
    api.workers.error = ScriptError("init:1: boom")
    status, body = await api.call("PUT", "/guilds/5/templates/t", GOOD)
    assert (status, body["hint"], "version" in body) == (422, "nothing was saved", False)
    assert (api.templates.rows, api.templates.saved) == ({}, [])


async def test_list_show_pause_resume_remove(api: Api) -> None:
    await api.call("PUT", "/guilds/5/templates/t", GOOD)
    status, body = await api.call("GET", "/guilds/5/templates")
    assert (status, [(t["name"], t["version"], t["paused"]) for t in body["templates"]]) == (200, [("t", 1, False)])
    assert (await api.call("GET", "/users/5/templates"))[1] == {"templates": []}
    status, body = await api.call("GET", "/guilds/5/templates/t")
    assert (status, body["files"], body["events"]) == (200, GOOD["files"], ["MESSAGE"])
    status, body = await api.call("POST", "/guilds/5/templates/t/pause")
    assert (status, body) == (200, {"name": "t", "paused": True, "running": True})
    assert (await api.call("GET", "/guilds/5/templates/t"))[1]["paused"] is True
    assert (await api.call("POST", "/guilds/5/templates/t/resume"))[1]["paused"] is False
    assert (await api.call("DELETE", "/guilds/5/templates/t"))[0] == 200
    assert len(api.workers.refreshed) == 4
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")):
        status, body = await api.call(method, f"/guilds/5/templates/t{path}")
        assert (status, body["code"]) == (404, "not_found")


async def test_a_worker_that_is_away_reads_it_later(api: Api) -> None:
    await api.call("PUT", "/guilds/5/templates/t", GOOD)
    api.workers.error = NotReady("the worker is not connected")
    status, body = await api.call("POST", "/guilds/5/templates/t/pause")
    assert (status, body["running"], body["paused"]) == (202, False, True)
    assert "not connected" in body["hint"]


async def test_the_worker_hears_of_what_was_saved_also_where_it_cannot_be_shown(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away, or somebody removes the template, between the two."""

    async def away(owner: Id, name: str) -> None:
        raise StorageUnavailable("the database is not available")

    with monkeypatch.context() as outage:
        outage.setattr(api.templates, "get", away)
        assert (await api.call("PUT", "/guilds/5/templates/t", GOOD))[0] == 503
    assert api.workers.refreshed == [5]


class NoSecrets:
    async def remove_all(self, owner: Id, template: str) -> int:
        raise StorageUnavailable("the database is not available")


async def test_the_worker_hears_of_a_removal_whose_secrets_stay(api: Api) -> None:
    await api.call("PUT", "/guilds/5/templates/t", GOOD)
    api.context.secrets = NoSecrets()  # type: ignore[assignment]
    assert (await api.call("DELETE", "/guilds/5/templates/t"))[0] == 503
    assert (api.templates.rows, api.workers.refreshed) == ({}, [5, 5])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"files": {}},
        {"files": []},
        {"files": {"init.luau": 5}},
        {"files": {"../init.luau": "return {}"}},
        {"files": {"init.luau": "return {}"}, "role": "root"},
        {"files": {"init.luau": "return {}"}, "shop": "$shop/x#1"},
        {"shop": "$shop/x"},
        {"shop": "$shop/x#1", "deploy": False},
        {"files": {"init.luau": "return {}"}, "events": "MESSAGE"},
        b"{",
        b"[" * 5000 + b"]" * 5000,
    ],
)
async def test_bad_bodies_are_the_callers_fault(api: Api, body: Any) -> None:
    status, answer = await api.call("PUT", "/guilds/5/templates/t", body)
    assert (status, answer["code"]) == (400, "bad_request")
    assert api.templates.rows == {}


async def test_sizes_are_bounded(api: Api) -> None:
    big = {"files": {"init.luau": "-" * (api.context.limits.source_bytes_max + 1)}}
    assert (await api.call("PUT", "/guilds/5/templates/t", big))[0] == 413
    many = {"files": {f"f{n}.luau": "return 1" for n in range(api.context.limits.template_files_max + 1)}}
    assert (await api.call("PUT", "/guilds/5/templates/t", many))[0] == 413


@pytest.mark.parametrize("place", ["guilds/x", "guilds/0", "guilds/-1", "guilds/" + "9" * 30, "users/%00"])
async def test_ids_that_are_none(api: Api, place: str) -> None:
    status, body = await api.call("GET", f"/{place}/templates")
    assert (status, body["code"]) == (400, "bad_request")


async def test_paths_that_lead_elsewhere(api: Api) -> None:
    for path in ("/others/5/templates", "/guilds/5/templates/t/other", "/guilds/..%2f..%2fusers/templates"):
        assert (await api.call("GET", path))[0] in (400, 404)
    for name in ("%20", "a%00b", "x" * 300, "$builtins"):
        assert (await api.call("PUT", f"/guilds/5/templates/{name}", GOOD))[0] == 400


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("MESSAGE_CREATE", "named MESSAGE"),
        ("MESSGE", "did you mean MESSAGE"),
        ("message", "did you mean MESSAGE?"),
        ("NOPE", "'NOPE'"),
    ],
)
async def test_events_that_never_come_are_warned_of(api: Api, event: str, said: str) -> None:
    """Also where they are the keys of what the entry returns."""
    status, body = await api.call("PUT", "/guilds/5/templates/t", {**GOOD, "events": [event, "MESSAGE"]})
    (warning,) = body["warnings"]
    assert (status, body["running"]) == (200, True)
    assert said in warning
    api.workers.found = [event]
    status, body = await api.call("PUT", "/guilds/5/templates/t", GOOD)
    assert (status, body["warnings"]) == (200, [warning])


async def test_known_events_and_the_templates_own_capabilities_are_not_warned_of(api: Api) -> None:
    more = {"events": ["MESSAGE", "OnStartup", "WebGetSettings"], "allowed_caps": ["*", "mine:x", "kv:*", "runtime:*"]}
    assert "warnings" not in (await api.call("PUT", "/guilds/5/templates/t", {**GOOD, **more}))[1]


async def test_host_capabilities_that_no_call_asks_for_are_warned_of(api: Api) -> None:
    caps = ["kv:read", "discord:*", "discord:create_messages", "kv[a]:set", "discord:create_message"]
    _, body = await api.call("PUT", "/guilds/5/templates/t", {**GOOD, "allowed_caps": caps})
    assert [cap for cap in caps if any(repr(cap) in warning for warning in body["warnings"])] == caps[:3]


def test_the_listed_capabilities_are_those_of_the_host_calls() -> None:
    """Each call's own demand, and no call that is missing from the list."""
    from pytw.api.capabilities import HOST_CAPABILITIES
    from pytw.worker.context import discord, globalkv, kv, objectstorage, runtime, runtimetemplates, secrets

    rooms: list[Any] = [
        room(None)  # type: ignore[arg-type]
        for room in (discord.Discord, kv.Kv, globalkv.GlobalKv, objectstorage.ObjectStorage)
    ]
    operations = {
        name: operation
        for room in [
            *rooms,
            runtime.Runtime(None, None, None),
            secrets.Secrets(None, None),
            runtimetemplates.RuntimeTemplates(None, None, None, None, None, None),
        ]  # type: ignore[arg-type]
        for name, operation in room.operations().items()
    }
    asked: set[str] = set()
    for name, operation in operations.items():
        if name.startswith("kv.") and name.endswith("byid"):
            # What they ask for depends on the record.
            continue
        scopes_at = {"kv.keys": 0, "kv.set": 2, "kv.set_expiry": 2}.get(name, 1)
        arguments: list[Any] = ["k"] * scopes_at + [["s"]] * 2
        made = HostCall(5, msgpack.packb([1, "t", name, None, arguments]))
        assert operation.need is not None, name
        asked |= set(operation.need(made).capabilities)
    assert capability_warnings(asked) == []
    assert {re.split(r"[:\[]", cap)[0] for cap in asked} == set(HOST_CAPABILITIES)
    told = capability_warnings(f"{prefix}:non sense" for prefix in HOST_CAPABILITIES)
    assert len(told) == len(HOST_CAPABILITIES)
    for cap in asked:
        if cap.startswith(("globalkv", "objectstorage", "runtime", "kv.meta", "discord")):
            assert any(cap.replace("[s]", "[SCOPE]") in sentence for sentence in told), cap


def test_a_capability_with_a_wrong_separator_is_told_and_a_templates_own_name_is_not() -> None:
    wrong = ["kv.set", "kv/get:k", "KV.set", "kv.meta/list_scopes", "discord.create_message", "runtime"]
    assert len(capability_warnings(wrong)) == len(wrong)
    assert "there are kv.meta:list_scopes" in capability_warnings(["kv.meta/list_scopes"])[0]
    assert capability_warnings(["kvstore:x", "discordant", "my.kv", "*"]) == []


async def test_a_put_that_finds_its_worker_away_says_that_nothing_was_saved(api: Api) -> None:
    api.workers.error = NotReady("the worker is starting")
    _, body = await api.call("PUT", "/guilds/5/templates/t", GOOD)
    assert "nothing was saved; try again" in body["hint"]


@pytest.mark.parametrize("name", ["..%2Fx", "a%2F..", "%2E%2E%2Fb"])
async def test_names_with_dots_for_parts_are_refused(api: Api, name: str) -> None:
    status, body = await api.call("PUT", URL(f"/guilds/5/templates/{name}", encoded=True), GOOD)
    assert (status, body["code"]) == (400, "bad_request")
    assert "dots" in body["hint"]
