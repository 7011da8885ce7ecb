"""Signed URLs of objects on disk: our own API serves them. (S3 signs and serves its own.)

A URL names the object and when it expires, with an HMAC over both. The key lies in the data folder, so that URLs outlive a
restart; whoever has it can read every object.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from pytw.errors import Forbidden
from pytw.storage.keyfiles import read_key_file
from pytw.types import Id, OwnerType

#: Longer numbers are refused unread.
EXPIRES_DIGITS_MAX = 12


def read_key(path: Path) -> bytes:
    """The key of a file, which is made where there is none. Raises: StorageRefused."""
    return read_key_file(path, of="object URLs", hint="remove it: URLs given out so far end")


class ObjectLinks:
    """Makes URLs below *base_url* and checks them."""

    def __init__(self, key: bytes, base_url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    def _signature(self, owner: Id, key: str, expires: int) -> str:
        text = f"GET\n{owner.owner_type.value}\n{owner.owner_id}\n{expires}\n{key}"
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()

    def url(self, owner: Id, key: str, expires_s: int) -> str:
        expires = int(self._clock()) + expires_s
        path = f"/objects/{owner.owner_type.value}s/{owner.owner_id}/{quote(key)}"
        return f"{self._base_url}{path}?expires={expires}&signature={self._signature(owner, key, expires)}"

    def check(self, owner: Id, key: str, *, expires: str, signature: str) -> None:
        """Raises: Forbidden: not a URL of ours, or its time is over."""
        readable = expires.isascii() and expires.isdigit() and len(expires) <= EXPIRES_DIGITS_MAX
        number = int(expires) if readable else 0
        # What is signed is compared before anything is told of it.
        same = hmac.compare_digest(self._signature(owner, key, number).encode(), signature.encode())
        if not same or str(number) != expires:
            raise Forbidden("the signature of this address does not fit it")
        if number < self._clock():
            raise Forbidden("this address has expired")


def owner_of(folder: str, snowflake: str) -> Id | None:
    """The tenant that a URL names; None where it names none."""
    kinds = {f"{kind.value}s": kind for kind in OwnerType}
    plain = snowflake.isascii() and snowflake.isdigit() and len(snowflake) <= 19 and int(snowflake) < 1 << 63
    return Id(kinds[folder], int(snowflake)) if folder in kinds and plain and str(int(snowflake)) == snowflake else None


__all__ = ["ObjectLinks", "owner_of", "read_key"]
