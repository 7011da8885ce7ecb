"""What the banner tells a newcomer to type."""

import shlex
import subprocess
import sys
from typing import Any

import pytest

from pytw import luau
from pytw.config import Config
from pytw.main import banner
from pytw.main.topology import Topology


def shown(data_dir: str, *, mock_url: str | None = "http://127.0.0.1:1", **more: Any) -> str:
    return banner.text(
        Config(data_dir=data_dir),
        Topology(1, 2, 3),
        address="127.0.0.1:60000",
        mock_url=mock_url,
        database="somewhere",
        **more,
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


def test_another_tree_gets_no_suggestions_that_only_the_packages_own_answers(tmp_path):
    (tmp_path / "init.luau").write_text("return {}")
    text = shown("/x", builtins_dir=str(tmp_path))
    assert "!ping" not in text and " hello\n" not in text.replace("hello hello", "")
    assert "Try a template of your own." in text and "note" not in text


def test_loop_mode_is_named_and_its_templates_are_its_authors_affair(tmp_path):
    text = shown("/x", builtins_dir=str(tmp_path), loop_mode=True)
    assert f"loop mode: the tree in {tmp_path} dispatches templates" in text
    assert "template put" not in text


def test_an_empty_tree_is_told(tmp_path):
    assert f"no Luau files in {tmp_path}: there are no built-in templates" in shown("/x", builtins_dir=str(tmp_path))
