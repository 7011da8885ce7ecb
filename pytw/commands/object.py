"""`tw object ls|get|put|rm|adopt GUILD ...` against a running server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from pytw.commands.control import Control, control, quoted, tenant_path
from pytw.commands.inputs import STREAM, content
from pytw.commands.tenanted import tell, tenant_command
from pytw.errors import RequestError
from pytw.limits import OBJECT_BYTES_MAX
from pytw.storage.objectkeys import checked_object_key

#: It reads and writes every file of a tenant.
ADOPT_TIMEOUT_S = 600.0


@click.group("object", context_settings={"help_option_names": ["-h", "--help"]})
def object_() -> None:
    """List, get, put, remove and take over the files of a guild (or of a user, with --user)."""


def _key(_ctx: click.Context, _param: click.Parameter, key: str) -> str:
    """What would be lost on its way, as a part of a path, is refused here."""
    return checked_object_key(key)


def _keys(_ctx: click.Context, _param: click.Parameter, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(checked_object_key(key) for key in keys)


def _place(guild: int, key: str, *, user: bool) -> str:
    return f"{tenant_path(guild, user=user)}/objects/{quoted(key)}"


@tenant_command(object_, "ls")
@click.argument("prefix", default="")
def ls(guild: int, prefix: str, user: bool, as_json: bool, **server: Any) -> None:
    """List the files whose keys begin with PREFIX, in all folders."""
    found = _listed(control(**server), f"{tenant_path(guild, user=user)}/objects", prefix)
    lines = [f"{item['size']:>9,}  {item['last_modified'][:19]}  {item['key']}" for item in found]
    tell({"objects": found}, "\n".join(lines) or "no files", as_json=as_json)


def _listed(server: Control, path: str, prefix: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        asked = {"prefix": prefix, **({"after": after} if after else {})}
        page = server.call("GET", f"{path}?{urlencode(asked)}")
        found += page["objects"]
        after = page.get("after")
        if not after:
            return found


@tenant_command(object_, "get")
@click.argument("key", callback=_key)
@click.argument("file", default=STREAM, metavar="[FILE]")
def get(guild: int, key: str, file: str, user: bool, as_json: bool, **server: Any) -> None:
    """Write the file KEY into FILE. Without FILE: to standard output, but no terminal (scripts wrote what it holds)."""
    if file == STREAM and (sys.stdout.isatty() or as_json):
        raise click.UsageError("a terminal would take its bytes for commands: name a FILE, or redirect the output")
    data = control(**server).content(_place(guild, key, user=user))
    if file == STREAM:
        sys.stdout.buffer.write(data)
        return
    try:
        Path(file).write_bytes(data)
    except OSError as error:
        raise RequestError(f"cannot write {file}: {error.strerror}") from None
    tell({"key": key, "size": len(data), "file": file}, f"{file}: {len(data):,} bytes", as_json=as_json)


@tenant_command(object_, "put")
@click.argument("key", callback=_key)
@click.argument("file", default=STREAM, metavar="[FILE]")
def put(guild: int, key: str, file: str, user: bool, as_json: bool, **server: Any) -> None:
    """Write FILE as the file KEY. Without FILE: standard input. What was there is replaced."""
    data = content(file, OBJECT_BYTES_MAX, hint="no file may be longer")
    answer = control(**server).send(_place(guild, key, user=user), data)
    tell(answer, f"{key}: {len(data):,} bytes", as_json=as_json)


@tenant_command(object_, "rm")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...", callback=_keys)
def rm(guild: int, keys: tuple[str, ...], user: bool, as_json: bool, **server: Any) -> None:
    """Remove the files."""
    running = control(**server)
    for key in keys:
        answer = running.call("DELETE", _place(guild, key, user=user))
        tell(answer, f"{key}: removed", as_json=as_json)


@tenant_command(object_, "adopt")
def adopt(guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """Take over its files from the reference's bucket.

    The bucket (antiraid.guilds or antiraid.users) stays as it is. What is here under the same key stays, too: it can be done again.
    """
    path = f"{tenant_path(guild, user=user)}/objects"
    answer = control(**server).call("POST", path, timeout_s=ADOPT_TIMEOUT_S)
    lines = [f"{answer['taken']} files taken over, {answer['here']} were here already"]
    lines += [f"left: {key}: {why}" for key, why in answer["left"].items()]
    tell(answer, "\n".join(lines), as_json=as_json)
