"""`tw shop publish|list|show|review|withdraw`: the staff's side of the shop, on a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import click

from pytw.commands.control import control, quoted
from pytw.commands.placed import part, placed_command
from pytw.commands.shown import line
from pytw.commands.sources import entry_name, read_files
from pytw.commands.tenanted import GUILD, tell

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def shop() -> None:
    """What templates the shop has: publish, list, review and withdraw their versions."""


def _command(name: str, *, of_version: bool = True) -> Callable[[F], click.Command]:
    """A command of the group, with NAME VERSION in front of its arguments."""
    place = [click.Argument([argument], callback=part) for argument in ("name", "version")] if of_version else []
    return placed_command(shop, name, *place)


def _path(name: str, version: str) -> str:
    return f"/i/shop/{quoted(name)}/{quoted(version)}"


def _row(row: dict[str, Any]) -> str:
    owner = row["owner"]
    whose = owner["type"] if owner["type"] == "staff" else f"{owner['type']} {owner['id']}"
    note = f"  ({line(row['review_note'])})" if row.get("review_note") else ""
    short = f"  {line(row['short'])}" if row.get("short") else ""
    return f"$shop/{row['name']}#{row['version']}  {row['state']}{note}  {whose}{short}"


def _told(answer: dict[str, Any], what: str) -> str:
    away = f"; {answer['away']} more when their worker is back" if answer.get("away") else ""
    told = answer["tenants"] - answer["away"]
    return f"{what}; {told} {'tenant runs' if told == 1 else 'tenants run'} what follows from it{away}"


@_command("publish")
@click.argument("directory", type=click.Path(exists=True, path_type=Path), default=".", metavar="[DIR]")
@click.option("--entry", callback=entry_name, help="The module that starts it. [default: init]")
@click.option("--event", "events", multiple=True, help="An event that tenants get. [default: the keys of the entry]")
@click.option("--cap", "caps", multiple=True, help="A capability that tenants' templates get. [default: all]")
@click.option("--short", help="What it is, in a line.")
@click.option("--long", help="What it is, at length.")
@click.option("--guild", type=GUILD, help="The guild that it belongs to. [default: the staff]")
@click.option("--user", type=GUILD, help="The user that it belongs to.")
def publish(
    name: str,
    version: str,
    directory: Path,
    as_json: bool,
    entry: str | None,
    events: tuple[str, ...],
    caps: tuple[str, ...],
    short: str | None,
    long: str | None,
    guild: int | None,
    user: int | None,
    **server: Any,
) -> None:
    """Add the files of DIR (default: here) as VERSION of NAME. It waits for its review, and never changes."""
    if guild is not None and user is not None:
        raise click.UsageError("--guild and --user: it belongs to one of them")
    owner = {"type": "guild" if guild is not None else "user", "id": str(guild if guild is not None else user)}
    body = {
        "files": read_files(directory),
        "entry": entry,
        "events": list(events) or None,
        "allowed_caps": list(caps) or None,
        "short": short,
        "long": long,
        "owner": None if guild is None and user is None else owner,
    }
    given = {key: value for key, value in body.items() if value is not None}
    answer = control(**server).call("PUT", _path(name, version), given)
    listens = ", ".join(answer.get("events") or ()) or "nothing"
    tell(answer, f"$shop/{name}#{version}: published, listens for {listens}, waits for its review", as_json=as_json)


@_command("list", of_version=False)
@click.argument("name", required=False)
@click.option("--state", type=click.Choice(["pending", "approved", "denied"]), help="Only those. [default: all]")
@click.option("--limit", type=click.IntRange(1, 200), default=100, show_default=True, help="At most so many.")
@click.option("--after", help="Go on behind what the command said last.")
def list_(name: str | None, state: str | None, limit: int, after: str | None, as_json: bool, **server: Any) -> None:
    """List versions by name, the lowest first."""
    asked = {"name": name, "state": state, "limit": limit, "after": after}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    answer = control(**server).call("GET", f"/i/shop?{query}")
    tell(answer, "\n".join(_row(row) for row in answer["templates"]) or "nothing", as_json=as_json)
    if answer.get("after") and not as_json:
        click.echo(f"note: there are more: --after '{answer['after']}'", err=True)


@_command("show")
@click.option("--source", is_flag=True, help="Print the files too.")
def show(name: str, version: str, as_json: bool, source: bool, **server: Any) -> None:
    """Show one version."""
    answer = control(**server).call("GET", _path(name, version))
    files: dict[str, str] = answer.get("files") or {}
    lines = [
        _row(answer),
        f"events: {', '.join(answer['events'])}",
        f"capabilities: {', '.join(answer['allowed_caps'])}",
    ]
    lines += [answer["long"]] if answer.get("long") else []
    lines += [f"  {path}  {len(code.encode())} bytes" for path, code in files.items()]
    if source:
        lines += [f"\n-- {path}\n{code.rstrip()}" for path, code in files.items()]
    tell(answer, "\n".join(lines), as_json=as_json)


@_command("review")
@click.argument("state", type=click.Choice(["pending", "approved", "denied"]))
@click.option("--note", help="Why.")
def review(name: str, version: str, as_json: bool, state: str, note: str | None, **server: Any) -> None:
    """Approve a version, deny it, or have it wait again. Answers when every tenant that runs it has been told."""
    body = {"state": state, **({"note": note} if note else {})}
    answer = control(**server).call("PUT", _path(name, version) + "/review", body)
    tell(answer, _told(answer, f"$shop/{name}#{version}: {state}"), as_json=as_json)


@_command("withdraw")
@click.option("--note", help="Why.")
def withdraw(name: str, version: str, as_json: bool, note: str | None, **server: Any) -> None:
    """Take a version away for good. Nobody runs it any more, and there will be no other by that name."""
    answer = control(**server).call("PUT", _path(name, version) + "/withdraw", {"note": note} if note else {})
    tell(answer, _told(answer, f"$shop/{name}#{version}: withdrawn"), as_json=as_json)


__all__ = ["shop"]
