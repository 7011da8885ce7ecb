"""A large bot of the reference's shape (`tests/bot`) as the built-in template: loop mode, and each plugin once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, serving

TREE = Path(__file__).parent.parent / "bot"
MOCK_GUILD = 1001001001001001001
EVERYTHING = "8"
POLL_S = 0.1
_guilds = itertools.count(500)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--worker-type", "processpool", "--process-workers", "2", "--builtins-dir", str(TREE)) as found:
        yield found


@pytest.fixture
def guild() -> int:
    """One that no other test uses."""
    return next(_guilds) << 22


def fire(server: Server, guild: int, name: str, data: Any) -> Any:
    status, body = server.call("POST", "/test/event", {"type": name, "guild_id": str(guild), "data": data})
    assert status == 200, body
    return body


def value(body: Any, template: str = "$builtins") -> Any:
    """What a template returned."""
    parts = {part["template"]: part for part in body["templates"]}
    assert template in parts, body
    assert parts[template]["outcome"] == "ok", parts[template]
    return parts[template]["value"]


def command(
    server: Server, guild: int, command_name: str, *, by: str = "77", permissions: str = EVERYTHING, **options: Any
) -> Any:
    """The answer to a slash command."""
    interaction = {
        "id": "900",
        "token": "a-token",
        "type": 2,
        "guild_id": str(guild),
        "channel_id": str(guild + 1),
        "member": {"user": {"id": by, "username": "ada"}, "permissions": permissions, "roles": []},
        "data": {"name": command_name, "options": [{"name": k, "type": 3, "value": v} for k, v in options.items()]},
    }
    return value(fire(server, guild, "INTERACTION_CREATE", interaction))


def message(
    server: Server, guild: int, content: str = "hi", *, author: str = "77", mentions: Any = (), **more: Any
) -> Any:
    return fire(
        server,
        guild,
        "MESSAGE",
        {
            "id": "1",
            "channel_id": str(guild + 1),
            "guild_id": str(guild),
            "content": content,
            "author": {"id": author, "username": "ada"},
            "mentions": [{"id": user} for user in mentions],
            **more,
        },
    )


def put(server: Server, guild: int, name: str, files: dict[str, str], *flags: str) -> str:
    folder = server.dir / f"{guild}-{name}"
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    done = server.tw("template", "put", str(guild), name, str(folder), *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tw(server: Server, *args: str) -> str:
    done = server.tw("template", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition: Any, what: str, within_s: float = 10.0) -> Any:
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"waited in vain for {what}")


ECHO = {"init.luau": "return { MESSAGE = function(ctx) return 'heard ' .. ctx:event().data.content end }\n"}


class TestLoop:
    def test_tree_whose_entry_is_one_function_is_loop_mode(self, server: Server) -> None:
        assert server.call("GET", "/healthz")[1]["loop_mode"] is True

    def test_slash_command_is_answered(self, server: Server, guild: int) -> None:
        assert command(server, guild, "ping")["content"] == "pong"

    def test_event_outside_of_the_default_set_reaches_nobody(self, server: Server, guild: int) -> None:
        assert message(server, guild)["outcome"] == "not_subscribed"

    def test_bot_widens_its_tenants_event_set(self, server: Server, guild: int) -> None:
        assert sorted(command(server, guild, "setup")["data"]["new"]) == ["@keym", "MESSAGE", "OnStartup"]
        assert message(server, guild)["outcome"] == "ok"
        assert command(server, guild, "setup")["data"]["new"] == []

    def test_gateway_message_is_answered_through_discord(self, server: Server) -> None:
        command(server, MOCK_GUILD, "setup")
        said = server.tw("mock", "say", str(MOCK_GUILD), "!standin", "--wait", "5")
        assert "standing in" in said.stdout, said.stderr + server.log[-2000:]

    def test_unknown_command_is_a_value(self, server: Server, guild: int) -> None:
        assert command(server, guild, "nonsense")["content"] == "unknown command"

    def test_events_at_the_same_time_make_one_manager(self, server: Server, guild: int) -> None:
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(command(server, guild, "ping")["content"])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["pong"] * 8

    def test_threads_of_the_master_run_it_too(self) -> None:
        with serving("--worker-type", "threadpool", "--builtins-dir", str(TREE)) as server:
            assert command(server, 1 << 22, "ping")["content"] == "pong"


class TestTemplates:
    def test_template_runs_beside_the_bot_under_its_name(self, server: Server, guild: int) -> None:
        assert "listens for MESSAGE" in put(server, guild, "echo", ECHO)
        body = message(server, guild, "tiger")
        assert {part["template"] for part in body["templates"]} == {"$builtins", "echo"}
        assert value(body, "echo") == "heard tiger"

    def test_new_version_runs_with_the_next_event(self, server: Server, guild: int) -> None:
        put(server, guild, "echo", ECHO)
        message(server, guild)
        put(server, guild, "echo", {"init.luau": "return { MESSAGE = function() return 'newer' end }\n"})
        assert value(message(server, guild), "echo") == "newer"

    def test_error_is_of_its_template_alone(self, server: Server, guild: int) -> None:
        put(server, guild, "bad", {"init.luau": "return { MESSAGE = function()\n error('oh no') end }\n"})
        body = message(server, guild)
        value(body)
        (bad,) = [part for part in body["templates"] if part["template"] == "bad"]
        assert (body["outcome"], bad["outcome"], bad["value"]) == ("script_error", "script_error", None)
        assert "/init.luau" in bad["error"]
        assert ":2:" in bad["error"]
        assert "oh no" in bad["error"]

    def test_template_that_is_too_slow_is_left_out_and_delays_nobody_longer_than_5_s(
        self, server: Server, guild: int
    ) -> None:
        put(server, guild, "slow", {"init.luau": "return { MESSAGE = function() task.wait(30) end }\n"})
        assert [part["template"] for part in message(server, guild)["templates"]] == ["$builtins"]

    def test_paused_template_does_not_run_until_it_is_resumed(self, server: Server, guild: int) -> None:
        put(server, guild, "echo", ECHO)
        put(server, guild, "other", ECHO)
        tw(server, "pause", str(guild), "echo")
        assert {part["template"] for part in message(server, guild)["templates"]} == {"$builtins", "other"}
        assert "(paused)" in tw(server, "list", str(guild))
        tw(server, "resume", str(guild), "echo")
        assert value(message(server, guild, "a"), "echo") == "heard a"

    def test_removed_template_takes_its_events_along(self, server: Server, guild: int) -> None:
        put(server, guild, "echo", ECHO)
        assert message(server, guild)["outcome"] == "ok"
        tw(server, "rm", str(guild), "echo")
        assert message(server, guild)["outcome"] == "not_subscribed"

    def test_show_prints_the_source(self, server: Server, guild: int) -> None:
        put(server, guild, "echo", ECHO)
        assert "heard" in tw(server, "show", str(guild), "echo", "--source")

    def test_template_may_do_what_its_capabilities_say_and_no_more(self, server: Server, guild: int) -> None:
        source = """return { MESSAGE = function(ctx)
            ctx.KV:set("k", 1, { "s" })
            local ok, err = pcall(function() return ctx.Runtime:gettenantstate() end)
            return { ok = ok, err = tostring(err), caps = ctx.allowed_caps }
        end }"""
        put(server, guild, "narrow", {"init.luau": source}, "--cap", "kv:*")
        found = value(message(server, guild), "narrow")
        assert (found["ok"], found["caps"]) == (False, ["kv:*"])
        assert "gettenantstate" in found["err"]

    def test_template_has_its_own_aliases_and_modules(self, server: Server, guild: int) -> None:
        files = {
            ".luaurc": '{"aliases": {"lib": "./deep/lib"}}',
            "init.luau": 'local a = require("@lib/a") return { MESSAGE = function() return a end }',
            "deep/lib/a.luau": 'return require("./b") .. "a"',
            "deep/lib/b.luau": 'return "b"',
        }
        put(server, guild, "tree", files)
        assert value(message(server, guild), "tree") == "ba"

    def test_templates_have_globals_of_their_own(self, server: Server, guild: int) -> None:
        for name in ("one", "two"):
            put(
                server,
                guild,
                name,
                {"init.luau": f"n = (n or 0) + 1 return {{ MESSAGE = function() return n end }} --{name}"},
            )
        body = message(server, guild)
        assert [value(body, name) for name in ("one", "two")] == [1, 1]

    def test_template_that_the_bot_makes_is_known_to_tw(self, server: Server, guild: int) -> None:
        made = fire(
            server,
            guild,
            "ExecuteSetting",
            {
                "id": "scripts",
                "op": "Create",
                "fields": {"name": "made", "content": ECHO, "allowed_caps": ["kv:*"], "events": ["MESSAGE"]},
            },
        )
        key = value(made)["value"]
        assert value(message(server, guild, "x"), key) == "heard x"
        assert "made" in tw(server, "list", str(guild))
        tw(server, "rm", str(guild), "made")
        assert message(server, guild)["outcome"] == "not_subscribed"


class TestManagers:
    def test_afk_ends_with_a_message(self, server: Server, guild: int) -> None:
        command(server, guild, "setup")
        assert command(server, guild, "afk", reason="lunch", duration="1h30m")["content"] == "away for 1h30m"
        assert value(message(server, guild, author="5", mentions=["77"]))["away"] == ["<@77> is away: lunch"]
        assert value(message(server, guild, author="77"))["back"] is True
        assert value(message(server, guild, author="77"))["back"] is False

    def test_reminder_comes_when_its_time_has_come(self, server: Server, guild: int) -> None:
        made = command(server, guild, "remindme", duration="1s", message="tea")
        assert command(server, guild, "reminded", id=made["data"]["id"])["content"] == "not yet"
        said = until(lambda: command(server, guild, "reminded", id=made["data"]["id"]).get("data"), "the reminder")
        assert (said["userid"], said["message"]) == ("77", "tea")

    def test_reminder_outlives_the_vm(self, server: Server, guild: int) -> None:
        command(server, guild, "setup")
        made = command(server, guild, "remindme", duration="2s", message="tea")
        put(server, guild, "echo", ECHO)
        until(lambda: command(server, guild, "reminded", id=made["data"]["id"]).get("data"), "the reminder")

    def test_stings_add_up_and_go(self, server: Server, guild: int) -> None:
        assert command(server, guild, "sting", user="9", stings=2, reason="spam")["content"] == "9 has 2 now"
        second = command(server, guild, "sting", user="9", stings=1)
        assert second["content"] == "9 has 3 now"
        assert command(server, guild, "unsting", id=second["data"]["id"])["content"] == "gone"
        assert command(server, guild, "unsting", id=second["data"]["id"])["content"] == "there is no such sting"

    def test_permission_is_asked_for(self, server: Server, guild: int) -> None:
        assert "ban_members" in command(server, guild, "ban", permissions="0", user="9", reason="x")["content"]

    def test_reason_that_cannot_be_is_a_value_and_no_error(self, server: Server, guild: int) -> None:
        assert command(server, guild, "ban", user="9", reason="")["content"].startswith("not banned: ")

    def test_honeypot_catches(self, server: Server, guild: int) -> None:
        command(server, guild, "setup")
        command(server, guild, "honeypot", channel=str(guild + 2))
        assert "honeypot" in value(message(server, guild, channel_id=str(guild + 2)))
        assert "honeypot" not in value(message(server, guild))

    def test_settings_are_listed_under_both_names(self, server: Server, guild: int) -> None:
        pages = {
            name: [page["id"] for page in value(fire(server, guild, name, {}))]
            for name in ("GetSettings", "WebGetSettings")
        }
        assert pages == {"GetSettings": ["scripts", "stings"], "WebGetSettings": ["scripts", "stings"]}

    def test_setting_is_worked_on(self, server: Server, guild: int) -> None:
        made = {"id": "stings", "op": "Create", "fields": {"target": "9", "reason": "spam"}}
        assert value(fire(server, guild, "WebExecuteSetting", made))["ok"] is True
        seen = value(fire(server, guild, "WebExecuteSetting", {"id": "stings", "op": "View"}))
        assert [(sting["target"], sting["reason"]) for sting in seen["value"]] == [("9", "spam")]

    def test_unknown_setting_is_a_value(self, server: Server, guild: int) -> None:
        assert value(fire(server, guild, "WebExecuteSetting", {"id": "no", "op": "View"}))["ok"] is False

    def test_archive_comes_back_packed_and_sealed(self, server: Server, guild: int) -> None:
        kept = command(server, guild, "rehearse", label="mine")
        assert kept["content"] == "label mine"
        assert kept["data"] == {"files": ["meta.json", "settings.json"], "limit": 20 << 20, "null": True}

    def test_backup_comes_back(self, server: Server, guild: int) -> None:
        assert command(server, guild, "backup", label="mine")["data"]["bytes"] > 0
        assert command(server, guild, "restore")["content"] == "label mine"

    def test_line_of_luau_runs_in_an_environment_of_its_own(self, server: Server, guild: int) -> None:
        assert (
            command(server, guild, "eval", code="return given.code ~= nil, task, ...")["content"] == 'true\tnil\t"77"'
        )


class TestPlugins:
    """Each once; what it says stands in tests/bot/bot/plugins."""

    def run(self, server: Server, guild: int, name: str) -> Any:
        done = command(server, guild, "plugin", name=name)["data"]
        assert done["ok"], done
        return done["value"]

    def test_kv(self, server: Server, guild: int) -> None:
        found = self.run(server, guild, "KV")
        del found["listed"], found["read_only"]
        assert found == {
            "year": 1970,
            "big": "18446744073709551615",
            "bytes": "bytes",
            "scopes": ["b", "standin.try"],
            "missing": True,
            "found": 2,
            "left": 0,
        }

    def test_records_of_kv_are_read_only(self, server: Server, guild: int) -> None:
        assert self.run(server, guild, "KV")["read_only"] is True

    def test_scopes_of_kv(self, server: Server, guild: int) -> None:
        assert self.run(server, guild, "KV")["listed"] == {"ok": True, "value": True}

    def test_globalkv(self, server: Server, guild: int) -> None:
        """A new entry waits for its review, so that nobody finds it."""
        assert self.run(server, guild, "GlobalKV") == {"listed": 0, "got": False, "gone": True}

    def test_objectstorage(self, server: Server, guild: int) -> None:
        assert self.run(server, guild, "ObjectStorage") == {
            "name": str(guild),
            "url": True,
            "listed": True,
            "text": "aGVsbG8=",
            "existed": True,
            "gone": True,
            "refused": True,
        }

    def test_discord(self, server: Server) -> None:
        found = self.run(server, MOCK_GUILD, "Discord")
        assert {key: found[key] for key in ("guild", "kind", "user", "reason")} == {
            "guild": True,
            "kind": "Lazy",
            "user": True,
            "reason": True,
        }
        assert (found["error_kind"], bool(found["elsewhere"])) == ("string", True)

    def test_httpclient(self, server: Server, guild: int) -> None:
        found = self.run(server, guild, "HTTPClient")
        assert (found["host"], found["query"], found["header"]) == ("example.com", "q=1", "1")
        assert found["body"] == '{"answer":42}'
        assert "not whitelisted" in found["error"]

    def test_runtime(self, server: Server, guild: int) -> None:
        found = self.run(server, guild, "Runtime")
        assert found.pop("events") >= 73
        assert found == {"startup": True, "state": True, "guilds": True, "links": True, "layers": True}

    def test_imagecaptcha(self, server: Server, guild: int) -> None:
        assert self.run(server, guild, "ImageCaptcha") == {"length": 5, "png": True}
