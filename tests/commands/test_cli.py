"""`pytw.cli`: each mistake is one line on stderr with its own exit code, and every flag arrives."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from pytw import cli
from pytw.cli import _run, root
from pytw.commands import serve as serve_module
from tests.commands.lines import one_line, tw


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
        monkeypatch.setattr("pytw.main.forkserver.ForkServer.start", lambda preload: "a fork server")
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
            "--compat-ratelimits",
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
    assert config.templates.compat_ratelimits


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


def test_no_space_left_and_no_permission_have_their_own_code(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/data/x")

    monkeypatch.setattr("pytw.commands.config.reading", full)
    assert one_line(capsys, "config", "check") == (7, "tw: /data/x: No space left on device")


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
