"""Texts that strangers wrote (scripts, guilds), as a terminal may show them."""

from __future__ import annotations

import re

#: Controls, but line breaks and tabs, and what turns the direction of the text around it.
_OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def shown(text: str) -> str:
    """*text* with what a terminal would obey written out; JSON stays JSON, and the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def line(text: object) -> str:
    """*text* on one line, so that it cannot be taken for the next row of a list."""
    return " ".join(str(text).split())


__all__ = ["line", "shown"]
