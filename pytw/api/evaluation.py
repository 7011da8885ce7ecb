"""What becomes of a template's files before they run: compiled here, evaluated once by the worker that will run them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pytw import luau
from pytw.api.answers import failure, status_of
from pytw.api.context import ApiContext
from pytw.errors import LimitExceeded, PytwError, ScriptError
from pytw.types import ENTRY, LUAU_SUFFIXES, TemplateSource


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The events that the entry names, or why it cannot run: an error, with each complaint of the compiler."""

    events: list[str] | None = None
    error: PytwError | None = None
    complaints: list[dict[str, Any]] = field(default_factory=list)

    def refusal(self, hint: str, **more: Any) -> web.Response:
        """The answer to who wanted it to run; *hint* comes in front of the error's own."""
        assert self.error is not None
        error = self.error
        hints = "; ".join(text for text in (hint, error.hint) if text)
        if self.complaints:
            more["errors"] = self.complaints
        return failure(status_of(error), error.code, error.detail, hints, **more)


async def evaluate(
    context: ApiContext, tenant: int, name: str, files: Mapping[str, str], entry: str = ENTRY
) -> Evaluated:
    """Compile the files and evaluate the entry, on the tenant's CPU time.

    Raises: Unavailable: nobody can tell now. LimitExceeded: it is too long.
    """
    complaints = await _complaints(files)
    if complaints:
        first = complaints[0]
        text = f"{name} does not compile: {first['file']}:{first['line']}: {first['text']}"
        return Evaluated(error=ScriptError(text), complaints=complaints)
    source = TemplateSource(
        name=name, files={path: text.encode() for path, text in files.items()}, events=frozenset(), entry=entry
    )
    try:
        return Evaluated(events=await context.workers.check_template(tenant, source))
    except ScriptError as error:
        return Evaluated(error=error)
    except LimitExceeded as error:
        if error.limit == "size":
            raise
        return Evaluated(error=error)


async def _complaints(files: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for path in sorted(files):
        if path.endswith(LUAU_SUFFIXES):
            found += [{"file": c.file, "line": c.line, "text": c.text} for c in luau.check(path, files[path])]
            # Some milliseconds for a large file: events in between.
            await asyncio.sleep(0)
    return found


__all__ = ["Evaluated", "evaluate"]
