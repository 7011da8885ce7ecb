"""`tw globalkv list|show|publish|review|price|grant|revoke`: the staff's side of what is published, on a running server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

import click

from pytw.commands.control import control, quoted, tenant_path
from pytw.commands.inputs import content, json_of
from pytw.commands.placed import part, placed_command
from pytw.commands.shown import line
from pytw.commands.tenanted import GUILD, tell
from pytw.limits import GLOBAL_KV_DATA_BYTES_MAX, GLOBAL_KV_PRICE_MAX, GLOBAL_KV_VERSION_MAX

F = TypeVar("F", bound=Callable[..., Any])

_VERSION = click.IntRange(1, GLOBAL_KV_VERSION_MAX)
_PRICE = click.IntRange(0, GLOBAL_KV_PRICE_MAX)
#: A file that is longer holds no JSON that could be stored.
_FILE_BYTES_MAX = 8 * GLOBAL_KV_DATA_BYTES_MAX
_FITS = f"{GLOBAL_KV_DATA_BYTES_MAX:,} can be stored"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def globalkv() -> None:
    """What guilds, users and the staff publish for everybody: list, review, price and sell it."""


def _command(name: str, *, of_version: bool = True) -> Callable[[F], click.Command]:
    """A command of the group, with SCOPE KEY VERSION in front of its arguments."""
    place = [click.Argument([argument], callback=part) for argument in ("scope", "key")]
    place.append(click.Argument(["version"], type=_VERSION))
    return placed_command(globalkv, name, *place if of_version else ())


def _price(ctx: click.Context, param: click.Parameter, text: str) -> int | None:
    return None if text == "none" else int(_PRICE(text, param, ctx))


def _path(scope: str, key: str, version: int) -> str:
    return f"/i/global-kvs/{quoted(scope)}/{quoted(key)}/{version}"


def _name(row: dict[str, Any]) -> str:
    return f"{row.get('scope')} {row.get('key')} {row.get('version')}"


def _row(row: dict[str, Any]) -> str:
    owner = (
        row.get("owner_type") if row.get("owner_type") == "staff" else f"{row.get('owner_type')} {row.get('owner_id')}"
    )
    price = "" if row.get("price") is None else f"  price {row['price']}"
    return f"{_name(row)}  {row.get('review_state')}  {owner}{price}  {line(row.get('short'))}"


@_command("list", of_version=False)
@click.option(
    "--state", type=click.Choice(["pending", "approved", "denied"]), default="pending", show_default=True,
    help="The review state to list.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@click.option("--after", default="", help="Go on behind what the command said last.")
def list_(state: str, limit: int, after: str, as_json: bool, **server: Any) -> None:
    """List versions by their review state. By default: what waits for a review."""
    query = urlencode({"state": state, "limit": limit, **({"after": after} if after else {})})
    answer = control(**server).call("GET", f"/i/global-kvs?{query}")
    tell(answer, "\n".join(_row(row) for row in answer["items"]) or f"nothing is {state}", as_json=as_json)
    if answer.get("after") and not as_json:
        click.echo(f"note: there are more: --after {answer['after']!r}", err=True)


@_command("show")
def show(scope: str, key: str, version: int, as_json: bool, **server: Any) -> None:
    """Show one version, its data and its buyers. Whatever its state."""
    server_ = control(**server)
    answer = server_.call("GET", _path(scope, key, version))
    bought = server_.call("GET", _path(scope, key, version) + "/purchases")
    partial = answer["partial"]
    lines = [_row(partial), *([partial["long"]] if partial.get("long") else [])]
    lines.append(f"metadata: {json.dumps(partial.get('public_metadata'), ensure_ascii=False)}")
    lines.append(f"data: {json.dumps(answer['data'].get('data'), ensure_ascii=False)}")
    lines += [
        f"bought by {p['owner_type']} {p['owner_id']} for {p['price']}, noted by {p['granted_by']}"
        for p in bought["items"]
    ]
    if bought.get("after"):
        lines.append("and by others")
    tell({**answer, "purchases": bought["items"]}, "\n".join(lines), as_json=as_json)


@_command("publish")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--short", required=True, help="What it is, in a line.")
@click.option("--long", help="What it is, at length.")
@click.option("--metadata", help="What everybody may read of it, as JSON. [default: {}]")
@click.option("--public", is_flag=True, help="Templates may look at the data.")
@click.option("--price", type=_PRICE, help="What it costs. [default: nothing]")
@click.option("--approved", is_flag=True, help="Approve it, too.")
def publish(
    scope: str,
    key: str,
    version: int,
    data: str,
    as_json: bool,
    short: str,
    long: str | None,
    metadata: str | None,
    public: bool,
    price: int | None,
    approved: bool,
    **server: Any,
) -> None:
    """Publish a version in the name of the staff. DATA is a file of JSON, or - for standard input."""
    body = {
        "scope": scope,
        "key": key,
        "version": version,
        "short": short,
        "data": json_of(content(data, _FILE_BYTES_MAX, hint=_FITS), data),
        "long": long,
        "public_metadata": None if metadata is None else json_of(metadata, "--metadata"),
        "public_data": public or None,
        "price": price,
        "review_state": "approved" if approved else None,
    }
    sent = {name: value for name, value in body.items() if value is not None or name == "data"}
    answer = control(**server).call("POST", "/i/global-kvs", sent)
    tell(answer, f"{_name(answer)}: published, {answer['review_state']}", as_json=as_json)


@_command("review")
@click.argument("state", type=click.Choice(["approved", "denied", "pending"]))
def review(scope: str, key: str, version: int, state: str, as_json: bool, **server: Any) -> None:
    """Approve a version, deny it, or put it back. Only what is approved is seen, also by its buyers."""
    answer = control(**server).call("PUT", _path(scope, key, version) + "/review", {"state": state})
    tell(answer, f"{_name(answer)}: {state}", as_json=as_json)


@_command("price")
@click.argument("price", metavar="PRICE|none", callback=_price)
def price(scope: str, key: str, version: int, price: int | None, as_json: bool, **server: Any) -> None:
    """Set the price of what the staff has published. With `none` everybody has it."""
    answer = control(**server).call("PUT", _path(scope, key, version) + "/price", {"price": price})
    tell(answer, f"{_name(answer)}: " + ("free" if price is None else f"price {price}"), as_json=as_json)


@_command("grant")
@click.argument("guild", type=GUILD)
@click.option("--user", is_flag=True, help="GUILD is a user's id.")
@click.option("--paid", type=_PRICE, help="What was paid. [default: its price of now]")
def grant(
    scope: str, key: str, version: int, guild: int, user: bool, paid: int | None, as_json: bool, **server: Any
) -> None:
    """Note that GUILD has bought a version: its templates get the data."""
    place = f"{_path(scope, key, version)}/purchases{tenant_path(guild, user=user)}"
    answer = control(**server).call("PUT", place, None if paid is None else {"price": paid})
    tell(answer, f"{_name(answer)}: bought by {_owner(guild, user=user)} for {answer['price']}", as_json=as_json)


@_command("revoke")
@click.argument("guild", type=GUILD)
@click.option("--user", is_flag=True, help="GUILD is a user's id.")
def revoke(scope: str, key: str, version: int, guild: int, user: bool, as_json: bool, **server: Any) -> None:
    """Take back that GUILD has bought a version."""
    place = f"{_path(scope, key, version)}/purchases{tenant_path(guild, user=user)}"
    answer = control(**server).call("DELETE", place)
    tell(answer, f"{_name(answer)}: no longer bought by {_owner(guild, user=user)}", as_json=as_json)


def _owner(guild: int, *, user: bool) -> str:
    return f"{'user' if user else 'guild'} {guild}"
