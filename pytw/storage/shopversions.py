"""References into the shop, ``$shop/name#version``, and the order of versions.

A version is numbers with dots between them, ``1.2.10``, and may have a pre-release behind a hyphen: ``1.9-beta.2``. The
order is total:

1. by the numbers, as numbers, from the left; one that is missing counts as 0: 1.10 > 1.9, and 1.9.1 > 1.9;
2. then one without a pre-release is above those with one: 1.9 > 1.9-rc;
3. pre-releases by their parts (between dots and hyphens): numbers as numbers and below words, words by their bytes, and
   the one with more parts above: rc > beta.10 > beta.2 > beta;
4. what is the same so far (1 and 1.0, 1.1 and 1.01) by the bytes of its text.

`position` puts this into bytes that sort so, which PostgreSQL's index does.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pytw.errors import RequestError
from pytw.limits import SHOP_NAME_BYTES_MAX, SHOP_VERSION_BYTES_MAX

PREFIX = "$shop/"
#: In place of a version: the highest approved one.
LATEST = "latest"

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{SHOP_NAME_BYTES_MAX - 1}}}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*(-[0-9A-Za-z]+([.-][0-9A-Za-z]+)*)?")

_END, _NUMBER, _WORD, _RELEASE = b"\x01", b"\x02", b"\x03", b"\xff"


class ShopRef(NamedTuple):
    """Which listing is meant; ``version`` is a version or `LATEST`."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}#{self.version}"


def shop_ref(text: str) -> ShopRef:
    """Raises: RequestError: not a reference."""
    name, hash_, version = text.removeprefix(PREFIX).partition("#")
    if not text.startswith(PREFIX) or not hash_:
        raise RequestError(
            f"not a template of the shop: {text[:80]!r}", hint=f"{PREFIX}name#version, or {PREFIX}name#{LATEST}"
        )
    return ShopRef(checked_shop_name(name), LATEST if version == LATEST else checked_version(version))


def checked_shop_name(name: str) -> str:
    """Raises: RequestError."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"not a name for the shop: {name[:80]!r}",
            hint=f"1 to {SHOP_NAME_BYTES_MAX} of letters, digits and . _ -, a letter or digit first",
        )
    return name


def checked_version(version: str) -> str:
    """Raises: RequestError."""
    if len(version) > SHOP_VERSION_BYTES_MAX or not _VERSION.fullmatch(version):
        raise RequestError(
            f"not a version: {version[:80]!r}",
            hint=f"numbers with dots between them, such as 1.2.10 or 1.9-beta.2, at most {SHOP_VERSION_BYTES_MAX} bytes",
        )
    return version


def position(version: str) -> bytes:
    """Sorts as versions do. Raises: RequestError: not a version."""
    release, _, early = checked_version(version).partition("-")
    numbers = [number.lstrip("0") for number in release.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    found = b"".join(_number(number) for number in numbers) + _END
    if not early:
        found += _RELEASE
    else:
        found += b"".join(_part(part) for part in re.split("[.-]", early)) + _END
    return found + version.encode()


def _number(digits: str) -> bytes:
    """A number without zeros in front: the longer one is the larger."""
    return _NUMBER + bytes([len(digits)]) + digits.encode()


def _part(part: str) -> bytes:
    return _number(part.lstrip("0")) if part.isdigit() else _WORD + part.encode() + b"\0"


__all__ = ["LATEST", "PREFIX", "ShopRef", "checked_shop_name", "checked_version", "position", "shop_ref"]
