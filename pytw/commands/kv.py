"""`tw kv get|set|find|rm GUILD ...` against a running server. Values are JSON; ``--tagged``: as docs/values.md stores them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import click

from pytw.commands.control import control, tenant_path
from pytw.commands.inputs import STREAM, content, json_of
from pytw.commands.tenanted import tell, tenant_command
from pytw.limits import KV_FIND_ROWS_MAX, KV_VALUE_BYTES_MAX

#: A value that is longer cannot be stored, however it is written.
_INPUT_BYTES_MAX = 8 * KV_VALUE_BYTES_MAX
_FITS = f"{KV_VALUE_BYTES_MAX:,} can be stored"

_scope = click.option("--scope", "scopes", multiple=True, required=True, help="A scope of the key; may be repeated.")
_tagged = click.option("--tagged", is_flag=True, help="Tagged JSON, which keeps every type (docs/values.md).")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def kv() -> None:
    """Get, set, find and remove keys of a guild (or of a user, with --user)."""


def _path(guild: int, user: bool, what: str = "/record", **query: Any) -> str:
    asked = [(name, value) for name, value in query.items() if value is not None]
    return f"{tenant_path(guild, user=user)}/kv{what}?{urlencode(asked, doseq=True)}"


def _flag(tagged: bool) -> str | None:
    return "1" if tagged else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@tenant_command(kv, "get")
@click.argument("key")
@_scope
@_tagged
def get(guild: int, key: str, scopes: Sequence[str], tagged: bool, user: bool, as_json: bool, **server: Any) -> None:
    """Print the value of KEY. It is JSON on one line; with --json the whole record."""
    found = control(**server).call("GET", _path(guild, user, key=key, scope=scopes, tagged=_flag(tagged)))
    tell(found, _json(found["value"]), as_json=as_json)


def _moment(ctx: click.Context, param: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time like 2027-01-31T12:00:00Z", ctx, param) from None
    try:
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is too far away", ctx, param) from None


@tenant_command(kv, "set")
@click.argument("key")
@click.argument("value")
@_scope
@_tagged
@click.option("--expires-at", callback=_moment, help="When KeyExpiry comes, in UTC or with an offset.")
@click.option("--expires-in", type=click.FloatRange(0), help="The same, in seconds from now.")
@click.option("--resume", is_flag=True, help="KeyResume comes when the VM begins anew.")
@click.option(
    "--if-version", type=click.IntRange(0), help="Write only if this is the key's version; 0: if there is none."
)
def set_(
    guild: int,
    key: str,
    value: str,
    scopes: Sequence[str],
    tagged: bool,
    expires_at: datetime | None,
    expires_in: float | None,
    resume: bool,
    if_version: int | None,
    user: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Write VALUE as the value of KEY with exactly these scopes. It is JSON; - reads it from standard input."""
    if expires_in is not None:
        if expires_at is not None:
            raise click.UsageError("--expires-at and --expires-in say the same: give one of them")
        try:
            expires_at = datetime.now(UTC) + timedelta(seconds=expires_in)
        except (OverflowError, ValueError):
            raise click.UsageError("--expires-in is no time, or too far away") from None
    text = content(STREAM, _INPUT_BYTES_MAX, hint=_FITS) if value == STREAM else value
    read = json_of(text, "VALUE", hint="a text stands in quotes: '\"text\"'")
    body = {
        "key": key,
        "scopes": list(scopes),
        "value": read,
        "tagged": tagged,
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "resume": resume,
        "if_version": if_version,
    }
    said = control(**server).call("PUT", f"{tenant_path(guild, user=user)}/kv/record", body)
    tell(said, f"{key}: version {said['version']}", as_json=as_json)


@tenant_command(kv, "find")
@click.argument("pattern", default="%")
@click.option("--scope", "scopes", multiple=True, help="Only keys with this scope; may be repeated.")
@_tagged
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="At most so many.")
@click.option("--after", help="Go on behind what the command said last.")
def find(
    guild: int,
    pattern: str,
    scopes: Sequence[str],
    tagged: bool,
    limit: int,
    after: str | None,
    user: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """List the keys that match PATTERN: % is any text, _ one character."""
    call = control(**server).call
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        page = call(
            "GET",
            _path(
                guild,
                user,
                "",
                query=pattern,
                scope=scopes,
                tagged=_flag(tagged),
                limit=min(limit - len(found), KV_FIND_ROWS_MAX),
                after=after,
            ),
        )
        found += page["records"]
        after = page["after"]
        if after is None:
            break
    lines = [_row(record) for record in found] or ["no keys"]
    if after is not None:
        lines.append(f"there are more: --after {_json(after)}")
    tell({"records": found, "after": after}, "\n".join(lines), as_json=as_json)


def _row(record: dict[str, Any]) -> str:
    notes = [f"version {record['version']}"]
    if record.get("given_up"):
        notes.append(f"expired {record['expires_at']}, given up after {record['attempts']} attempts")
    elif record.get("expires_at"):
        tried = f", {record['attempts']} attempts, next {record['due_at']}" if record.get("attempts") else ""
        notes.append(f"expires {record['expires_at']}{tried}")
    if record.get("resume"):
        notes.append("resume")
    # A script chose these texts: quoted, they cannot be taken for something else.
    scopes = " ".join(map(_json, record["scopes"]))
    return f"{_json(record['key'])}  [{scopes}]  {_json(record['value'])}  ({'; '.join(notes)})  {record['id']}"


@tenant_command(kv, "rm")
@click.argument("key", required=False)
@click.option("--scope", "scopes", multiple=True, help="A scope of the key; may be repeated.")
@click.option("--id", "record_id", help="The record with this id, in place of KEY and scopes.")
def rm(
    guild: int,
    key: str | None,
    scopes: Sequence[str],
    record_id: str | None,
    user: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Remove records. Every one of KEY whose scopes contain these, or the one with --id."""
    if (record_id is None) is (key is None) or (key is not None and not scopes):
        raise click.UsageError("give either KEY with at least one --scope, or --id")
    said = control(**server).call("DELETE", _path(guild, user, key=key, scope=scopes, id=record_id))
    tell(said, f"{said['deleted']} removed", as_json=as_json)
