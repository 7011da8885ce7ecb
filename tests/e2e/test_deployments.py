"""A deployment answers when the owning VM runs it, in worker processes."""

from __future__ import annotations

from typing import Any

from pytw.commands.control import Control
from pytw.config import control_socket
from tests.e2e.server import serving

ENTRY = "local lib = require('./lib') return { MESSAGE = function() return lib.value end }"
#: One in each of two workers.
GUILDS = (7 << 22, 8 << 22)


def files(value: str) -> dict[str, str]:
    return {"init.luau": ENTRY, "lib.luau": f"return {{ value = '{value}' }}"}


def test_the_event_after_each_answer_runs_what_was_deployed() -> None:
    with serving("--worker-type", "processpool", "--process-workers", "2") as server:
        control = Control(socket_path=control_socket(str(server.data_dir)))

        def call(method: str, guild: int, path: str = "", body: Any = None) -> Any:
            answer = control.call(method, f"/guilds/{guild}/templates/t{path}", body)
            assert answer["running"] is True, answer
            return answer

        def runs(guild: int) -> Any:
            body = server.event(guild)[1]
            return next((part["value"] for part in body["templates"] if part["template"] == "t"), None)

        for guild in GUILDS:
            for number in range(5):
                call("PUT", guild, body={"files": files(f"v{number}")})
                assert runs(guild) == f"v{number}"
            for number in (3, 2):
                assert call("POST", guild, "/rollback")["version"] == number + 1
                assert runs(guild) == f"v{number}"
            call("POST", guild, "/pause")
            assert runs(guild) is None
            call("POST", guild, "/resume")
            call("DELETE", guild)
            assert runs(guild) is None
        done = server.tw("template", "undelete", str(GUILDS[0]), "t")
        assert done.stdout == "t: version 3 deployed, listens for MESSAGE\n", done.stderr
        assert runs(GUILDS[0]) == "v2"
        assert (
            "-return { value = 'v0' }\n+return { value = 'v2' }"
            in server.tw("template", "diff", str(GUILDS[0]), "t", "1").stdout
        )
        for version in ("1.9", "1.10"):
            control.call("PUT", f"/i/shop/greet/{version}", {"files": files(version)})
            control.call("PUT", f"/i/shop/greet/{version}/review", {"state": "approved"})
            if version == "1.9":
                for guild in GUILDS:
                    call("PUT", guild, body={"shop": "$shop/greet#latest"})
            assert [runs(guild) for guild in GUILDS] == [version, version]
        told = server.tw("shop", "withdraw", "greet", "1.10")
        assert told.stdout == "$shop/greet#1.10: withdrawn; 2 tenants run what follows from it\n", told.stderr
        assert [runs(guild) for guild in GUILDS] == ["1.9", "1.9"]
