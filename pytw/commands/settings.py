"""The options that every command shares, and the configuration that they lead to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytw.config import Reading, read
from pytw.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def configured(command: F) -> F:
    """Adds `--config` and `--data-dir`."""
    command = click.option(
        "--data-dir",
        metavar="DIR",
        help="Everything that pytw keeps on disk. [default: /var/lib/pytw, or ~/.local/share/pytw]",
    )(command)
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Configuration file. [default: config.yaml here, if there is one]",
    )(command)


def reading(
    config_file: str | None,
    data_dir: str | None,
    *,
    refuse: Callable[[ConfigError], None] | None = None,
    **flags: tuple[str, Any],
) -> Reading:
    """The configuration below these flags. *flags*: key path, dots as two underscores -> (flag, value or None).

    With *refuse*, it gets every mistake, and nothing is raised for them.
    """
    given = {path.replace("__", "."): pair for path, pair in flags.items() if pair[1] is not None}
    if data_dir is not None:
        given["data_dir"] = ("--data-dir", data_dir)
    return read(config_file, flags=given) if refuse is None else read(config_file, flags=given, refuse=refuse)
