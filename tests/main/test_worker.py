"""A worker process by hand, as the documentation of `processpoolworker` has it."""

import os
import re
import subprocess
import sys

from pytw.main.worker import title
from tests.e2e.server import free_port, serving

HAND = ["-m", "pytw.cli", "serve", "--worker-type", "processpoolworker", "--worker-id", "0", "--process-workers", "1"]


def by_hand(address: str, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *HAND, "--mesophyll", address],
        env={**os.environ, "MESOPHYLL_CLIENT_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_title_is_found_by_the_documented_pgrep():
    assert re.search("worker-id 0", title(0, 4))


def test_wrong_token_is_one_line_and_its_own_exit_code():
    address = f"127.0.0.1:{free_port()}"
    pool = ["--worker-type", "processpool", "--process-workers", "1"]
    with serving(*pool, env={"TW_ADDRS_MESOPHYLL_SERVER": address}):
        done = by_hand(f"ws://{address}/", "wrong")
    assert done.returncode == 6
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong" not in done.stderr


def test_absent_master_is_one_line():
    done = by_hand("ws://127.0.0.1:9/", "any")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
