"""`tw template versions|diff|deploy|rollback|undelete GUILD NAME`: what was saved, and which of it runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import click

from pytw.commands.control import Control, control
from pytw.commands.shown import line
from pytw.commands.templategroup import command, deployed, named, path_of, runs
from pytw.commands.tenanted import tell
from pytw.errors import RequestError

_VERSION = click.IntRange(1, (1 << 63) - 1)


@command("versions")
@click.argument("name", callback=named)
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, newest first.")
@click.option("--before", type=_VERSION, help="Only those below this number.")
def versions(guild: int, name: str, user: bool, as_json: bool, limit: int, before: int | None, **server: Any) -> None:
    """List what was saved of one template, newest first."""
    query = f"?limit={limit}" + (f"&before={before}" if before is not None else "")
    answer = control(**server).call("GET", path_of(guild, name, user=user) + "/versions" + query)
    tell(answer, "\n".join(_row(row) for row in answer["versions"]) or "no versions", as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    if row.get("runs"):
        state = "  runs"
    elif row.get("error"):
        state = f"  broken: {row['error'].splitlines()[0]}"
    elif row.get("deployed_at"):
        state = "  ran"
    else:
        state = "  never ran"
    message = f"  {line(row['message'])}" if row.get("message") else ""
    when = str(row.get("created_at"))[:19].replace("T", " ")
    return f"{row.get('version')}  {str(row.get('digest'))[:12]}  {when}  {row.get('author') or '-'}{state}{message}"


@command("diff")
@click.argument("name", callback=named)
@click.argument("a", type=_VERSION)
@click.argument("b", type=_VERSION, required=False)
def diff(guild: int, name: str, user: bool, as_json: bool, a: int, b: int | None, **server: Any) -> None:
    """Show what changed from version A to version B. Without B: to what runs."""
    at, path = control(**server), path_of(guild, name, user=user)
    before = _files(at, f"{path}/versions/{a}")
    if b is None:
        answer = at.call("GET", path)
        if not answer.get("files"):
            raise RequestError(f"{name} runs nothing to compare with", hint="name a second version")
        after, label = _Files(answer["files"], answer.get("entry")), runs(answer)
    else:
        after, label = _files(at, f"{path}/versions/{b}"), f"version {b}"
    lines = list(_changes(before, after, f"version {a}", label))
    tell({"diff": lines}, "\n".join(lines) or "no difference", as_json=as_json)


class _Files:
    def __init__(self, files: dict[str, str], entry: str | None) -> None:
        self.files = files
        self.entry = entry


def _files(at: Control, path: str) -> _Files:
    answer = at.call("GET", path)
    return _Files(answer.get("files") or {}, answer.get("entry"))


def _changes(before: _Files, after: _Files, a: str, b: str) -> Iterator[str]:
    if before.entry != after.entry:
        yield f"entry: {before.entry} -> {after.entry}"
    for path in sorted(before.files.keys() | after.files.keys()):
        old, new = (files.files.get(path, "").splitlines() for files in (before, after))
        yield from difflib.unified_diff(old, new, f"{path} ({a})", f"{path} ({b})", lineterm="")


@command("deploy")
@click.argument("name", callback=named)
@click.argument("version", type=_VERSION)
def deploy(guild: int, name: str, user: bool, as_json: bool, version: int, **server: Any) -> None:
    """Run a saved version, with its entry and its own events."""
    answer = control(**server).call("POST", path_of(guild, name, user=user) + "/deploy", {"version": version})
    tell(answer, deployed(answer, name), as_json=as_json)


@command("rollback")
@click.argument("name", callback=named)
@click.argument("version", type=_VERSION, required=False)
def rollback(guild: int, name: str, user: bool, as_json: bool, version: int | None, **server: Any) -> None:
    """Run what ran before, or VERSION. Again and again it leads further back."""
    body = {} if version is None else {"version": version}
    answer = control(**server).call("POST", path_of(guild, name, user=user) + "/rollback", body)
    tell(answer, deployed(answer, name), as_json=as_json)


@command("undelete")
@click.argument("name", callback=named)
def undelete(guild: int, name: str, user: bool, as_json: bool, **server: Any) -> None:
    """Bring back a template that was removed, as it was."""
    answer = control(**server).call("POST", path_of(guild, name, user=user) + "/undelete", {})
    tell(answer, deployed(answer, name), as_json=as_json)
