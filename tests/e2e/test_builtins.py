"""What an operator is told of a built-ins tree that does not run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import POLL_S, Server, serving

BROKEN = "local t = nil\n\nlocal x = t.missing\nreturn {}\n"
FINE = "return { MESSAGE = function() return 1 end }\n"
NOTICE_S_MAX = 20.0


def notices(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.call("GET", "/healthz")[1]["notices"]
    return found


def wait_notices(server: Server) -> list[dict[str, Any]]:
    give_up_at = time.monotonic() + NOTICE_S_MAX
    while not (told := notices(server)) and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    return told


def wait_log(server: Server, text: str) -> None:
    give_up_at = time.monotonic() + NOTICE_S_MAX
    while text not in server.log:
        assert time.monotonic() < give_up_at, server.log
        time.sleep(POLL_S)


@pytest.mark.parametrize("kind", ["processpool", "threadpool"])
def test_broken_tree_ends_the_server_with_its_error_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "init.luau").write_text(BROKEN)
    server = Server("--worker-type", kind, "--builtins-dir", str(tmp_path))
    try:
        assert server.process.wait(30) == 8, server.log
        (said,) = [line for line in server.log.splitlines() if line.startswith("tw: ")]
        assert said.startswith("tw: the built-in templates do not run: ")
        assert "init.luau" in said and ":3: " in said
        assert "Traceback" not in server.log
        assert "killing it" not in server.log and "did not end in time" not in server.log
    finally:
        server.close()


def test_tree_that_breaks_later_is_told_by_healthz_and_mended_by_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "init.luau").write_text(FINE)
    pool = ("--worker-type", "processpool", "--process-workers", "1")
    with serving(*pool, "--builtins-dir", str(tmp_path)) as server:
        assert notices(server) == []
        (tmp_path / "init.luau").write_text(BROKEN)
        killed = server.workers()[0]
        os.kill(killed, signal.SIGKILL)
        told = wait_notices(server)
        assert [notice["tenant"] for notice in told] == [None]
        assert told[0]["text"].startswith("worker 0 does not start: the built-in templates do not run: ")
        (tmp_path / "init.luau").write_text(FINE)
        server.wait_ready()
        # Only the one that the test killed may have been heard of by its lost link first.
        lines = [line for line in server.log.splitlines() if "killing it" in line]
        assert [line for line in lines if f"(pid {killed})" not in line] == []


def test_tree_that_is_gone_later_is_told_by_healthz(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "init.luau").write_text(FINE)
    pool = ("--worker-type", "processpool", "--process-workers", "1")
    with serving(*pool, "--builtins-dir", str(tree)) as server:
        tree.rename(tmp_path / "away")
        os.kill(server.workers()[0], signal.SIGKILL)
        (told,) = wait_notices(server)
        assert told["text"].startswith("worker 0 does not start: ")
        (tmp_path / "away").rename(tree)
        server.wait_ready()


def test_the_banner_names_loop_mode_and_an_empty_tree(tmp_path: Path) -> None:
    pool = ("--worker-type", "threadpool", "--builtins-dir", str(tmp_path))
    with serving(*pool) as server:
        wait_log(server, f"no Luau files in {tmp_path}: there are no built-in templates")
    (tmp_path / "init.luau").write_text("return function() return 1 end\n")
    with serving(*pool) as server:
        wait_log(server, f"loop mode: the tree in {tmp_path} dispatches templates")
