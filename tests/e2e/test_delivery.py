"""Events of the gateway across the death of a worker: none lost, those that ran twice flagged, at most 256 of them."""

import http.client
import json
import os
import signal
import time
from collections import defaultdict
from typing import Any

from pytw.limits import CURSOR_WINDOW_EVENTS
from tests.e2e.server import POLL_S, Server, serving

GUILDS = [(8 + i) << 22 for i in range(4)]
EVENTS = 600
KILL_AT = (150, 350)
#: Keeps a key for each run of an event: its rate allows that, unlike Discord's.
ANSWER = """
local randstring = require("@antiraid/typesext").randstring
return {
    MESSAGE = function(ctx)
        local event = ctx:event()
        local flag = if event.redelivered then "again" else "once"
        ctx.KV:set(`{event.data.content} {flag} {randstring(16)}`, true, { "heard" })
    end,
    WebHeard = function(ctx)
        local keys = {}
        for _, record in ctx.KV:find("%%", { "heard" }) do table.insert(keys, record.key) end
        return keys
    end,
}
"""


class Mock:
    """The mock's own HTTP side."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.call("GET", "/healthz")[1]["mock"].removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        return json.loads(self._connection.getresponse().read())

    def say(self, guild: int, text: str, wait_s: float = 0) -> Any:
        return self.call("POST", "/mock/say", {"guild_id": str(guild), "content": text, "wait_s": wait_s})


def heard(server: Server) -> dict[str, list[str]]:
    """Message -> how each of its runs was flagged."""
    found = defaultdict(list)
    for guild in GUILDS:
        status, answer = server.event(guild, type="WebHeard")
        if status == 503:
            continue  # its worker starts again
        assert status == 200, answer
        for key in next(part["value"] for part in answer["templates"] if part["template"] == "answer") or ():
            text, flag, _ = key.split(" ")
            found[text].append(flag)
    return found


def test_kill_9_under_load_loses_nothing_and_flags_what_ran_twice() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        for guild in GUILDS:
            server.put(guild, "answer", ANSWER)
        mock = Mock(server)
        victim = 0
        for number in range(EVENTS):
            mock.say(GUILDS[number % len(GUILDS)], f"m{number}")
            if number in KILL_AT:
                victim = server.wait_worker(0, other_than=victim)
                os.kill(victim, signal.SIGKILL)
        wanted = {f"m{number}" for number in range(EVENTS)}
        give_up_at = time.monotonic() + 30
        while wanted - heard(server).keys() and time.monotonic() < give_up_at:
            time.sleep(POLL_S)
        ran = heard(server)
        assert wanted - ran.keys() == set(), server.log[-3000:]
        twice = {text: flags for text, flags in ran.items() if len(flags) > 1}
        assert len(twice) <= CURSOR_WINDOW_EVENTS * len(KILL_AT)
        assert [text for text, flags in twice.items() if "again" not in flags] == []
