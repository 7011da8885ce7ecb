"""The settings as a flat list of keys, each with its name, its check and its words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from pytw.config.sections import Config
from pytw.errors import ConfigError


class Key(NamedTuple):
    """One setting: its dotted path, its type with what it accepts, and its default."""

    path: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        return "TW_" + self.path.replace(".", "_").upper()

    @property
    def rules(self) -> Meta:
        return next((m for m in get_args(self.type)[1:] if isinstance(m, Meta)), Meta())

    @property
    def secret(self) -> bool:
        return bool((self.rules.extra or {}).get("secret"))

    @property
    def later(self) -> bool:
        """Whether it has no effect in this version."""
        return bool((self.rules.extra or {}).get("later"))

    @property
    def expected(self) -> str:
        """What the key accepts, in words: for errors and for the documentation."""
        base, rules = get_args(self.type)[0], self.rules
        if text := (rules.extra or {}).get("expected"):
            return str(text)
        if get_origin(base) is Literal:
            return "one of " + ", ".join(map(str, get_args(base)))
        if get_origin(base) is list:
            return "a list of Discord ids" if get_args(base) == (int,) else "a list of texts"
        if base is bool:
            return "true or false"
        if base is int:
            return (
                f"a whole number from {rules.ge:,} to {rules.le:,}"
                if rules.le is not None
                else f"a whole number from {rules.ge:,}"
            )
        return "text"

    def check(self, value: Any, origin: str) -> Any:
        """*value* as the key's type. Raises ConfigError with origin, key and what was expected."""
        if isinstance(value, str) and get_origin(get_args(self.type)[0]) is list:
            value = [item.strip() for item in value.split(",") if item.strip()]
        try:
            return msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError:
            got = "" if self.secret else f", got {value!r:.80}"
            raise ConfigError(f"{origin}: {self.path}: expected {self.expected}{got}") from None


def keys(section: type[Struct] = Config, prefix: str = "") -> Iterator[Key]:
    """Every setting, in the order of the structs."""
    hints = get_type_hints(section, include_extras=True)
    for field in msgspec.structs.fields(section):
        path, kind = prefix + field.name, hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield from keys(kind, path + ".")
        else:
            yield Key(path, kind, field.default if field.default is not msgspec.NODEFAULT else field.default_factory())
