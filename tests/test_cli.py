"""`pytw.cli`: each mistake is one line on stderr with its own exit code, and the commands say what servers are asked."""

import http.server
import json
import logging
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading

import pytest

from pytw import cli
from pytw.cli import _run, root
from pytw.commands import serve as serve_module
from pytw.commands.template import read_files
from pytw.errors import RequestError


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("TW_", "MESOPHYLL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # Commands send the log to the stderr of their test, which is gone afterwards.
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


def tw(capsys, *args):
    code = _run(root, "tw", args)
    out = capsys.readouterr()
    return code, out.out, out.err


def one_line(capsys, *args):
    code, out, err = tw(capsys, *args)
    assert out == ""
    assert err.count("\n") == 1, err
    return code, err.strip()


@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["serve", "--foo"], 2, ["--foo"]),
        (["serv"], 2, ["serv", "did you mean serve?"]),
        (["serve", "--worker-type", "x"], 2, ["--worker-type", "processpool, threadpool, hybrid"]),
        (["serve", "--process-workers", "0"], 2, ["--process-workers"]),
        (["serve", "--tokio-threads-worker", "many"], 2, ["--tokio-threads-worker"]),
        (["serve", "--worker-id", "1"], 2, ["--worker-id", "processpoolworker"]),
        (["serve", "--mesophyll", "127.0.0.1:1"], 2, ["--mesophyll", "processpoolworker"]),
        (["serve", "--worker-type", "processpoolworker"], 2, ["--worker-id", "--mesophyll", "MESOPHYLL_CLIENT_TOKEN"]),
        (["serve", "--builtins-dir", "nowhere"], 2, ["nowhere", "does not exist"]),
        (["serve", "--listen", "here"], 8, ["--listen", "HOST:PORT"]),
        (["serve", "--config", "none.yaml"], 8, ["none.yaml", "No such file"]),
        (["serve", "--worker-type", "register"], 64, ["register", "comes with version"]),
        (["serve", "--worker-type", "fauxpas"], 64, ["shell", "comes with version"]),
        (["register"], 64, ["register", "comes with version"]),
        (["shell", "--anything", "else"], 64, ["shell", "comes with version"]),
        (["template", "put", "abc", "x"], 2, ["GUILD"]),
        (["template", "put", "0", "x"], 2, ["GUILD"]),
        (["template", "put", "1", "x", "nowhere"], 2, ["nowhere", "does not exist"]),
        (["template", "put", "1", ""], 2, ["NAME", "letters, digits"]),
        (["template", "put", "1", "../x"], 2, ["NAME", "no part may be"]),
        (["template", "rm", "1", ".."], 2, ["NAME", "no part may be"]),
        (["template", "put", "1", "x", "/etc/hostname"], 2, ["DIR", "neither a folder nor a file"]),
        (["template", "list", "1", "--data-dir", "empty"], 9, ["no server answers at", "control.sock", "tw serve"]),
        (["template", "list", "1", "--url", "nonsense"], 8, ["--url", "http://"]),
        (["template", "list", "1", "--url", "http://127.0.0.1:1"], 9, ["no server answers at http://127.0.0.1:1"]),
        (["mock", "say", "1", "x", "--wait", "-1"], 2, ["--wait"]),
        (["mock", "say", "1", ""], 2, ["TEXT", "empty"]),
        (["config", "check", "--config", "none.yaml"], 8, ["none.yaml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and value[0] in cli.COMMANDS else None,
)
def test_mistake_is_one_line_and_an_exit_code(capsys, args, code, parts):
    found, line = one_line(capsys, *args)
    assert found == code
    assert line.startswith("tw")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("text", ["a: [", "limits: {cpu_bucket_ms: x}", "nope: 1"])
def test_bad_file_ends_serve_before_anything_starts(capsys, tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    code, line = one_line(capsys, "serve", "--data-dir", str(tmp_path / "data"))
    assert code == 8
    assert "config.yaml" in line
    assert not (tmp_path / "data").exists()


def test_database_without_token_is_refused_with_the_way_out(capsys, monkeypatch):
    monkeypatch.setenv("TW_DATABASE_URL", "postgres://u:hunter2@h/d")
    code, line = one_line(capsys, "serve")
    assert code == 8
    assert "TW_DISCORD_TOKEN" in line
    assert "--dev" in line
    assert "hunter2" not in line


@pytest.fixture
def served(monkeypatch):
    """Runs a command line up to the point where the master would start; returns its options and configuration."""

    def run(*args, command=None, name="tw"):
        took = []

        class Master:
            @staticmethod
            def run(config, options, fork_server):
                took.append((config, options))
                assert (fork_server is None) == (options.worker_type == "threadpool")
                return 0

        monkeypatch.setitem(sys.modules, "pytw.main.master", Master)
        monkeypatch.setattr("pytw.main.forkserver.ForkServer.start", lambda: "a fork server")
        monkeypatch.setattr(serve_module.observe, "setup_logging", lambda *a, **k: None)
        assert _run(command or root, name, args) == 0
        return took[0]

    return run


def test_every_flag_reaches_the_master(served, tmp_path):
    (tmp_path / "b").mkdir()
    config, options = served(
        *[
            "serve",
            "--worker-type",
            "hybrid",
            "--process-workers",
            "2",
            "--thread-workers",
            "3",
            "--tokio-threads-master",
            "4",
        ],
        *[
            "--tokio-threads-worker",
            "5",
            "--max-db-connections",
            "6",
            "--worker-debug",
            "--builtins-dir",
            "b",
            "--dev",
            "--log-json",
        ],
        *[
            "--worker-db",
            "mesophyll",
            "--exit-on-deaf-thread",
            "--abort-on-crash-loop",
            "--listen",
            "127.0.0.1:7",
            "--data-dir",
            "d",
        ],
    )
    assert (options.worker_type, options.process_workers, options.thread_workers) == ("hybrid", 2, 3)
    assert (options.threads_master, options.threads_worker, options.max_db_connections) == (4, 5, 6)
    assert options.worker_debug
    assert options.builtins_dir == str(tmp_path / "b")
    assert options.dev
    assert options.worker_db == "mesophyll"
    assert options.exit_on_deaf_thread
    assert options.abort_on_crash_loop
    assert config.addrs.template_worker == "127.0.0.1:7"
    assert config.data_dir == "d"
    assert config.log.json


def test_defaults_are_the_documented_ones(served):
    config, options = served("serve")
    assert options.worker_type == "processpool"
    assert options.process_workers is None
    assert (options.threads_master, options.threads_worker, options.max_db_connections) == (10, 3, 7)
    assert not config.log.json


@pytest.mark.parametrize(
    ("spelling", "meaning"), [("process-pool", "processpool"), ("thread-pool", "threadpool"), ("hybrid", "hybrid")]
)
def test_alias_of_a_worker_type_works(served, spelling, meaning):
    assert served("serve", "--worker-type", spelling)[1].worker_type == meaning


def test_documented_command_line_works_as_it_stands(served):
    args = ["--worker-type", "processpool", "--process-workers", "8", "--threads-master", "2", "--threads-worker", "1"]
    _, options = served(*args, command=serve_module.serve, name="template-worker")
    assert (options.process_workers, options.threads_master, options.threads_worker) == (8, 2, 1)


def test_threads_beyond_twice_the_cores_are_warned_of(served):
    _, options = served("serve", "--threads-master", "1", "--threads-worker", "1")
    cores = len(os.sched_getaffinity(0))
    assert options.thread_warning(2 * cores - 1) is None
    assert f"{2 * cores + 1} threads" in options.thread_warning(2 * cores)


def test_threads_that_nobody_chose_are_not_warned_of(served):
    assert served("serve")[1].thread_warning(1_000) is None
    for flag in ("--process-workers", "--threads-master", "--tokio-threads-worker"):
        assert "threads" in served("serve", flag, "2")[1].thread_warning(1_000)


def test_help_is_for_every_command_and_imports_none(capsys):
    code, out, _ = tw(capsys, "--help")
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)
    quick = "import sys; from pytw.cli import _run, root; _run(root, 'tw', ['--help']); print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", quick], capture_output=True, text=True, check=True).stdout
    assert not {"'aiohttp'", "'asyncio'", "'msgspec'", "'yaml'", "'prometheus_client'"} & set(
        shown.splitlines()[-1].strip("[]").split(", ")
    )
    for name in cli.COMMANDS:
        assert tw(capsys, name, "--help")[0] in (0, 64)


def test_config_show_hides_secrets_and_says_where_values_came_from(capsys, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("discord_auth: {token: hunter2}\nlimits: {slice_ms: 7}")
    monkeypatch.setenv("TW_DATABASE_URL", "postgres://u:hunter2@h/d")
    code, out, err = tw(capsys, "config", "show")
    assert (code, err) == (0, "")
    assert "hunter2" not in out
    assert "  slice_ms: 7  # config.yaml\n" in out
    assert '  postgres_url: "postgres://u:(hidden)@h/d"  # TW_DATABASE_URL\n' in out
    assert '  token: "(hidden)"  # config.yaml\n' in out


def test_config_show_prints_a_file_that_can_be_used(capsys, tmp_path):
    (tmp_path / "shown.yaml").write_text(tw(capsys, "config", "show")[1])
    assert tw(capsys, "config", "check", "--config", "shown.yaml")[0] == 0


def test_config_check_says_which_mode_it_would_be(capsys, monkeypatch):
    assert "dev mode" in tw(capsys, "config", "check")[1]
    monkeypatch.setenv("TW_DISCORD_TOKEN", "t")
    assert "a real bot" in tw(capsys, "config", "check")[1]


def test_no_space_left_and_no_permission_have_their_own_code(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr("pytw.commands.config.reading", full)
    assert one_line(capsys, "config", "check") == (7, "tw: /data/x: No space left on device")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def server(tmp_path):
    """A server on `control.sock` that answers what the test put into ``answers`` and keeps what it was asked."""
    asked, answers = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, json.loads(body) if body else None))
            status, reply = answers.pop(0)
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_):
            pass

        def address_string(self):
            return "control"

    with _Server(str(tmp_path / "control.sock"), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield asked, answers
        running.shutdown()
        thread.join()


def test_template_put_sends_the_luau_files_of_the_folder(capsys, server, tmp_path):
    asked, answers = server
    folder = tmp_path / "t"
    (folder / "lib").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "init.luau").write_text("return {}")
    (folder / "lib/a.luau").write_text("return 'ä'")
    (folder / "README.md").write_text("no")
    (folder / ".git/x.luau").write_text("no")
    answers.append((200, {"name": "a/b", "version": 3, "events": ["MESSAGE"]}))
    code, out, _ = tw(capsys, "template", "put", "5", "a/b", "t", "--data-dir", str(tmp_path), "--message", "m")
    assert (code, out) == (0, "a/b: version 3 deployed, listens for MESSAGE\n")
    files = {"init.luau": "return {}", "lib/a.luau": "return 'ä'"}
    assert asked == [("PUT", "/guilds/5/templates/a%2Fb", {"files": files, "message": "m"})]


def test_template_put_tells_warnings_and_hints_beside_its_answer(capsys, server, tmp_path):
    _, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((202, {"version": 1, "events": ["NOPE"], "warnings": ["no NOPE"], "hint": "its worker is away"}))
    code, out, err = tw(capsys, "template", "put", "5", "x", "x.luau", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "x: version 1 deployed, listens for NOPE\n")
    assert err == "warning: no NOPE\nnote: its worker is away\n"


def test_template_put_sends_what_the_flags_say(capsys, server, tmp_path):
    asked, answers = server
    (tmp_path / "x.luau").write_text("return 1")
    answers.append((200, {"version": 1}))
    flags = ["--entry", "main", "--event", "A", "--event", "B", "--cap", "kv:read", "--paused", "--user"]
    assert tw(capsys, "template", "put", "5", "x", "x.luau", *flags, "--data-dir", str(tmp_path))[0] == 0
    assert asked == [
        (
            "PUT",
            "/users/5/templates/x",
            {
                "files": {"init.luau": "return 1"},
                "entry": "main",
                "events": ["A", "B"],
                "allowed_caps": ["kv:read"],
                "paused": True,
            },
        )
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["list", "5"], ("GET", "/guilds/5/templates")),
        (["show", "5", "x"], ("GET", "/guilds/5/templates/x")),
        (["rm", "5", "x", "--user"], ("DELETE", "/users/5/templates/x")),
        (["pause", "5", "x"], ("POST", "/guilds/5/templates/x/pause")),
        (["resume", "5", "x"], ("POST", "/guilds/5/templates/x/resume")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_template_command_asks_its_route(capsys, server, tmp_path, args, expected):
    asked, answers = server
    row = {"name": "x", "version": 2, "events": ["MESSAGE"], "paused": True, "files": {"init.luau": "return 1"}}
    answers.append((200, [row] if args[0] == "list" else row))
    code, out, _ = tw(capsys, "template", *args, "--data-dir", str(tmp_path))
    assert code == 0
    assert asked[0][:2] == expected
    assert "x" in out


def test_show_prints_the_source_on_request(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, {"name": "x", "version": 1, "events": [], "files": {"init.luau": "return 'here'"}}))
    assert "return 'here'" in tw(capsys, "template", "show", "5", "x", "--source", "--data-dir", str(tmp_path))[1]


def test_json_is_the_answer_of_the_server(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, [{"name": "x"}]))
    assert json.loads(tw(capsys, "template", "list", "5", "--json", "--data-dir", str(tmp_path))[1]) == [{"name": "x"}]


@pytest.mark.parametrize(
    ("status", "reply", "text"),
    [
        (400, {"message": "init.luau:3: expected 'end'", "code": "script_error"}, "init.luau:3: expected 'end'"),
        (404, {"message": "no template x"}, "no template x"),
        (400, {"message": "bad name", "hint": "only letters"}, "bad name (only letters)"),
        (502, b"<html>", "<html>"),
        (503, b"", "503"),
    ],
)
def test_refusal_of_the_server_is_one_line(capsys, server, tmp_path, status, reply, text):
    _, answers = server
    answers.append((status, reply))
    code, line = one_line(capsys, "template", "show", "5", "x", "--data-dir", str(tmp_path))
    assert code == 1
    assert text in line


def test_mock_say_prints_what_came_back(capsys, server, tmp_path):
    asked, answers = server
    answers.append((200, {"sent": {"id": "1"}, "replies": [{"author": {"username": "tw"}, "content": "hi you"}]}))
    code, out, _ = tw(capsys, "mock", "say", "5", "hi", "--wait", "1.5", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "tw: hi you\n")
    assert asked == [("POST", "/mock/say", {"guild_id": "5", "content": "hi", "wait_s": 1.5})]


def test_mock_say_without_an_answer_names_what_is_not_ready(capsys, server, tmp_path):
    _, answers = server
    answers.append((200, {"sent": {"id": "1"}, "replies": []}))
    answers.append((503, {"ready": False, "parts": {"database": True, "workers": False, "worker.1": False}}))
    code, out, err = tw(capsys, "mock", "say", "5", "hi", "--wait", "0", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "")
    assert err == "nothing came back within 0 s; not ready: workers, worker.1\n"


def test_mock_say_to_a_server_without_readyz_keeps_to_its_own_matter(capsys, server, tmp_path):
    _, answers = server
    answers.extend([(200, {"replies": []}), (404, {"message": "Not Found"})])
    code, _, err = tw(capsys, "mock", "say", "5", "hi", "--wait", "0", "--data-dir", str(tmp_path))
    assert (code, err) == (0, "nothing came back within 0 s\n")


def test_url_without_a_token_says_where_to_go_instead(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        code, line = one_line(capsys, "template", "list", "5", "--url", url)
        thread.join()
    assert code == 1
    assert "without --url" in line


def test_folder_without_luau_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"no \.luau or \.lua files"):
        read_files(tmp_path)


def test_url_and_token_reach_a_server_over_tcp(capsys, monkeypatch):
    heads = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                heads.append(connection.recv(65536).decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("TW_TOKEN", "secret")
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/"
        assert tw(capsys, "template", "list", "5", "--url", url)[0] == 0
        thread.join()
    assert heads[0].startswith("GET /api/guilds/5/templates HTTP/1.1\r\n")
    assert "\r\nAuthorization: secret\r\n" in heads[0]


def test_mock_alone_takes_what_mock_say_sends(capsys, tmp_path):
    """`tw mock serve` on a free port answers `tw mock say --url`, and ends with 0 on SIGTERM."""
    command = [sys.executable, "-m", "pytw.cli", "mock", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mock:
        try:
            url = next(re.search(r"http://127\.0\.0\.1:\d+", line)[0] for line in mock.stdout if "REST" in line)
            code, out, _ = tw(capsys, "mock", "say", "123", "hi", "--wait", "0", "--json", "--url", url)
            assert code == 0
            assert json.loads(out)["sent"]["content"] == "hi"
        finally:
            mock.terminate()
        assert mock.wait(10) == 0


def test_mock_on_a_port_in_use_says_so(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, line = one_line(capsys, "mock", "serve", "--listen", address)
    assert code == 4
    assert address.rpartition(":")[2] in line


def test_migrate_brings_an_embedded_database_up_to_date_once(capsys, tmp_path):
    code, out, _ = tw(capsys, "migrate", "--data-dir", str(tmp_path))
    assert code == 0
    assert "applied 0001_initial\n" in out
    assert tw(capsys, "migrate", "--data-dir", str(tmp_path))[:2] == (0, "nothing to apply\n")


def test_migrate_of_a_database_that_is_not_there_has_its_own_code(capsys, monkeypatch):
    monkeypatch.setenv("TW_DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d")
    code, line = one_line(capsys, "migrate")
    assert code == 3
    assert "127.0.0.1:1" in line
    assert "hunter2" not in line
