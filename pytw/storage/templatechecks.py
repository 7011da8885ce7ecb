"""What may be a template: its name, files, capabilities, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import (
    TEMPLATE_CAP_BYTES_MAX,
    TEMPLATE_CAPS_MAX,
    TEMPLATE_MESSAGE_BYTES_MAX,
    TEMPLATE_NAME_BYTES_MAX,
    TEMPLATE_PATH_BYTES_MAX,
    TENANT_SOURCE_BYTES_MAX,
    Limits,
)
from pytw.storage.shopversions import PREFIX, ShopRef, shop_ref
from pytw.storage.tenants import checked_events
from pytw.types import BUILTINS, EVERY_CAPABILITY, Draft

NAME = re.compile(rf"[A-Za-z0-9._$/#-]{{1,{TEMPLATE_NAME_BYTES_MAX}}}")
_SNOWFLAKE = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a template's row says besides what runs. None: not said."""

    override: list[str] | None
    caps: list[str] | None
    error_channel: str | None
    paused: bool | None

    @property
    def caps_or_all(self) -> list[str]:
        return [EVERY_CAPABILITY] if self.caps is None else self.caps


def checked_name(name: str) -> str:
    """Raises: RequestError."""
    of_dots = any(not part.strip(".") for part in name.split("/"))
    if not NAME.fullmatch(name) or of_dots or name.startswith(BUILTINS):
        raise RequestError(
            f"not a template name: {name[:80]!r}",
            hint=f"1 to {TEMPLATE_NAME_BYTES_MAX} of letters, digits and . _ - $ / #, more than dots between slashes, "
            f"and not {BUILTINS}",
        )
    return name


def checked_files(files: Mapping[str, str], limits: Limits) -> dict[str, str]:
    """The files by path, without a slash in front.

    Raises:
        LimitExceeded: too many files, or one is too long.
        RequestError: none, or a path or source that cannot be.
    """
    if not files:
        raise RequestError("a template needs at least one file")
    if len(files) > limits.template_files_max:
        raise LimitExceeded(
            f"the template has {len(files):,} files, and limits.template_files_max is {limits.template_files_max:,}"
        )
    found: dict[str, str] = {}
    for given, source in files.items():
        path = given.removeprefix("/")
        parts = path.split("/")
        if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise RequestError(f"not a path of a template's file: {given[:80]!r}")
        if len(path.encode()) > TEMPLATE_PATH_BYTES_MAX:
            raise LimitExceeded(f"the path {path[:80]}... is longer than {TEMPLATE_PATH_BYTES_MAX} bytes")
        if path in found:
            raise RequestError(f"{path} is there twice")
        if "\0" in source:
            raise RequestError(f"{path} contains a NUL character")
        try:
            size = len(source.encode())
        except UnicodeEncodeError:
            raise RequestError(f"{path} is not UTF-8 text") from None
        if size > limits.source_bytes_max:
            raise LimitExceeded(
                f"{path} has {size:,} bytes, and limits.source_bytes_max is {limits.source_bytes_max:,}",
                hint="split it into modules",
            )
        found[path] = source
    return found


def checked_size(files: Mapping[str, str], most: int = TENANT_SOURCE_BYTES_MAX) -> int:
    """Bytes of paths and sources. Raises: LimitExceeded: no template may be as long."""
    size = sum(len(path.encode()) + len(source.encode()) for path, source in files.items())
    if size > most:
        raise LimitExceeded(f"the files have {size:,} bytes together, and {most:,} is the most")
    return size


def checked_caps(caps: Iterable[str]) -> list[str]:
    """Raises: LimitExceeded: too many or too long. RequestError: not text."""
    found = list(caps)
    if len(found) > TEMPLATE_CAPS_MAX:
        raise LimitExceeded(f"too many capabilities: {len(found)}", hint=f"{TEMPLATE_CAPS_MAX} at most")
    for cap in found:
        if "\0" in cap or len(cap.encode(errors="replace")) > TEMPLATE_CAP_BYTES_MAX:
            raise RequestError(f"not a capability: {cap[:40]!r}", hint=f"at most {TEMPLATE_CAP_BYTES_MAX} bytes")
    return found


def checked_message(message: str) -> str:
    """Raises: LimitExceeded: too long."""
    if len(message.encode(errors="replace")) > TEMPLATE_MESSAGE_BYTES_MAX:
        raise LimitExceeded(f"the message is longer than {TEMPLATE_MESSAGE_BYTES_MAX:,} bytes")
    return message


def checked_settings(draft: Draft) -> Settings:
    """Raises: RequestError, LimitExceeded."""
    channel = draft.error_channel
    if channel is not None and not _SNOWFLAKE.fullmatch(channel):
        raise RequestError(f"error_channel is not the id of a channel: {channel[:40]!r}")
    return Settings(
        override=None if draft.events_override is None else checked_events(draft.events_override),
        caps=None if draft.allowed_caps is None else checked_caps(draft.allowed_caps),
        error_channel=channel,
        paused=draft.paused,
    )


def wanted_of_shop(draft: Draft) -> ShopRef | None:
    """What a draft wants of the shop: by its own word, or by its name where it brings no files. None: nothing.

    Raises: RequestError: files and the shop at once, or what cannot be.
    """
    named = draft.name.startswith(PREFIX)
    if draft.shop is None and not (named and not draft.files):
        if named:
            raise RequestError(
                f"names that begin with {PREFIX} are for what the shop has", hint="choose another name for these files"
            )
        return None
    if draft.files:
        raise RequestError("a template has files of its own or those of the shop, not both")
    if not draft.deploy:
        raise RequestError("a template of the shop is no draft: its versions are the shop's")
    found = shop_ref(draft.shop or draft.name)
    if named and shop_ref(draft.name) != found:
        raise RequestError(f"the name {draft.name} stands for another version than {found}")
    return found


__all__ = [
    "Settings",
    "checked_caps",
    "checked_files",
    "checked_message",
    "checked_name",
    "checked_settings",
    "checked_size",
    "wanted_of_shop",
]
