"""Capabilities that host calls ask for, so that a misspelt one can be told. Source: spec/luau-api.md 8.

Templates may use names of their own with ``ctx:has_cap``; only the host's own prefixes are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Prefix -> what may follow it, as a pattern and in words.
HOST_CAPABILITIES: Final = {
    "discord": (r":(create_message|get_guild)", "discord:create_message, discord:get_guild"),
    "runtime": (
        r":(\*|gettenantstate|settenantstate|stats|links|eventlist|getexposedvfs)",
        "runtime:*, runtime:gettenantstate, runtime:settenantstate, runtime:stats, runtime:links, runtime:eventlist, "
        "runtime:getexposedvfs",
    ),
    "kv": (
        r"(:\*|:(get|set|delete|find):.+|\[.+\]:(\*|(get|set|delete|find)(:.+)?))",
        "kv:*, kv:get:KEY, kv[SCOPE]:*, kv[SCOPE]:get, kv[SCOPE]:get:KEY; for get also set, delete, find",
    ),
    "globalkv": (
        r":access:(find|get|create|delete)",
        "globalkv:access:find, globalkv:access:get, globalkv:access:create, globalkv:access:delete",
    ),
    "objectstorage": (
        r":(list_files|file_exists|download_file|get_file_url|upload_file|delete_file)",
        "objectstorage:list_files, objectstorage:file_exists, objectstorage:download_file, "
        "objectstorage:get_file_url, objectstorage:upload_file, objectstorage:delete_file",
    ),
    "kv.meta": (r":list_scopes", "kv.meta:list_scopes"),
}


def capability_warnings(names: Iterable[str]) -> list[str]:
    """A sentence for each capability under a prefix of the host that no host call asks for."""
    found = []
    for name in names:
        prefix = re.split(r"[:\[]", name, maxsplit=1)[0].lower()
        if prefix in HOST_CAPABILITIES:
            pattern, known = HOST_CAPABILITIES[prefix]
            if not re.fullmatch(prefix + pattern, name, re.DOTALL):
                found.append(f"no call asks for the capability {name[:64]!r}; there are {known}")
    return found
