"""Events of the gateway across the death of a worker: none lost, those that ran twice flagged, at most 256 of them."""

import http.client
import json
import os
import signal
import time
from collections import defaultdict
from typing import Any

from pytw.limits import CURSOR_WINDOW_EVENTS
from tests.e2e.server import Server, serving

GUILDS = [(8 + i) << 22 for i in range(4)]
EVENTS = 600
KILL_AT = (150, 350)
ANSWER = """
return {
    MESSAGE = function(ctx)
        local event = ctx:event()
        local flag = if event.redelivered then "again" else "once"
        ctx.Discord:create_message({
            channel_id = event.data.channel_id,
            data = { content = `{event.data.content} {flag}` },
        })
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

    def heard(self) -> dict[str, list[str]]:
        """Message -> how each of its answers was flagged."""
        found = defaultdict(list)
        for message in self.call("GET", "/mock/messages"):
            text, _, flag = message["content"].rpartition(" ")
            found[text].append(flag)
        return found


def test_kill_9_under_load_loses_nothing_and_flags_what_ran_twice() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        for guild in GUILDS:
            server.put(guild, "answer", ANSWER)
        mock = Mock(server)
        for guild in GUILDS:
            assert mock.say(guild, "warm", 5)["replies"]
        victim = 0
        for number in range(EVENTS):
            mock.say(GUILDS[number % len(GUILDS)], f"m{number}")
            if number in KILL_AT:
                victim = server.wait_worker(0, other_than=victim)
                os.kill(victim, signal.SIGKILL)
        wanted = {f"m{number}" for number in range(EVENTS)}
        give_up_at = time.monotonic() + 30
        while wanted - mock.heard().keys() and time.monotonic() < give_up_at:
            time.sleep(0.05)
        heard = mock.heard()
        assert wanted - heard.keys() == set(), server.log[-3000:]
        twice = {text: flags for text, flags in heard.items() if text in wanted and len(flags) > 1}
        assert len(twice) <= CURSOR_WINDOW_EVENTS * len(KILL_AT)
        assert [text for text, flags in twice.items() if "again" not in flags] == []
