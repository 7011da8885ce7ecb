"""Numbers that come as text, in paths and queries."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from pytw.errors import RequestError

#: Of a 64-bit number; longer texts are refused unread.
_DIGITS_MAX: Final = 19


SNOWFLAKE_MAX: Final = (1 << 63) - 1


def is_number(text: str, most: int) -> bool:
    """Whether it is a whole number from 1 to *most*, given as digits."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and 1 <= int(text) <= most


def snowflake(text: str, what: str) -> int:
    """An id given as digits. Raises: RequestError."""
    if is_number(text, SNOWFLAKE_MAX):
        return int(text)
    raise RequestError(f"{what} is not an id", hint="ids are 1 to 19 digits, below 2^63")


def number(text: str, what: str, most: int) -> int:
    """A whole number from 1 to *most*, given as digits. Raises: RequestError."""
    if is_number(text, most):
        return int(text)
    raise RequestError(f"{what} must be a whole number from 1 to {most:,}")


def limit_of(request: web.Request, default: int, most: int) -> int:
    """``?limit``: how many at most. Raises: RequestError."""
    return number(request.query.get("limit", str(default)), "limit", most)


__all__ = ["SNOWFLAKE_MAX", "is_number", "limit_of", "number", "snowflake"]
