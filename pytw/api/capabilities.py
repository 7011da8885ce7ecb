"""Capabilities that host calls ask for, so that a misspelt one can be told. Source: spec/luau-api.md 8.

Templates may use names of their own with ``ctx:has_cap``; only the host's own prefixes are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final


def _actions(prefix: str, *actions: str) -> tuple[str, str]:
    """The pattern and the words of ``PREFIX:ACTION``."""
    return rf":({'|'.join(map(re.escape, actions))})", ", ".join(f"{prefix}:{action}" for action in actions)


_TEMPLATES = ("list_templates", "get_template", "create_template", "update_template", "delete_template")
_RUNTIME = ("*", "gettenantstate", "settenantstate", "stats", "links", "eventlist", "getexposedvfs", *_TEMPLATES)
_GLOBAL_KV = ("access:find", "access:get", "access:create", "access:delete")
_OBJECTS = ("list_files", "file_exists", "download_file", "get_file_url", "upload_file", "delete_file")

#: Prefix -> what may follow it, as a pattern and in words.
HOST_CAPABILITIES: Final = {
    "discord": _actions("discord", "create_message", "get_guild"),
    "runtime": _actions("runtime", *_RUNTIME),
    "kv": (
        r"(:\*|:(get|set|delete|find):.+|\[.+\]:(\*|(get|set|delete|find)(:.+)?))",
        "kv:*, kv:get:KEY, kv[SCOPE]:*, kv[SCOPE]:get, kv[SCOPE]:get:KEY; for get also set, delete, find",
    ),
    "secret": (r":(\*|[A-Za-z0-9._-]+)", "secret:*, secret:NAME"),
    "kv.meta": (r"(:list_scopes|(\[.+\])?:keys)", "kv.meta:list_scopes, kv.meta:keys, kv.meta[SCOPE]:keys"),
    "globalkv": _actions("globalkv", *_GLOBAL_KV),
    "objectstorage": _actions("objectstorage", *_OBJECTS),
}


#: What may stand behind a prefix, the end included.
_SEPARATORS: Final = ("", ":", "[", ".", "/")


def _prefix(name: str) -> str | None:
    """The host's prefix that *name* has or was meant to have; ``.`` and ``/`` are what ``:`` is mistaken for."""
    lower = name.lower()
    found = (p for p in HOST_CAPABILITIES if lower.startswith(p) and lower[len(p) : len(p) + 1] in _SEPARATORS)
    return max(found, key=len, default=None)


def capability_warnings(names: Iterable[str]) -> list[str]:
    """A sentence for each capability under a prefix of the host that no host call asks for."""
    found = []
    for name in names:
        prefix = _prefix(name)
        if prefix is not None:
            pattern, known = HOST_CAPABILITIES[prefix]
            if not re.fullmatch(re.escape(prefix) + pattern, name, re.DOTALL):
                found.append(f"no call asks for the capability {name[:64]!r}; there are {known}")
    return found
