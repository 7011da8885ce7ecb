"""`tw check`: what an author should mend in a template, found without a server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pytw.api.capabilities import HOST_CAPABILITIES, capability_warnings
from pytw.api.eventnames import event_name
from pytw.commands.local import GUILD_ID, local_worker, read_template
from pytw.commands.sources import entry_name
from pytw.errors import LimitExceeded, PytwError, RequestError, ScriptError
from pytw.eventnames import EVERY_EVENT
from pytw.luau.lint import Remark, lint
from pytw.luau.tokens import tokens
from pytw.types import ENTRY, LUAU_SUFFIXES, TemplateSource

_CAPABILITY = re.compile(rf"(?:{'|'.join(map(re.escape, HOST_CAPABILITIES))})[:\[][\w*:\[\]-]+")
#: Where an error of the entry says that it is.
_PLACE = re.compile(r'(?:\[string "/?|/)(?P<file>[^"\n:]+?)(?:"\])?:(?P<line>\d+):\s*')


def _capabilities(files: Mapping[str, bytes]) -> list[Remark]:
    """Texts in the sources that look like capabilities of the host, and are none."""
    found = []
    for file in sorted(files):
        if file.endswith(LUAU_SUFFIXES):
            for word in tokens(files[file].decode("utf-8", "replace")):
                if word.kind == "string" and _CAPABILITY.fullmatch(word.text):
                    found += [Remark(file, word.line, False, text) for text in capability_warnings([word.text])]
    return found


def _as_remark(error: PytwError, entry: str) -> Remark:
    place = _PLACE.search(error.detail)
    text = error.detail.split("\n", 1)[0]
    if place is None:
        return Remark(entry, 1, True, text)
    return Remark(place["file"], int(place["line"]), True, text.replace(place[0], "", 1))


async def _events(source: TemplateSource) -> list[str]:
    async with local_worker(GUILD_ID) as local:
        return await local.events_of(source)


def _entry_file(source: TemplateSource) -> str:
    stems = (source.entry, f"{source.entry}/init")
    return next(
        (stem + suffix for stem in stems for suffix in LUAU_SUFFIXES if stem + suffix in source.files), source.entry
    )


def check_template(source: TemplateSource) -> tuple[list[Remark], list[str]]:
    """All remarks on a template, and the events that it listens for; none of these if an error keeps it from running."""
    try:
        remarks = lint(source.files)
    except ValueError as error:
        return [Remark(_entry_file(source), 1, True, str(error))], []
    remarks = sorted(remarks + _capabilities(source.files))
    if any(remark.is_error for remark in remarks):
        return remarks, []
    entry = _entry_file(source)
    try:
        events = asyncio.run(_events(source))
    except (ScriptError, LimitExceeded) as error:
        return [*remarks, _as_remark(error, entry)], []
    for event in events:
        if event == EVERY_EVENT:
            continue
        try:
            named = event_name(event)
        except RequestError as error:
            hint = f"; {error.hint}" if error.hint else ""
            remarks.append(Remark(entry, 1, False, f"{error.detail}{hint}"))
        else:
            if named != event:
                remarks.append(Remark(entry, 1, False, f"the event {event} is called {named} here"))
    return remarks, events


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(exists=True, path_type=Path), default=".", metavar="[DIR|FILE]")
@click.option("--entry", default=ENTRY, callback=entry_name, show_default=True, help="The module that starts it.")
@click.option("--cap", "caps", multiple=True, help="A capability that it will have; a misspelt one is told.")
@click.option("--json", "as_json", is_flag=True, help="Print the remarks as JSON.")
def check(path: Path, entry: str, caps: tuple[str, ...], as_json: bool) -> int:
    """Compile the files of DIR (default: here) or FILE, follow their requires, and run the entry once without a host.

    Ends with 1 if an error keeps the template from running.
    """
    left_out: list[Remark] = []
    source = read_template(
        path,
        entry=entry,
        caps=caps,
        events=frozenset({EVERY_EVENT}),
        on_left_out=lambda folder, why: left_out.append(Remark(folder, 1, False, why)),
    )
    remarks, events = check_template(source)
    remarks += left_out
    for text in capability_warnings(caps):
        remarks.append(Remark("--cap", 1, False, text))
    errors = sum(remark.is_error for remark in remarks)
    if as_json:
        body: dict[str, Any] = {"remarks": [remark._asdict() for remark in remarks], "events": events}
        click.echo(json.dumps(body, ensure_ascii=False, indent=2))
        return 1 if errors else 0
    for remark in remarks:
        click.echo(str(remark))
    listens = f", listens for {', '.join(events).replace(EVERY_EVENT, 'every event')}" if events else ""
    counts = ((len(source.files), "file"), (errors, "error"), (len(remarks) - errors, "warning"))
    click.echo(", ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts) + listens)
    return 1 if errors else 0
