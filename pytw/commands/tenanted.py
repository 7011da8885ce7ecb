"""What commands about one tenant share: GUILD first, ``--user``, ``--json``, and the options that say which server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytw.commands.control import controlled

F = TypeVar("F", bound=Callable[..., Any])

GUILD = click.IntRange(1, (1 << 63) - 1)


def tenant_command(group: click.Group, name: str) -> Callable[[F], click.Command]:
    """A command of *group*; it gets `guild, user, as_json` and what `control` takes."""

    def decorate(run: F) -> click.Command:
        command: Any = click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(run)
        command = click.option("--user", is_flag=True, help="GUILD is a user's id.")(controlled(command))
        # The tenant comes first on the command line, before the arguments that the function declared.
        made = group.command(name)(click.argument("guild", type=GUILD)(command))
        made.params.sort(key=lambda p: 0 if p.name == "guild" else 1)
        return made

    return decorate


def tell(answer: Any, text: str, *, as_json: bool) -> None:
    """Print *text*, or the answer, and beside it what the server added for people."""
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else text)
    if not isinstance(answer, dict):
        return
    for warning in answer.get("warnings") or ():
        click.echo(f"warning: {warning}", err=True)
    if hint := answer.get("hint"):
        click.echo(f"note: {hint}", err=True)


__all__ = ["GUILD", "tell", "tenant_command"]
