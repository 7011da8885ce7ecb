"""A PostgreSQL that hangs, seen by templates and by whoever asks how the server is."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytw.limits import DB_OPERATION_S
from tests.e2e.server import Server, children, serving, title

GUILDS = [(8 + i) << 22 for i in range(4)]
CALLERS = 40
ASK = """
return {
    WebAsk = function(ctx)
        local ok, why = pcall(function()
            if ctx:event().data.writes then ctx.KV:set("k", 1, { "s" }) else ctx.KV:get("k", { "s" }) end
        end)
        return if ok then "ok" else tostring(why)
    end,
}
"""


def postgres(server: Server) -> list[int]:
    """The postmaster and its children."""
    (first,) = [pid for pid in children(server.process.pid) if "/postgres -D " in title(pid)]
    return [first, *children(first)]


def ask(server: Server, number: int) -> tuple[str, float]:
    began = time.monotonic()
    data: dict[str, Any] = {"writes": number % 2 == 0}
    status, answer = server.event(GUILDS[number % len(GUILDS)], type="WebAsk", data=data)
    assert status == 200, answer
    (said,) = [part for part in answer["templates"] if part["template"] == "ask"]
    return said["value"], time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("worker_db", ["mesophyll", "direct"])
def test_a_database_that_hangs_is_told_to_templates_in_time_and_found_again(worker_db: str) -> None:
    with serving("--worker-type", "processpool", "--process-workers", "1", "--worker-db", worker_db) as server:
        for guild in GUILDS:
            server.put(guild, "ask", ASK)
        assert {ask(server, number)[0] for number in range(8)} == {"ok"}
        stopped = postgres(server)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(CALLERS) as threads:
                said = list(threads.map(lambda number: ask(server, number), range(CALLERS)))
            # The hard promise of the deadline, with two seconds for a machine that is busy with other tests.
            assert max(took_s for _, took_s in said) < DB_OPERATION_S + 2
            assert all("database" in text or "within" in text for text, _ in said), said
            status, health = server.call("GET", "/readyz")
            assert (status, health["parts"]["database"]) == (503, False)
            told = {ask(server, number)[0] for number in range(8)}
            assert any("the database is away" in text for text in told), told
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        server.wait_ready(20)
        give_up_at = time.monotonic() + 20
        while {ask(server, number)[0] for number in range(8)} != {"ok"}:
            assert time.monotonic() < give_up_at
