"""What a tenant may call an object, how long it may be, and what follows from its key. Source: spec/luau-api.md 4.3."""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import quote

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import OBJECT_BYTES_MAX, OBJECT_KEY_BYTES_MAX, OBJECT_URL_S_MAX
from pytw.types import Id

#: What a path keeps of its key.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}\Z")
_BLOB_NAME = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,10})?(\.new)?")
#: Of a key, in `disposition`; S3 keeps headers of 2 KB.
FILE_NAME_CHARACTERS_MAX: Final = 100
#: What may be told of a script's bytes: nothing of it runs in a browser.
CONTENT_TYPES: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".txt": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".zip": "application/zip",
}


def folder_of(owner: Id) -> str:
    """Where all blobs of a tenant lie, side by side."""
    return f"{owner.owner_type.value}s/{owner.owner_id}"


def blob_path(owner: Id, key: str) -> str:
    """Where the object of a key lies: short and harmless on every back end, whatever the key is."""
    return f"{folder_of(owner)}/{hashlib.sha256(key.encode()).hexdigest()}{_suffix(key)}"


def is_blob_name(name: str) -> bool:
    """Whether a name in a tenant's folder is one of `blob_path`, or of a write beside it."""
    return _BLOB_NAME.fullmatch(name) is not None


def _suffix(key: str) -> str:
    found = _SUFFIX.search(key)
    return found[0].lower() if found else ""


def content_type(key: str) -> str:
    """By the end of the key; of bytes where that says nothing, or too much."""
    return CONTENT_TYPES.get(_suffix(key), "application/octet-stream")


def disposition(key: str) -> str:
    """For saving under the last part of the key."""
    name = key.rpartition("/")[2][-FILE_NAME_CHARACTERS_MAX:]
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def checked_object_key(key: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise RequestError("not a path of an object: it is not text") from None
    if size > OBJECT_KEY_BYTES_MAX:
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


__all__ = [
    "blob_path",
    "checked_object_data",
    "checked_object_key",
    "checked_object_prefix",
    "checked_url_life",
    "content_type",
    "disposition",
    "folder_of",
    "is_blob_name",
]
