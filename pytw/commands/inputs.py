"""What commands send: a file's content or standard input's, read no further than a bound, and the JSON in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pytw.errors import RequestError

#: Standard input or output, in place of a file.
STREAM = "-"


def content(place: str, bytes_max: int, *, hint: str | None = None) -> bytes:
    """What is in a file, or on standard input for `STREAM`.

    Raises: RequestError: it cannot be read, or has more than *bytes_max*; *hint* says what fits.
    """
    name = "standard input" if place == STREAM else place
    try:
        if place == STREAM:
            data = sys.stdin.buffer.read(bytes_max + 1)
        else:
            with Path(place).open("rb") as file:
                data = file.read(bytes_max + 1)
    except OSError as error:
        raise RequestError(f"cannot read {name}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise RequestError(f"{name} has more than {bytes_max:,} bytes", hint=hint)
    return data


def json_of(text: str | bytes, where: str, *, hint: str | None = None) -> Any:
    """Raises: RequestError: it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not JSON: {error}", hint=hint) from None


__all__ = ["STREAM", "content", "json_of"]
