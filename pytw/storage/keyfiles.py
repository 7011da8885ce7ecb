"""Keys that lie in a file of the data folder: made once, readable by their owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pytw.errors import StorageRefused

KEY_BYTES = 32


def read_key_file(path: Path, *, of: str, hint: str) -> bytes:
    """The key of a file, which is made where there is none.

    Args:
        of: what it is the key of, for errors.
        hint: what to do with a file that holds no key.
    Raises: StorageRefused.
    """
    try:
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(KEY_BYTES)
            with os.fdopen(made, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(made)
    except OSError as error:
        raise StorageRefused(f"cannot keep the key of {of} in {path}: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise StorageRefused(f"{path} does not hold {KEY_BYTES} bytes", hint=hint)
    return key


__all__ = ["KEY_BYTES", "read_key_file"]
