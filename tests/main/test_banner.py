"""What the banner tells a newcomer to type."""

import shlex
import subprocess
import sys

import pytest

from pytw import luau
from pytw.config import Config
from pytw.main import banner
from pytw.main.topology import Topology


def shown(data_dir: str, *, mock_url: str | None = "http://127.0.0.1:1") -> str:
    return banner.text(
        Config(data_dir=data_dir), Topology(1, 2, 3), address="127.0.0.1:60000", mock_url=mock_url, database="somewhere"
    )


def test_suggested_commands_carry_the_data_folder_only_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(banner, "default_data_dir", lambda: "/default")
    assert f"mock say {banner.GUILD} hello --data-dir {tmp_path}" in shown(str(tmp_path))
    assert "--data-dir" not in shown("/default")


def test_counts_and_urls_are_named():
    text = shown("/x")
    assert "1 in-process worker and 2 worker processes, 3 gateway shards" in text
    assert "http://127.0.0.1:60000/readyz" in text


def test_real_bot_gets_no_toys():
    assert "mock" not in shown("/x", mock_url=None)


def test_the_first_template_is_made_by_the_line_as_it_stands(tmp_path):
    (line,) = [line.strip() for line in shown("/x").splitlines() if "mkdir" in line]
    for _ in range(2):
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    text = (tmp_path / "hello/init.luau").read_text()
    assert text == banner.HELLO + "\n"
    assert luau.check("init.luau", text) == []


@pytest.mark.parametrize("started", ["/x/pytw/cli.py", "/x/bin/template-worker"])
def test_commands_are_whole_where_tw_is_not_on_the_path(monkeypatch, started):
    monkeypatch.setattr(banner.shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", [started])
    assert f"  {shlex.quote(sys.executable)} -m pytw.cli mock say" in shown("/x")
    monkeypatch.setattr(sys, "argv", ["./some/bin/tw"])
    assert "  some/bin/tw mock say" in shown("/x")
