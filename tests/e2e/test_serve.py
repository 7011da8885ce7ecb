"""The documented main path, in each topology, with real processes."""

import signal
import socket

import pytest

from tests.e2e.server import Server, gone, serving

TOPOLOGIES = [
    ["--worker-type", "processpool", "--process-workers", "2"],
    ["--worker-type", "threadpool"],
    ["--worker-type", "hybrid", "--thread-workers", "1", "--process-workers", "1"],
]
MOCK_GUILD = 1001001001001001001
ECHO = "return { MESSAGE = function(ctx) return 'ok' end }\n"
ANSWER = """
return {
    MESSAGE = function(ctx)
        local message = ctx:event().data
        ctx.Discord:create_message({ channel_id = message.channel_id, data = { content = "heard " .. message.content } })
    end,
}
"""


@pytest.mark.parametrize("flags", TOPOLOGIES, ids=lambda flags: flags[1])
def test_curl_line_template_and_mock_message_work_and_sigterm_ends_cleanly(flags: list[str]) -> None:
    with serving(*flags) as server:
        status, body = server.call("POST", "/test/event", {"type": "MESSAGE_CREATE", "guild_id": "123"})
        assert status == 200, body
        server.put(MOCK_GUILD, "echo", ANSWER)
        said = server.tw("mock", "say", str(MOCK_GUILD), "tiger", "--wait", "5")
        assert "heard tiger" in said.stdout, said.stderr + server.log[-2000:]
        code, left = server.end()
        assert (code, left) == (0, [])


def test_bad_requests_are_4xx() -> None:
    with serving("--worker-type", "threadpool") as server:
        for body in (
            b"{",
            b"[]",
            {"type": 5, "guild_id": "123"},
            {"type": "MESSAGE_CREATE", "guild_id": "x"},
            {"type": "MESSAGE_CREATE", "guild_id": "9" * 30},
            {"guild_id": "1"},
        ):
            status, _ = server.call("POST", "/test/event", body)
            assert 400 <= status < 500, body


def test_second_instance_on_the_same_data_says_so_and_ends_with_5() -> None:
    with serving("--worker-type", "threadpool") as server:
        second = Server("--worker-type", "threadpool", data_dir=str(server.data_dir))
        try:
            assert second.process.wait(10) == 5
            assert f"pid {server.process.pid}" in second.log
            assert "Traceback" not in second.log
        finally:
            second.close()


def test_port_in_use_names_the_flag_and_ends_with_4() -> None:
    with serving("--worker-type", "threadpool") as server:
        second = Server("--worker-type", "threadpool", env={"TW_ADDRS_TEMPLATE_WORKER": f"127.0.0.1:{server.port}"})
        try:
            assert second.process.wait(10) == 4
            assert "--listen" in second.log
            assert "TW_ADDRS_TEMPLATE_WORKER" in second.log
        finally:
            second.close()


def test_unreachable_database_ends_with_3_and_one_line() -> None:
    server = Server("--dev", env={"TW_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:9/none"})
    try:
        assert server.process.wait(20) == 3
        assert "secret" not in server.log
        assert "Traceback" not in server.log
    finally:
        server.close()


def test_second_server_of_one_database_ends_with_5_and_says_who_the_first_is(database_url: str) -> None:
    env = {"TW_DATABASE_URL": database_url}
    with serving("--worker-type", "threadpool", "--dev", env=env) as server:
        second = Server("--worker-type", "threadpool", "--dev", env=env)
        try:
            assert second.process.wait(40) == 5
            assert (
                f"another server uses this database (tw serve, {socket.gethostname()}, {server.process.pid})"
                in second.log
            )
            assert "Traceback" not in second.log
        finally:
            second.close()
        assert server.event(8 << 22)[0] == 200


def test_data_folder_that_cannot_be_written_ends_with_7() -> None:
    server = Server(data_dir="/proc/nothing")
    try:
        assert server.process.wait(10) == 7
        assert "Traceback" not in server.log
    finally:
        server.close()


def test_second_start_reuses_the_data() -> None:
    guild = 8 << 22
    with serving("--worker-type", "threadpool") as server:
        server.put(guild, "echo", ECHO)
        assert server.end()[0] == 0
        with serving("--worker-type", "threadpool", data_dir=str(server.data_dir)) as again:
            status, body = again.event(guild)
            assert status == 200
            assert '"ok"' in str(body).replace("'", '"')


def test_second_sigterm_ends_at_once() -> None:
    guild = 8 << 22
    with serving("--worker-type", "processpool", "--process-workers", "1") as server:
        server.put(guild, "slow", "return { MESSAGE = function() task.wait(30) end }\n")
        status, _ = server.call(
            "POST", "/test/event", {"type": "MESSAGE_CREATE", "guild_id": str(guild), "wait": False}
        )
        assert status < 300
        below = [*server.workers().values()]
        server.process.send_signal(signal.SIGTERM)
        assert gone([server.process.pid], 0.3) == [server.process.pid]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == 128 + signal.SIGTERM
        assert gone(below, 3) == []
