"""Reads a configuration: defaults, below `config.yaml`, below `TW_` variables, below flags."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pytw.config.keys import Key, keys
from pytw.config.sections import Config
from pytw.errors import ConfigError

CONFIG_FILE = "config.yaml"
SHORT_NAMES = {"TW_DATABASE_URL": "meta.postgres_url", "TW_DISCORD_TOKEN": "discord_auth.token"}
#: Variables of the command line itself: no keys, so never "unknown".
OTHER_VARIABLES = frozenset({"TW_CONFIG", "TW_URL", "TW_TOKEN"})


class Reading(NamedTuple):
    """A configuration with what `tw config show` tells of it: where each value came from, and what looked odd."""

    config: Config
    origins: Mapping[str, str]
    warnings: list[str]


def _nearest(word: str, known: list[str]) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else None


#: What becomes of a mistake: it is raised, or noted and left out.
Refuse = Callable[[ConfigError], None]


def _raise(mistake: ConfigError) -> None:
    raise mistake


def _flatten(
    tree: Any, origin: str, known: Mapping[str, Key], refuse: Refuse, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    sections = {path.rpartition(".")[0] for path in known} - {""}
    if not isinstance(tree, dict):
        refuse(ConfigError(f"{origin}: {prefix[:-1] or 'the file'}: expected keys and values, got {tree!r:.80}"))
        return
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if path in known:
            yield path, value
        elif path in sections:
            yield from _flatten({} if value is None else value, origin, known, refuse, path + ".")
        else:
            refuse(ConfigError(f"{origin}: unknown key {path}", hint=_nearest(path, [*known, *sections])))


def _read_file(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from None
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None


def read(
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    *,
    refuse: Refuse = _raise,
) -> Reading:
    """The configuration that a start would use: defaults, below the file, below `TW_` variables, below flags.

    Args:
        file: must exist; None takes `config.yaml` of the working directory where there is one.
        flags: key path -> (the flag's name, value).
        refuse: takes each mistake, where the first should not end it; what is wrong is as if it were not given.
    Raises:
        ConfigError: names file (or variable, or flag), key and what was expected.
    """
    environ = os.environ if environ is None else environ
    known = {key.path: key for key in keys()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(path: str, value: Any, origin: str) -> None:
        try:
            values[path], origins[path] = known[path].check(value, origin), origin
        except ConfigError as mistake:
            refuse(mistake)

    found = Path(file or environ.get("TW_CONFIG") or CONFIG_FILE)
    if file or environ.get("TW_CONFIG") or found.exists():
        tree = _read_file(found)
        for path, value in _flatten({} if tree is None else tree, str(found), known, refuse):
            if value is not None:
                take(path, value, str(found))
    variables = {key.variable: key.path for key in known.values()} | SHORT_NAMES
    # A short form wins over the long one: it comes later in `variables`.
    for name, path in variables.items():
        if name in environ:
            take(path, environ[name], name)
    for path, (flag, value) in (flags or {}).items():
        take(path, value, flag)
    warnings = [
        " ".join(filter(None, [f"{name} is not a setting;", _nearest(name, list(variables)) or "see `tw config show`"]))
        for name in sorted(environ)
        if name.startswith("TW_") and name not in variables and name not in OTHER_VARIABLES
    ]
    idle = [path for path, value in values.items() if known[path].later and value != known[path].default]
    if idle:
        warnings.append(f"no effect in this version: {', '.join(idle)}")
    tree = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return Reading(msgspec.convert(tree, Config), origins, warnings)


def load(file: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """`read`, for callers who only want the values."""
    return read(file, environ).config
