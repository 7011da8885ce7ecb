"""A dump of the running server brings everything back."""

from __future__ import annotations

from tests.e2e.server import Server, serving

GUILD = 1001001001001001001
ECHO = "return { MESSAGE = function(ctx) return 'saved' end }\n"


def test_a_running_server_is_dumped_and_comes_back_from_the_dump() -> None:
    with serving("--worker-type", "threadpool") as server:
        server.put(GUILD, "echo", ECHO)
        dump = str(server.dir / "dump")
        done = server.tw("db", "dump", dump)
        assert done.returncode == 0, done.stderr
        assert "tenant_kv" in server.tw("db", "status").stdout
        refused = server.tw("db", "restore", dump, "--replace")
        assert refused.returncode == 5
        assert "already running" in refused.stderr
        assert server.tw("template", "rm", str(GUILD), "echo").returncode == 0
        server.end()
        done = server.tw("db", "restore", dump)
        assert done.returncode == 8
        assert "--replace" in done.stderr
        done = server.tw("db", "restore", dump, "--replace")
        assert done.returncode == 0, done.stderr
        again = Server("--worker-type", "threadpool", data_dir=str(server.data_dir))
        try:
            again.wait_ready()
            status, body = again.event(GUILD)
            assert status == 200
            assert "saved" in str(body)
        finally:
            again.close()
