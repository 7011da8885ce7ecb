"""`tw run`: one event through a template on this machine, with all that it asked the host."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgpack
import orjson

from pytw import observe, values
from pytw.api.answers import plain
from pytw.api.capabilities import capability_warnings
from pytw.api.eventnames import event_name
from pytw.commands.local import GUILD_ID, local_worker, read_template
from pytw.commands.sources import entry_name
from pytw.errors import PytwError, RequestError
from pytw.eventnames import EVERY_EVENT
from pytw.fauxpas.mockdiscord.ids import general_channel
from pytw.types import BUILTINS, ENTRY, CreateEvent, DispatchResult, Outcome, TemplateSource
from pytw.worker.context.answers import JSON, LAZY_JSON, OPAQUE_JSON, READ_ONLY
from pytw.worker.context.call import HostCall

#: Longest text of one argument or result in the list of host calls.
SHOWN_CHARS_MAX = 200


class Trace:
    """The host calls of a run, in the order of their ends."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, call: HostCall, seconds: float, answer: bytes | PytwError) -> None:
        entry: dict[str, Any] = {
            "name": call.name,
            "arguments": [_decoded(argument) for argument in call.arguments],
            "ms": round(seconds * 1000, 3),
        }
        if isinstance(answer, PytwError):
            entry["error"] = answer.detail
        else:
            entry["results"] = _decoded(answer)
        self.calls.append(entry)


def _from_ext(kind: int, data: bytes) -> Any:
    """What only Luau makes an object of: the JSON that it is, or how long it is."""
    if kind == READ_ONLY:
        return _decoded(data)
    return orjson.loads(data) if kind in (LAZY_JSON, OPAQUE_JSON, JSON) else f"<{len(data)} bytes>"


def _decoded(packed: bytes) -> Any:
    """A value for people to read."""
    try:
        return values.unpack(packed)
    except ValueError:
        return msgpack.unpackb(packed, ext_hook=_from_ext, strict_map_key=False)


def _json(value: Any, *, indent: bool = False) -> str:
    # A table of Luau has no order: sorted, two runs can be compared.
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=plain, option=options).decode()


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."


def _stdin() -> bytes:
    # None where the shell closed it.
    if sys.stdin is None:
        raise RequestError("standard input is closed", hint="--data names a JSON file, or - for standard input")
    return sys.stdin.buffer.read()


def _payload(data: str | None, guild: int) -> bytes:
    """The event's data, which has to be JSON; an object gets the ids of the mock's guild and channel where it has none.

    Raises: RequestError.
    """
    place = "standard input" if data == "-" else data
    try:
        raw = b"{}" if data is None else _stdin() if data == "-" else Path(data).read_bytes()
        found = orjson.loads(raw)
    except OSError as error:
        raise RequestError(
            f"{place}: {error.strerror}", hint="--data names a JSON file, or - for standard input"
        ) from None
    except orjson.JSONDecodeError as error:
        raise RequestError(f"{place} is not JSON: {error}") from None
    if not isinstance(found, dict):
        return raw
    return orjson.dumps({"guild_id": str(guild), "channel_id": str(general_channel(guild))} | found)


async def run_once(
    source: TemplateSource, event: CreateEvent, guild: int, timeout_ms: int, trace: Trace
) -> tuple[DispatchResult, list[str]]:
    """What became of the event, and the events that the template listens for. Raises: ScriptError, LimitExceeded."""
    async with local_worker(guild, trace) as local:
        events = await local.events_of(source)
        await local.deploy(source)
        return await local.run(event, timeout_ms), events


def _report(result: DispatchResult, events: list[str], event: str, trace: Trace) -> str:
    lines = []
    for part in result.templates:
        if part.template == BUILTINS and part.value is None and part.error is None:
            continue
        took = f"{result.meter.wall_us / 1000:.2f} ms, {result.meter.cpu_us / 1000:.2f} ms of CPU"
        limit = f" ({part.limit})" if part.limit else ""
        lines.append(f"{event}: {part.outcome.slug}{limit} in {took}")
        lines += [f"error: {part.error}"] if part.error else [f"result: {_json(part.value, indent=True)}"]
    if not result.templates:
        lines.append(f"{event}: {result.outcome.slug}: {result.limit or 'nothing ran'}")
    if EVERY_EVENT not in events and event not in events:
        lines.append(f"note: the template has no handler for {event}; it listens for {', '.join(events)}")
    for call in trace.calls:
        end = f"error: {call['error']}" if "error" in call else _short(call["results"])
        shown = ", ".join(_short(argument) for argument in _given(call["arguments"]))
        lines.append(f"host call {call['name']}({shown}) -> {end}  [{call['ms']:.2f} ms]")
    return "\n".join(lines)


def _given(arguments: Sequence[Any]) -> Sequence[Any]:
    """Without those at the end that a script left out."""
    last = next((place for place in range(len(arguments), 0, -1) if arguments[place - 1] is not None), 0)
    return arguments[:last]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR")
@click.option("--event", default="MESSAGE", show_default=True, help="The event's name.")
@click.option(
    "--data", help="A file with the event's data as JSON; - is standard input. An object gets guild_id and channel_id."
)
@click.option("--author", help="The user id that the event is said to come from.")
@click.option("--guild", type=click.IntRange(1, (1 << 63) - 1), default=GUILD_ID, show_default=True, help="The guild.")
@click.option(
    "--entry", default=ENTRY, callback=entry_name, show_default=True, help="The module that starts the template."
)
@click.option("--cap", "caps", multiple=True, help="A capability that it may use. [default: all]")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.01, 900), default=60.0, show_default=True, help="Seconds to wait."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def run(
    path: Path,
    event: str,
    data: str | None,
    author: str | None,
    guild: int,
    entry: str,
    caps: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> int:
    """Run one event through the template of FILE or DIR: a real VM, a store in memory, a mock Discord.

    Prints the result, every host call with its answer, and how long it took. Ends with 1 unless the template ended well.
    """
    observe.setup_logging("WARNING", json_lines=False)
    logging.getLogger("template").setLevel(logging.DEBUG)
    name = event_name(event)
    source = read_template(path, entry=entry, caps=caps, events=frozenset({name}))
    for text in capability_warnings(caps):
        click.echo(f"warning: {text}", err=True)
    trace = Trace()
    happened = CreateEvent(name, _payload(data, guild), author)
    result, events = asyncio.run(run_once(source, happened, guild, int(timeout_s * 1000), trace))
    if as_json:
        body = {
            "event": name,
            "outcome": result.outcome.slug,
            "templates": [part._asdict() | {"outcome": part.outcome.slug} for part in result.templates],
            "wall_us": result.meter.wall_us,
            "cpu_us": result.meter.cpu_us,
            "host_calls": trace.calls,
        }
        click.echo(_json(body, indent=True))
    else:
        click.echo(_report(result, events, name, trace))
    return 0 if result.outcome is Outcome.OK else 1
