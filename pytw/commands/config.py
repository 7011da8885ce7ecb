"""`tw config show|check`."""

from __future__ import annotations

import json
from typing import Any

import click

from pytw.commands.settings import configured, reading
from pytw.config import Key, keys, without_password
from pytw.errors import ConfigError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def config() -> None:
    """Show or check the configuration."""


@config.command()
@configured
def check(config_file: str | None, data_dir: str | None) -> None:
    """Read the configuration as `tw serve` would, and say everything that is wrong with it."""
    mistakes: list[ConfigError] = []
    found = reading(config_file, data_dir, refuse=mistakes.append)
    if mistakes:
        for mistake in mistakes[:-1]:
            click.echo(f"tw: {mistake}", err=True)
        raise mistakes[-1]
    dev = found.config.dev_mode(dev=False)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(
        f"ok: {len(found.origins)} of {len(list(keys()))} settings given; " + ("dev mode" if dev else "a real bot")
    )


@config.command()
@configured
def show(config_file: str | None, data_dir: str | None) -> None:
    """Print every setting and where it came from; secrets stay hidden."""
    found = reading(config_file, data_dir)
    section = ""
    for key in keys():
        head, _, name = key.path.rpartition(".")
        if head and head != section:
            click.echo(f"{head}:")
        section = head
        value: Any = found.config
        for part in key.path.split("."):
            value = getattr(value, part)
        origin = found.origins.get(key.path)
        line = f"{'  ' if head else ''}{name}: {_shown(key, value)}"
        click.echo(f"{line}  # {origin}" if origin else line)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)


def _shown(key: Key, value: Any) -> str:
    if key.secret and value:
        return json.dumps(without_password(value)) if key.path == "meta.postgres_url" else '"(hidden)"'
    return json.dumps(value, ensure_ascii=False)
