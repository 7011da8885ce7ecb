"""`tw mock say` speaks through a running server's mock Discord; `tw mock serve` runs the mock alone."""

from __future__ import annotations

import json
from typing import Any

import click

from pytw import observe
from pytw.commands.control import CALL_TIMEOUT_S, Control, control, controlled
from pytw.commands.settings import configured, reading
from pytw.commands.shown import shown
from pytw.errors import RequestError, Unavailable
from pytw.limits import MOCK_WAIT_MAX_S


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def mock() -> None:
    """The mock Discord of dev mode."""


def _text(ctx: click.Context, param: click.Parameter, text: str) -> str:
    if not text:
        raise click.BadParameter("Discord has no empty messages", ctx, param)
    return text


@mock.command()
@click.argument("guild", type=click.IntRange(1, (1 << 63) - 1))
@click.argument("text", callback=_text)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, MOCK_WAIT_MAX_S),
    default=2.0,
    show_default=True,
    help="Seconds to wait for answers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was sent and what came back as JSON.")
@controlled
def say(guild: int, text: str, wait_s: float, as_json: bool, **server: Any) -> None:
    """Say TEXT in GUILD as a member would, and print what comes back."""
    way = control(**server)
    answer = way.call(
        "POST",
        "/mock/say",
        {"guild_id": str(guild), "content": text, "wait_s": wait_s},
        timeout_s=CALL_TIMEOUT_S + wait_s,
    )
    if as_json:
        click.echo(shown(json.dumps(answer, ensure_ascii=False, indent=2)))
        return
    for reply in answer.get("replies", ()):
        author = (reply.get("author") or {}).get("username") or "bot"
        click.echo(shown(f"{author}: {reply.get('content', '')}"))
    if not answer.get("replies"):
        click.echo(f"nothing came back within {wait_s:g} s{_not_ready(way)}", err=True)


def _not_ready(way: Control) -> str:
    """What keeps the server from answering, if it says so; the mock alone has no `/readyz`."""
    try:
        said = way.call("GET", "/readyz", also=(503,))
    except (RequestError, Unavailable):
        return ""
    parts = said.get("parts") if isinstance(said, dict) else None
    away = [name for name, up in (parts or {}).items() if not up]
    return f"; not ready: {', '.join(away)}" if away else ""


@mock.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:60001",
    show_default=True,
    help="Where its REST side and gateway listen.",
)
@configured
def serve(listen: str, config_file: str | None, data_dir: str | None) -> int:
    """Run the mock Discord alone: gateway and REST on one port."""
    # The flag is checked as the key is: both are HOST:PORT.
    found = reading(config_file, data_dir, addrs__template_worker=("--listen", listen))
    observe.setup_logging(found.config.log.level, json_lines=found.config.log.json)
    from pytw.config import split_address
    from pytw.main.mock import run

    host, port = split_address(listen)
    return run(host, port)
