"""The options of `ctx.KV:set` and `ctx.KV:find`, and moments that a script gives as a DateTime or a TimeDelta from now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pytw import values
from pytw.errors import RequestError
from pytw.limits import KV_FIND_ROWS_MAX
from pytw.worker.context.call import HostCall

#: What the database counts versions in.
VERSION_MAX = (1 << 63) - 1


class SetOptions(NamedTuple):
    """How a key is written."""

    expires_at: datetime | None = None
    resume: bool = False
    if_version: int | None = None


class PageOptions(NamedTuple):
    """Which page of a search."""

    limit: int = KV_FIND_ROWS_MAX
    after: str | None = None


def set_options(call: HostCall, index: int) -> SetOptions:
    """A moment alone stands for ``expires_at``. Raises: RequestError."""
    given = _unpacked(call.raw(index), "options")
    if isinstance(given, datetime | values.Interval):
        return SetOptions(_moment(given, "options"))
    options = _table(given, SetOptions._fields)
    resume = options.get("resume")
    if not isinstance(resume, bool | None):
        raise RequestError("options.resume must be a boolean")
    return SetOptions(
        _moment(options.get("expires_at"), "options.expires_at"),
        bool(resume),
        _whole(options.get("if_version"), "options.if_version", 0, VERSION_MAX),
    )


def page_options(call: HostCall, index: int) -> PageOptions | None:
    """None: the call asks for no pages. Raises: RequestError."""
    given = _unpacked(call.raw(index), "options")
    if given is None:
        return None
    options = _table(given, PageOptions._fields)
    after = options.get("after")
    if not isinstance(after, str | None):
        raise RequestError("options.after must be the cursor that the page before came with")
    limit = _whole(options.get("limit"), "options.limit", 1, KV_FIND_ROWS_MAX)
    return PageOptions(KV_FIND_ROWS_MAX if limit is None else limit, after)


def moment(value: bytes, what: str) -> datetime | None:
    """A DateTime, a TimeDelta from now, or nil. Raises: RequestError."""
    return _moment(_unpacked(value, what), what)


def _unpacked(value: bytes, what: str) -> Any:
    try:
        return values.unpack(value)
    except ValueError as error:
        raise RequestError(f"{what} cannot be read: {error}") from None


def _table(given: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if given is None or given == []:
        return {}
    if type(given) is not dict:
        raise RequestError("options must be a table")
    if unknown := sorted(map(str, given.keys() - set(names))):
        raise RequestError(f"there is no option {unknown[0][:40]!r}; there are {', '.join(names)}")
    return given


def _moment(given: Any, what: str) -> datetime | None:
    if given is None or isinstance(given, datetime):
        return given
    if not isinstance(given, values.Interval):
        raise RequestError(f"{what} must be a DateTime or a TimeDelta")
    try:
        return datetime.now(UTC) + timedelta(seconds=given.seconds, microseconds=given.nanos // 1_000)
    except OverflowError:
        raise RequestError(f"{what} is too far away") from None


def _whole(given: Any, what: str, least: int, most: int) -> int | None:
    if given is None:
        return None
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float)
        or given != given // 1
        or not least <= given <= most
    ):
        raise RequestError(f"{what} must be a whole number from {least} to {most:,}")
    return int(given)


__all__ = ["PageOptions", "SetOptions", "moment", "page_options", "set_options"]
