"""`tw config` says what holds and everything that is wrong."""

from tests.commands.lines import tw


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


def test_config_check_names_every_mistake(capsys, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("nope: 1\nlimits: {slice_ms: x, cpu_bucket_ms: 100}\nlog: 5")
    monkeypatch.setenv("TW_LIMITS_TIMERS_MAX", "many")
    code, out, err = tw(capsys, "config", "check")
    assert (code, out) == (8, "")
    lines = err.splitlines()
    assert all(line.startswith("tw: ") for line in lines)
    for named, line in zip(("nope", "limits.slice_ms", "log", "TW_LIMITS_TIMERS_MAX"), lines, strict=True):
        assert named in line


def test_config_check_says_which_mode_it_would_be(capsys, monkeypatch):
    assert "dev mode" in tw(capsys, "config", "check")[1]
    monkeypatch.setenv("TW_DISCORD_TOKEN", "t")
    assert "a real bot" in tw(capsys, "config", "check")[1]
