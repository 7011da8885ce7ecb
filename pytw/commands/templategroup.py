"""`tw template`: the group that its commands join, and what they say of a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pytw.commands.control import quoted, tenant_path
from pytw.commands.tenanted import tenant_command

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def template() -> None:
    """Put, list, show, remove, pause and resume the templates of a guild (or of a user, with --user), and their versions."""


def command(name: str) -> Callable[[F], click.Command]:
    """A command of the group with GUILD, --user, --json and the options that say which server."""
    return tenant_command(template, name)


def named(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """What would be lost on its way, as a part of a path, is refused here; the server checks the rest."""
    if not name or not {".", ".."}.isdisjoint(name.split("/")):
        raise click.BadParameter(
            f"{name!r} is not a template name (letters, digits and . _ - $ / #; no part may be . or ..)", ctx, param
        )
    return name


def path_of(guild: int, name: str, *, user: bool) -> str:
    return f"{tenant_path(guild, user=user)}/templates/{quoted(name)}"


def runs(answer: dict[str, Any]) -> str:
    """What a template runs, in words."""
    if answer.get("shop_ref"):
        now = answer.get("shop_version")
        return f"{answer['shop_ref']} ({f'now {now}' if now else 'which is not approved'})"
    return f"version {answer['version']}" if answer.get("version") else "nothing, a draft"


def deployed(answer: dict[str, Any], name: str) -> str:
    """One line about an answer to a change of what runs."""
    listens = ", ".join(answer.get("events") or ()) or "nothing"
    paused = ", and is paused" if answer.get("paused") else ""
    return f"{name}: {runs(answer)} deployed, listens for {listens}{paused}"


__all__ = ["command", "deployed", "named", "path_of", "runs", "template"]
