"""`tw secret set|ls|rm GUILD TEMPLATE [NAME]` against a running server.

The value comes from standard input or a prompt: arguments are in everybody's list of processes.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from pytw.commands.control import control, quoted, tenant_path
from pytw.commands.tenanted import tell, tenant_command
from pytw.limits import SECRET_BYTES_MAX


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def secret() -> None:
    """Set, list and remove secrets of a guild's template (or a user's, with --user). Nothing shows them again."""


def _path(guild: int, template: str, *, user: bool) -> str:
    return f"{tenant_path(guild, user=user)}/templates/{quoted(template)}/secrets"


@tenant_command(secret, "set")
@click.argument("template")
@click.argument("name")
def set_(guild: int, template: str, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Set secret NAME of TEMPLATE.

    The value comes from standard input (one line break at its end is not part of it) or a prompt.
    """
    value = _value(name)
    answer = control(**server).call("PUT", f"{_path(guild, template, user=user)}/{quoted(name)}", {"value": value})
    tell(answer, f"{template}: secret {name} is set", as_json=as_json)


def _value(name: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {name}", hide_input=True))
    bytes_max = SECRET_BYTES_MAX + len("\r\n")
    raw = sys.stdin.buffer.read(bytes_max + 1)
    if len(raw) > bytes_max:
        raise click.UsageError(
            f"the value on standard input is longer than a secret may be ({SECRET_BYTES_MAX:,} bytes)"
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value on standard input is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")


@tenant_command(secret, "ls")
@click.argument("template")
def ls(guild: int, template: str, user: bool, as_json: bool, **server: Any) -> None:
    """List the names of TEMPLATE's secrets."""
    answer = control(**server).call("GET", _path(guild, template, user=user))
    tell(answer, "\n".join(map(_row, answer.get("secrets") or ())) or "no secrets", as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    lost = "" if row.get("readable") else "  (encrypted with a key that this server does not have)"
    return f"{row.get('name')}  set {row.get('set_at')}{lost}"


@tenant_command(secret, "rm")
@click.argument("template")
@click.argument("name")
def rm(guild: int, template: str, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Remove secret NAME of TEMPLATE."""
    answer = control(**server).call("DELETE", f"{_path(guild, template, user=user)}/{quoted(name)}")
    tell(answer, f"{template}: secret {name} is gone", as_json=as_json)
