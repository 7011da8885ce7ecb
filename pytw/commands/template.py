"""`tw template put|list|show|rm|pause|resume GUILD NAME [DIR]` against a running server; `templateversions` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pytw.commands import templateversions  # noqa: F401 - its commands join the group
from pytw.commands.control import control, tenant_path
from pytw.commands.sources import entry_name, read_files
from pytw.commands.templategroup import command, deployed, named, path_of, runs, template
from pytw.commands.tenanted import tell
from pytw.types import LUAU_SUFFIXES


def _directory(ctx: click.Context, param: click.Parameter, place: Path) -> Path:
    if place.is_file() and place.suffix not in LUAU_SUFFIXES:
        raise click.BadParameter(
            f"{place} is neither a folder nor a file that ends with {' or '.join(LUAU_SUFFIXES)}", ctx, param
        )
    return place


@command("put")
@click.argument("name", callback=named)
@click.argument(
    "directory", type=click.Path(exists=True, path_type=Path), default=".", metavar="[DIR]", callback=_directory
)
@click.option("--shop", metavar="$shop/NAME#VERSION", help="Run what the shop has, in place of DIR; VERSION or latest.")
@click.option("--entry", callback=entry_name, help="The module that starts it. [default: init]")
@click.option(
    "--event", "events", multiple=True, help="An event to listen for. [default: the keys that the entry returns]"
)
@click.option(
    "--cap", "caps", multiple=True, help="A capability that it may use. [default: all, or what the shop says]"
)
@click.option("--message", help="What this version is about.")
@click.option("--paused", is_flag=True, help="Deploy it without running it.")
@click.option("--draft", is_flag=True, help="Save a version; what runs stays.")
def put(
    guild: int,
    name: str,
    directory: Path,
    user: bool,
    as_json: bool,
    shop: str | None,
    entry: str | None,
    events: tuple[str, ...],
    caps: tuple[str, ...],
    message: str | None,
    paused: bool,
    draft: bool,
    **server: Any,
) -> None:
    """Deploy the files of DIR (default: here) as template NAME."""
    body = {
        "files": None if shop else read_files(directory),
        "shop": shop,
        "entry": entry,
        "events": list(events) or None,
        "allowed_caps": list(caps) or None,
        "message": message,
        "paused": paused or None,
        "deploy": False if draft else None,
    }
    answer = control(**server).call(
        "PUT", path_of(guild, name, user=user), {key: value for key, value in body.items() if value is not None}
    )
    text = f"{name}: version {answer.get('version')} saved as a draft" if draft else deployed(answer, name)
    tell(answer, text, as_json=as_json)


@command("list")
def list_(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """List the templates."""
    answer = control(**server).call("GET", f"{tenant_path(guild, user=user)}/templates")
    rows = answer.get("templates", answer) if isinstance(answer, dict) else answer
    text = "\n".join(_row(row) for row in rows) or "no templates"
    tell(answer, text, as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    state = "  (paused)" if row.get("paused") else ""
    return f"{row.get('name')}  {runs(row)}  {', '.join(row.get('events') or ())}{state}"


@command("show")
@click.argument("name", callback=named)
@click.option("--source", is_flag=True, help="Print the files too.")
def show(guild: int, name: str, user: bool, as_json: bool, source: bool, **server: Any) -> None:
    """Show one template."""
    answer = control(**server).call("GET", path_of(guild, name, user=user))
    files: dict[str, str] = answer.get("files") or {}
    text = _row(answer) + "".join(f"\n  {path}  {len(code.encode())} bytes" for path, code in files.items())
    if source:
        text += "".join(f"\n\n-- {path}\n{code.rstrip()}" for path, code in files.items())
    tell(answer, text, as_json=as_json)


@command("rm")
@click.argument("name", callback=named)
def rm(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Remove one template; `undelete` brings it back."""
    answer = control(**server).call("DELETE", path_of(guild, name, user=user))
    tell(answer, f"{name}: removed", as_json=as_json)


@command("pause")
@click.argument("name", callback=named)
def pause(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Stop running one template; it stays deployed."""
    answer = control(**server).call("POST", path_of(guild, name, user=user) + "/pause")
    tell(answer, f"{name}: paused", as_json=as_json)


@command("resume")
@click.argument("name", callback=named)
def resume(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Run a paused template again."""
    answer = control(**server).call("POST", path_of(guild, name, user=user) + "/resume")
    tell(answer, f"{name}: runs", as_json=as_json)


__all__ = ["template"]
