"""What a tenant may call an object, and how long it may be. Source: spec/luau-api.md 4.3."""

from __future__ import annotations

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX, OBJECT_URL_S_MAX


def checked_object_key(key: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    if (size := len(key.encode())) > OBJECT_KEY_BYTES_MAX:
        raise LimitExceeded(f"Path length too long ({size:,} bytes, at most {OBJECT_KEY_BYTES_MAX:,})")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise RequestError(f"not a path of an object: {key[:80]!r}: it has an empty part, . or .. between slashes")
    if not key.isprintable() or "\\" in key:
        raise RequestError(f"not a path of an object: {key[:80]!r}: backslashes and control characters are refused")
    return key


def checked_object_prefix(prefix: str) -> str:
    """The start of keys: a key, or one with a slash behind it; empty for all. Raises: RequestError, LimitExceeded."""
    if prefix:
        checked_object_key(prefix.removesuffix("/"))
    return prefix


def checked_object_data(data: bytes) -> bytes:
    """Raises: LimitExceeded."""
    if len(data) > OBJECT_BYTES_MAX:
        raise LimitExceeded(f"Data too large ({len(data):,} bytes, at most {OBJECT_BYTES_MAX:,})")
    return data


def checked_url_life(expires_s: int) -> int:
    """Raises: RequestError."""
    if not 1 <= expires_s <= OBJECT_URL_S_MAX:
        raise RequestError(f"a URL may live from 1 second to {OBJECT_URL_S_MAX // 86_400} days ({expires_s:,} s given)")
    return expires_s


__all__ = ["checked_object_data", "checked_object_key", "checked_object_prefix", "checked_url_life"]
