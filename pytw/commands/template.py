"""`tw template put|list|show|rm|pause|resume GUILD NAME [DIR]` against a running server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pytw.commands.control import control, controlled, quoted, tenant_path
from pytw.commands.sources import entry_name, read_files
from pytw.types import LUAU_SUFFIXES

F = TypeVar("F", bound=Callable[..., Any])

_GUILD = click.IntRange(1, (1 << 63) - 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def template() -> None:
    """Put, list, show, remove, pause and resume the templates of a guild (or of a user, with --user)."""


def _command(name: str) -> Callable[[F], click.Command]:
    """A command with GUILD, --user, --json and the options that say which server."""

    def decorate(run: F) -> click.Command:
        command: Any = click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")(run)
        command = click.option("--user", is_flag=True, help="GUILD is a user's id.")(controlled(command))
        # The tenant comes first on the command line, before the arguments that the function declared.
        made = template.command(name)(click.argument("guild", type=_GUILD)(command))
        made.params.sort(key=lambda p: 0 if p.name == "guild" else 1)
        return made

    return decorate


def _name(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """What would be lost on its way, as a part of a path, is refused here; the server checks the rest."""
    if not name or not {".", ".."}.isdisjoint(name.split("/")):
        raise click.BadParameter(
            f"{name!r} is not a template name (letters, digits and . _ - $ / #; no part may be . or ..)", ctx, param
        )
    return name


def _directory(ctx: click.Context, param: click.Parameter, place: Path) -> Path:
    if place.is_file() and place.suffix not in LUAU_SUFFIXES:
        raise click.BadParameter(
            f"{place} is neither a folder nor a file that ends with {' or '.join(LUAU_SUFFIXES)}", ctx, param
        )
    return place


def _tell(answer: Any, text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False, indent=2) if as_json else text)


@_command("put")
@click.argument("name", callback=_name)
@click.argument(
    "directory", type=click.Path(exists=True, path_type=Path), default=".", metavar="[DIR]", callback=_directory
)
@click.option("--entry", callback=entry_name, help="The module that starts it. [default: init]")
@click.option(
    "--event", "events", multiple=True, help="An event to listen for. [default: the keys that the entry returns]"
)
@click.option("--cap", "caps", multiple=True, help="A capability that it may use. [default: all]")
@click.option("--message", help="What this version is about.")
@click.option("--paused", is_flag=True, help="Deploy it without running it.")
def put(
    guild: int,
    name: str,
    directory: Path,
    user: bool,
    as_json: bool,
    entry: str | None,
    events: tuple[str, ...],
    caps: tuple[str, ...],
    message: str | None,
    paused: bool,
    **server: Any,
) -> None:
    """Deploy the files of DIR (default: here) as template NAME."""
    body = {
        "files": read_files(directory),
        "entry": entry,
        "events": list(events) or None,
        "allowed_caps": list(caps) or None,
        "message": message,
        "paused": paused or None,
    }
    path = f"{tenant_path(guild, user=user)}/templates/{quoted(name)}"
    answer = control(**server).call("PUT", path, {key: value for key, value in body.items() if value is not None})
    listens = ", ".join(answer.get("events") or ()) or "nothing"
    _tell(answer, f"{name}: version {answer.get('version')} deployed, listens for {listens}", as_json=as_json)
    for warning in answer.get("warnings") or ():
        click.echo(f"warning: {warning}", err=True)
    if hint := answer.get("hint"):
        click.echo(f"note: {hint}", err=True)


@_command("list")
def list_(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """List the templates."""
    answer = control(**server).call("GET", f"{tenant_path(guild, user=user)}/templates")
    rows = answer.get("templates", answer) if isinstance(answer, dict) else answer
    text = "\n".join(_row(row) for row in rows) or "no templates"
    _tell(answer, text, as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    state = "  (paused)" if row.get("paused") else ""
    return f"{row.get('name')}  version {row.get('version')}  {', '.join(row.get('events') or ())}{state}"


@_command("show")
@click.argument("name", callback=_name)
@click.option("--source", is_flag=True, help="Print the files too.")
def show(guild: int, name: str, user: bool, as_json: bool, source: bool, **server: Any) -> None:
    """Show one template."""
    answer = control(**server).call("GET", f"{tenant_path(guild, user=user)}/templates/{quoted(name)}")
    files: dict[str, str] = answer.get("files") or {}
    text = _row(answer) + "".join(f"\n  {path}  {len(code.encode())} bytes" for path, code in files.items())
    if source:
        text += "".join(f"\n\n-- {path}\n{code.rstrip()}" for path, code in files.items())
    _tell(answer, text, as_json=as_json)


@_command("rm")
@click.argument("name", callback=_name)
def rm(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Remove one template."""
    answer = control(**server).call("DELETE", f"{tenant_path(guild, user=user)}/templates/{quoted(name)}")
    _tell(answer, f"{name}: removed", as_json=as_json)


@_command("pause")
@click.argument("name", callback=_name)
def pause(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Stop running one template; it stays deployed."""
    answer = control(**server).call("POST", f"{tenant_path(guild, user=user)}/templates/{quoted(name)}/pause")
    _tell(answer, f"{name}: paused", as_json=as_json)


@_command("resume")
@click.argument("name", callback=_name)
def resume(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Run a paused template again."""
    answer = control(**server).call("POST", f"{tenant_path(guild, user=user)}/templates/{quoted(name)}/resume")
    _tell(answer, f"{name}: runs", as_json=as_json)
