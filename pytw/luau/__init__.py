"""Luau without a VM: which engine this is, whether sources compile, and what a reader of them notices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgpack

from pytw import _native
from pytw.types import LUAU_SUFFIXES

__all__ = ["ENGINE_VERSION", "LUAU_VERSION", "Complaint", "check", "check_files", "resolve_requires"]

LUAU_VERSION = _native.LUAU_VERSION
"""The version of Luau that scripts run on, such as ``0.740``."""
ENGINE_VERSION = LUAU_VERSION


class Complaint(NamedTuple):
    """Where a source does not compile, and why."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def check(name: str, source: str | bytes) -> list[Complaint]:
    """What is wrong with one source; empty if it compiles. Luau stops at the first error, so there is at most one.

    Takes some milliseconds for a large source, with the GIL released; bounded by ``source_bytes_max``.
    """
    found = _native.compile_check(name, source.encode() if isinstance(source, str) else source)
    return [] if found is None else [Complaint(name, *found)]


def check_files(files: Mapping[str, str]) -> list[Complaint]:
    """`check` for each Luau file of a template, in the order of their names."""
    return [
        complaint for name in sorted(files) if name.endswith(LUAU_SUFFIXES) for complaint in check(name, files[name])
    ]


def resolve_requires(files: Mapping[str, bytes], requires: Iterable[tuple[str, str]]) -> list[str | None]:
    """Why each ``(requiring file, path)`` means no file of *files* and no module of the engine; None where it does.

    Raises: ValueError: the files are no template (a path twice, a bad ``.luaurc``).
    """
    return _native.resolve_requires(msgpack.packb(dict(files)), list(requires))
