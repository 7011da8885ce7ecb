"""`tw tenant show|ban|unban GUILD` against a running server."""

from __future__ import annotations

from typing import Any

import click

from pytw.commands.control import control, tenant_path
from pytw.commands.tenanted import tell, tenant_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def tenant() -> None:
    """Show, ban and unban a guild (or a user, with --user)."""


@tenant_command(tenant, "show")
def show(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """Show its state. Whether it is banned, which events it listens for by that state, and what it keeps there."""
    answer = control(**server).call("GET", f"{tenant_path(guild, user=user)}/state")
    events = ", ".join(answer.get("events") or ()) or "nothing"
    keys = ", ".join(answer.get("data") or ()) or "none"
    banned = "banned\n" if answer.get("banned") else ""
    text = f"{banned}events: {events}\ndata keys: {keys}\nrevision: {answer.get('revision')}"
    tell(answer, text, as_json=as_json)


@tenant_command(tenant, "ban")
def ban(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """Stop everything that runs for it, and run nothing more."""
    answer = control(**server).call("PUT", f"{tenant_path(guild, user=user)}/ban")
    tell(answer, f"{guild}: banned", as_json=as_json)


@tenant_command(tenant, "unban")
def unban(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """Lift the ban."""
    answer = control(**server).call("DELETE", f"{tenant_path(guild, user=user)}/ban")
    tell(answer, f"{guild}: not banned", as_json=as_json)
