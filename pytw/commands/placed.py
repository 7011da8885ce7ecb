"""What commands about one thing share: its place first, ``--json``, and the options that say which server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytw.commands.control import controlled

F = TypeVar("F", bound=Callable[..., Any])


def placed_command(group: click.Group, name: str, *place: click.Parameter) -> Callable[[F], click.Command]:
    """A command of *group* whose arguments begin with *place*; it gets them, ``as_json`` and what `control` takes."""

    def decorate(run: F) -> click.Command:
        command: Any = click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(run)
        made = group.command(name)(controlled(command))
        # In front of the arguments that the function declared.
        made.params[:0] = place
        return made

    return decorate


def part(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """A part of a path; what would be lost on its way is refused here."""
    if not text or text in (".", ".."):
        raise click.BadParameter(f"{text!r} is not a {param.name}", ctx, param)
    return text


__all__ = ["part", "placed_command"]
