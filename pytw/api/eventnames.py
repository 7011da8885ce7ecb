"""Which names of events mean something, and what a wrong one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pytw.errors import RequestError
from pytw.eventnames import DISCORD_EVENTS, HOST_EVENTS, LOOP_EVENTS, RENAMED, WEB_PREFIX
from pytw.limits import TENANT_EVENT_BYTES_MAX


def _is_known(name: str) -> bool:
    return (
        name in DISCORD_EVENTS
        or name in HOST_EVENTS
        or name in LOOP_EVENTS
        or (name.startswith(WEB_PREFIX) and name.isprintable() and len(name.encode()) <= TENANT_EVENT_BYTES_MAX)
    )


def _near(given: str) -> list[str]:
    """The events whose names are nearest, as templates name them."""
    known = {known.upper(): known for known in (*DISCORD_EVENTS, *HOST_EVENTS, *RENAMED)}
    upper = given.upper()[:64]
    matches = [upper] if upper in known else difflib.get_close_matches(upper, known, n=2, cutoff=0.6)
    return list(dict.fromkeys(RENAMED.get(known[match], known[match]) for match in matches))


def event_name(given: str) -> str:
    """The event as templates name it.

    Raises:
        RequestError: there is no such event; with the nearest names.
    """
    name = RENAMED.get(given, given)
    if _is_known(name):
        return name
    near = _near(given)
    hint = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"a Discord event, {', '.join(sorted(HOST_EVENTS))} or {WEB_PREFIX}..."
    )
    raise RequestError(f"there is no event {given[:64]!r}", hint=hint)


def event_warnings(names: Iterable[str]) -> list[str]:
    """A sentence for each name that neither Discord nor the host sends. Such names are legal: a script may mean them."""
    found = []
    for name in sorted(set(names)):
        if name in RENAMED:
            found.append(f"{name} never comes: it is named {RENAMED[name]} here")
        elif not _is_known(name):
            near = _near(name)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            found.append(f"neither Discord nor the host sends an event {name[:64]!r}{hint}")
    return found
