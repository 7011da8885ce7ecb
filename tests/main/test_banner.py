"""What the banner tells a newcomer to type."""

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
