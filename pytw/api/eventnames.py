"""The events that templates can get, and those that can be fired by hand. Source: spec/luau-api.md 7, spec/discord.md 1.9."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from pytw.errors import RequestError
from pytw.types import LOOP_EVENTS


def _names() -> frozenset[str]:
    groups = {
        "APPLICATION_COMMAND_PERMISSIONS": "UPDATE",
        "AUTO_MODERATION": "RULE_CREATE RULE_UPDATE RULE_DELETE ACTION_EXECUTION",
        "CHANNEL": "CREATE UPDATE DELETE PINS_UPDATE",
        "THREAD": "CREATE UPDATE DELETE LIST_SYNC MEMBER_UPDATE MEMBERS_UPDATE",
        "ENTITLEMENT": "CREATE UPDATE DELETE",
        "GUILD": "UPDATE AUDIT_LOG_ENTRY_CREATE BAN_ADD BAN_REMOVE EMOJIS_UPDATE STICKERS_UPDATE INTEGRATIONS_UPDATE "
        "MEMBER_ADD MEMBER_REMOVE MEMBER_UPDATE MEMBERS_CHUNK ROLE_CREATE ROLE_UPDATE ROLE_DELETE "
        "SCHEDULED_EVENT_CREATE SCHEDULED_EVENT_UPDATE SCHEDULED_EVENT_DELETE SCHEDULED_EVENT_USER_ADD "
        "SCHEDULED_EVENT_USER_REMOVE SOUNDBOARD_SOUND_CREATE SOUNDBOARD_SOUND_UPDATE SOUNDBOARD_SOUND_DELETE "
        "SOUNDBOARD_SOUNDS_UPDATE",
        "SOUNDBOARD": "SOUNDS",
        "INTEGRATION": "CREATE UPDATE DELETE",
        "INTERACTION": "CREATE",
        "INVITE": "CREATE DELETE",
        "MESSAGE": "UPDATE DELETE DELETE_BULK REACTION_ADD REACTION_REMOVE REACTION_REMOVE_ALL REACTION_REMOVE_EMOJI "
        "POLL_VOTE_ADD POLL_VOTE_REMOVE",
        "PRESENCE": "UPDATE",
        "STAGE_INSTANCE": "CREATE UPDATE DELETE",
        "SUBSCRIPTION": "CREATE UPDATE DELETE",
        "TYPING": "START",
        "USER": "UPDATE",
        "VOICE": "CHANNEL_EFFECT_SEND STATE_UPDATE SERVER_UPDATE",
        "WEBHOOKS": "UPDATE",
    }
    return frozenset({"MESSAGE", *(f"{group}_{end}" for group, ends in groups.items() for end in ends.split())})


#: The 71 Discord events as templates name them.
DISCORD_EVENTS: Final = _names()
#: Those that the host makes.
HOST_EVENTS: Final = frozenset({"OnStartup", "KeyExpiry", "KeyResume"})
#: Gateway names that templates know by another name.
RENAMED: Final = {"MESSAGE_CREATE": "MESSAGE"}


def _is_known(name: str) -> bool:
    return (
        name in DISCORD_EVENTS
        or name in HOST_EVENTS
        or name in LOOP_EVENTS
        or (name.startswith("Web") and name.isprintable() and len(name) <= 100)
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
        f"did you mean {' or '.join(near)}?" if near else "a Discord event, OnStartup, KeyExpiry, KeyResume or Web..."
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
