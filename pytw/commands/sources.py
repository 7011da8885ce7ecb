"""The files of a template on this machine, as commands take them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from pytw.errors import RequestError
from pytw.types import ENTRY, LUAU_SUFFIXES, RC_FILE

#: Hears of a folder, by its path inside the template, that was left out, and why.
OnLeftOut = Callable[[str, str], None]


def entry_name(ctx: click.Context, param: click.Parameter, entry: str | None) -> str | None:
    """Refuses a name that no file can have."""
    if entry is not None and not entry.strip():
        raise click.BadParameter(f"the entry is a file's path without its ending, as in {ENTRY}", ctx, param)
    return entry


def warn_left_out(folder: str, why: str) -> None:
    """Tells of a folder on standard error."""
    click.echo(f"warning: {folder}: {why}", err=True)


def read_files(place: Path, on_left_out: OnLeftOut = warn_left_out) -> dict[str, str]:
    """The Luau files under *place*, by their path inside it; one file alone becomes the entry.

    Raises:
        RequestError: there is nothing to deploy, or a link leads out of *place*. A folder of somebody else's making
            must not take files along that its user never meant to send.
    """
    if place.is_file():
        return {ENTRY + (place.suffix or LUAU_SUFFIXES[0]): _text(place)}
    root = place.resolve()
    files = {}
    for path in sorted(_walk(place, on_left_out)):
        inside = path.relative_to(place)
        if (path.suffix in LUAU_SUFFIXES or path.name == RC_FILE) and path.is_file():
            if not path.resolve().is_relative_to(root):
                raise RequestError(f"{path}: a link that leads out of {place}", hint="put the file itself there")
            files[str(inside)] = _text(path)
    if not any(path.endswith(LUAU_SUFFIXES) for path in files):
        raise RequestError(f"{place}: no {' or '.join(LUAU_SUFFIXES)} files", hint="a template starts at init.luau")
    return files


def _walk(place: Path, on_left_out: OnLeftOut) -> Iterator[Path]:
    """All that is not hidden."""

    def unreadable(error: OSError) -> None:
        on_left_out(os.path.relpath(error.filename, place), f"the folder cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(place, onerror=unreadable):
        for name in list(folders):
            if name.startswith("."):
                folders.remove(name)
            elif os.path.islink(os.path.join(folder, name)):
                on_left_out(os.path.relpath(os.path.join(folder, name), place), "links to folders are not followed")
        yield from (Path(folder, name) for name in names if not name.startswith(".") or name == RC_FILE)


def _text(path: Path) -> str:
    try:
        # Editors may write a byte order mark, which Luau does not know.
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(f"{path}: not UTF-8 text") from None
