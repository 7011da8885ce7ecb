"""`tw migrate [status]`, and `tw serve` on a database that it may not migrate."""

from __future__ import annotations

import pytest

from pytw.cli import main
from pytw.storage.migrate import files


def tw(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(args)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_status_tells_what_is_applied_and_ends_with_1_while_something_is_pending(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, empty_database_url: str
) -> None:
    monkeypatch.setenv("TW_DATABASE_URL", empty_database_url)
    code, out, _ = tw(capsys, "migrate", "status")
    assert code == 1
    assert out.startswith("an empty database\npending  0001_initial\n")
    assert tw(capsys, "migrate")[0] == 0
    code, out, _ = tw(capsys, "migrate", "status")
    assert (code, out.splitlines()[-1]) == (0, "up to date")
    assert out.count("applied  ") == len(files())


def test_serve_refuses_an_empty_database_with_the_command_to_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, empty_database_url: str, tmp_path
) -> None:
    monkeypatch.setenv("TW_DATABASE_URL", empty_database_url)
    config = tmp_path / "my config.yaml"
    config.write_text("log: {level: info}\n")
    args = ("--dev", "--worker-type", "threadpool", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path))
    code, _, err = tw(capsys, "serve", "--config", str(config), *args)
    assert code == 10
    assert err.splitlines()[-1].endswith(
        f"the database is empty (run `tw migrate --config '{config}'`, then this again)"
    )


def test_a_data_folder_without_a_database_has_no_status(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    code, _, err = tw(capsys, "migrate", "status", "--data-dir", str(tmp_path))
    assert code == 8
    assert f"there is no database in {tmp_path} yet" in err
    assert not list(tmp_path.iterdir())
