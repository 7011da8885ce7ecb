"""`tw db dump|restore|status` on an embedded database that no server uses, and on a named one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.test_migrate import tw


def test_an_embedded_database_is_dumped_and_restored_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, two, file = str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "dump")
    assert tw(capsys, "migrate", "--data-dir", one)[0] == 0
    code, out, _ = tw(capsys, "db", "dump", file, "--data-dir", one)
    assert code == 0
    assert out.endswith(f"bytes; objects are not in it ({one}/objects)\n")
    assert tw(capsys, "db", "dump", file, "--data-dir", one)[::2] == (
        7,
        f"tw: {file} is there already (--force takes its place)\n",
    )
    code, out, _ = tw(capsys, "db", "restore", file, "--data-dir", two)
    assert (code, out) == (0, f"restored {file}; objects are not in it ({two}/objects)\n")
    code, out, _ = tw(capsys, "db", "status", "--json", "--data-dir", two)
    found = json.loads(out)
    assert found["pending"] == []
    assert found["embedded"]
    assert {table["name"]: table["rows"] for table in found["tables"]}["tenant_kv"] == 0


def test_status_of_a_named_database_hides_its_password_and_tells_what_is_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("TW_DATABASE_URL", database_url.replace("pytw@", "pytw:hunter2@"))
    code, out, err = tw(capsys, "db", "status", "--data-dir", str(tmp_path))
    assert code == 0
    assert "hunter2" not in out + err
    assert ", PostgreSQL 1" in out.splitlines()[0]
    assert "0 pending" in out
    assert out.splitlines()[-1] == f"objects are apart, and not in dumps: {tmp_path}/objects"


def test_dumps_of_a_database_that_is_not_there_have_the_code_of_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TW_DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d")
    code, _, err = tw(capsys, "db", "dump", str(tmp_path / "dump"))
    assert code == 3
    assert "hunter2" not in err
    assert not list(tmp_path.iterdir())
