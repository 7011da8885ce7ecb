"""What commands about one tenant share: GUILD first, ``--user``, ``--json``, and the options that say which server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytw.commands.placed import placed_command
from pytw.commands.shown import shown

F = TypeVar("F", bound=Callable[..., Any])

GUILD = click.IntRange(1, (1 << 63) - 1)


def tenant_command(group: click.Group, name: str) -> Callable[[F], click.Command]:
    """A command of *group*; it gets `guild, user, as_json` and what `control` takes."""

    guild = click.Argument(["guild"], type=GUILD)
    user = click.Option(["--user"], is_flag=True, help="GUILD is a user's id.")
    return placed_command(group, name, guild, user)


def tell(answer: Any, text: str, *, as_json: bool) -> None:
    """Print *text*, or the answer, and beside it what the server added for people."""
    click.echo(shown(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else text))
    if not isinstance(answer, dict):
        return
    for warning in answer.get("warnings") or ():
        click.echo(shown(f"warning: {warning}"), err=True)
    if hint := answer.get("hint"):
        click.echo(shown(f"note: {hint}"), err=True)


__all__ = ["GUILD", "tell", "tenant_command"]
