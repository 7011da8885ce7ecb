"""`Template`: a deployed template in the form that an engine takes."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgpack

from pytw.errors import LimitExceeded
from pytw.eventnames import EVERY_EVENT
from pytw.limits import Limits
from pytw.types import BUILTINS, ENTRY, LUAU_SUFFIXES, RC_FILE, TemplateSource

log = logging.getLogger(__name__)

BUILTINS_DIR = Path(__file__).parent.parent / "builtins"
SOURCE_SUFFIXES = frozenset({*LUAU_SUFFIXES, ".json"})
#: The module that the reference's host evaluates for every event.
ROOT_SCRIPT = "builtins.templateloop"

#: Hears of a tenant's template, by its name, that was left out, and why.
LeftOut = Callable[[int, str, str], None]


class Template:
    """One item of a program: name, entry, files, events, capabilities. Source: reference `Template` (spec 5.6)."""

    __slots__ = ("allowed_caps", "entry", "events", "files", "name", "paused")

    def __init__(self, source: TemplateSource) -> None:
        self.name = source.name
        self.entry = source.entry
        self.files = source.files
        self.events = sorted(source.events)
        self.allowed_caps = frozenset(source.allowed_caps)
        self.paused = source.paused

    def check_bounds(self, limits: Limits) -> None:
        """Raises: LimitExceeded: too many files, or one that is too long."""
        if len(self.files) > limits.template_files_max:
            raise LimitExceeded(
                f"template {self.name!r} has {len(self.files):,} files, "
                f"and limits.template_files_max is {limits.template_files_max:,}"
            )
        for path, text in self.files.items():
            if len(text) > limits.source_bytes_max:
                raise LimitExceeded(
                    f"{path} has {len(text):,} bytes, and limits.source_bytes_max is {limits.source_bytes_max:,}"
                )

    def item(self) -> list[object]:
        """``[name, entry, {path: source}, [event, ...], [capability, ...]]``, what `Engine.set_program` takes a list of."""
        return [self.name, self.entry, dict(self.files), self.events, sorted(self.allowed_caps)]

    def pack(self) -> bytes:
        return bytes(msgpack.packb(self.item()))


def program(items: Sequence[bytes]) -> bytes:
    """What `Engine.set_program` takes, of packed items."""
    header = bytes([0x90 | len(items)]) if len(items) < 16 else b"\xdd" + struct.pack(">I", len(items))
    return header + b"".join(items)


def runnable(
    sources: Iterable[TemplateSource], tenant: int, limits: Limits, left_out: LeftOut = lambda tenant, name, why: None
) -> list[Template]:
    """The templates that may run, in dispatch order. A bad one is left out with a line in the log; it stops no other.

    Args:
        left_out: hears which were, and why.
    """
    templates: list[Template] = []
    for source in sources:
        if source.paused:
            continue
        template = Template(source)
        why = source.left_out or _over_bounds(template, limits)
        if not why and len(templates) == limits.templates_max:
            why = f"only the first {limits.templates_max:,} templates are loaded"
        if why:
            log.warning("template %r is not loaded: %s", template.name, why, extra={"tenant": tenant})
            left_out(tenant, template.name, why)
            continue
        templates.append(template)
    return templates


def _over_bounds(template: Template, limits: Limits) -> str:
    try:
        template.check_bounds(limits)
    except LimitExceeded as error:
        return str(error)
    return ""


def read_tree(root: Path) -> dict[str, bytes]:
    """The Luau sources under *root*, by path with forward slashes."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and (path.suffix in SOURCE_SUFFIXES or path.name == RC_FILE):
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def builtins_template(files: Mapping[str, bytes]) -> Template:
    """The template ``$builtins``, which comes first for every tenant.

    A tree with the reference's root script starts there (spec luau-api 1.1), others at their ``init``.
    """
    has_root = any(f"{ROOT_SCRIPT}{suffix}" in files for suffix in LUAU_SUFFIXES)
    entry = ROOT_SCRIPT if has_root else ENTRY
    return Template(TemplateSource(name=BUILTINS, entry=entry, files=files, events=frozenset({EVERY_EVENT})))
