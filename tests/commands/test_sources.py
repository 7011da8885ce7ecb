"""Which files of a folder commands take."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytw.commands.check import check
from pytw.commands.sources import read_files
from pytw.errors import RequestError
from tests.commands.lines import one_line

ENTRY = "return function() end"
NOBODY = 65_534


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "template"
    place.mkdir()
    (place / "init.luau").write_text(ENTRY)
    return place


def test_a_link_that_leads_out_is_refused(capsys, folder, tmp_path):
    (folder / "users.luau").symlink_to("/etc/passwd")
    with pytest.raises(RequestError, match=r"users\.luau: a link that leads out of"):
        read_files(folder)
    code, said = one_line(capsys, "template", "put", "5", "t", str(folder), "--data-dir", str(tmp_path))
    assert code == 1 and "a link that leads out of" in said


def test_a_link_within_and_a_linked_template_are_read(folder, tmp_path):
    (folder / "again.luau").symlink_to("init.luau")
    (tmp_path / "other").symlink_to(folder)
    assert read_files(tmp_path / "other") == {"again.luau": ENTRY, "init.luau": ENTRY}


def test_a_link_to_a_folder_is_told_and_left_out(folder, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/secret.luau").write_text("return 1")
    (folder / "lib").symlink_to(tmp_path / "lib")
    told = []
    assert list(read_files(folder, lambda *said: told.append(said))) == ["init.luau"]
    assert told == [("lib", "links to folders are not followed")]


def test_hidden_folders_are_left_out_and_aliases_are_not(folder):
    (folder / ".git").mkdir()
    (folder / ".git/x.luau").write_text("")
    (folder / ".luaurc").write_text("{}")
    assert list(read_files(folder)) == [".luaurc", "init.luau"]


def test_a_folder_that_cannot_be_read_is_a_warning():
    place = Path(tempfile.mkdtemp())
    before = os.geteuid()
    try:
        (place / "init.luau").write_text(ENTRY)
        (place / "closed").mkdir()
        (place / "closed").chmod(0)
        place.chmod(0o755)
        if before == 0:
            os.seteuid(NOBODY)
        done = CliRunner().invoke(check, [str(place)], standalone_mode=False)
    finally:
        os.seteuid(before)
        (place / "closed").chmod(0o700)
        shutil.rmtree(place)
    assert done.return_value == 0
    assert "closed:1: warning: the folder cannot be read: Permission denied" in done.output


def test_an_empty_entry_is_refused_with_words(capsys, folder):
    code, said = one_line(capsys, "check", str(folder), "--entry", "")
    assert code == 2 and "the entry is a file's path without its ending, as in init" in said
