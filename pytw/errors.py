"""Every failure that crosses a room, with who should act. Codes are slugs; with the text they are all that crosses a wire."""

from __future__ import annotations

from typing import ClassVar


class PytwError(Exception):
    """Base of all our errors: ``code`` for programs, ``detail`` for people, ``hint`` for what to do next."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str, *, hint: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.detail} ({self.hint})" if self.hint else self.detail


class ScriptError(PytwError):
    """The template raised or does not compile; its author acts. The text is a traceback in Luau terms."""

    code = "script_error"


class LimitExceeded(PytwError):
    """The template wanted more than its share; its author acts."""

    code = "limit_exceeded"

    def __init__(self, detail: str, *, limit: str = "size", hint: str | None = None) -> None:
        super().__init__(detail, hint=hint)
        self.limit = limit


class RequestError(PytwError):
    """The caller sent something wrong; the caller acts."""

    code = "bad_request"
    http: ClassVar[int] = 400


class NotFound(RequestError):
    code = "not_found"
    http = 404


class Forbidden(RequestError):
    code = "forbidden"
    http = 403


class Unauthorized(RequestError):
    code = "unauthorized"
    http = 401


class Conflict(RequestError):
    code = "conflict"
    http = 409


class Unavailable(PytwError):
    """Try again later; an operator acts if it lasts."""

    code = "unavailable"


class WorkerLost(Unavailable):
    """The worker died; no answer will come, and the event may have run."""

    code = "worker_lost"


class NotReady(Unavailable):
    code = "not_ready"


class Overloaded(Unavailable):
    """A bounded queue is full."""

    code = "overloaded"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class DiscordUnavailable(Unavailable):
    code = "discord_unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


class ContentDamaged(Unavailable):
    """A stored file is not what was uploaded; the operator acts."""

    code = "content_damaged"


class ProtocolError(PytwError):
    """The peer sent bad or oversized frames; the connection is closed."""

    code = "protocol_error"


class InternalError(PytwError):
    """A bug of ours; logged with its cause."""

    code = "internal"


class ConfigError(PytwError):
    """The configuration or the machine is wrong; the operator acts.

    Ends the command with ``exit_code``: 2 is what a wrong flag ends with, 1 what a server refuses.
    """

    code = "config_error"
    exit_code: ClassVar[int] = 8


class DatabaseUnreachable(ConfigError):
    """No database answers at its address."""

    code = "database_unreachable"
    exit_code = 3


class SchemaOutdated(ConfigError):
    """The database answers, and lacks migrations."""

    code = "schema_outdated"
    exit_code = 10


class AddressInUse(ConfigError):
    """Somebody else listens there."""

    code = "address_in_use"
    exit_code = 4


class AlreadyRunning(ConfigError):
    """Another instance serves the same data."""

    code = "already_running"
    exit_code = 5


class TokenRefused(ConfigError):
    """Discord does not know the token."""

    code = "token_refused"
    exit_code = 6


class StorageRefused(ConfigError):
    """No space left, or no right to write."""

    code = "storage_refused"
    exit_code = 7


class NotRunning(ConfigError):
    """The command needs a running server, and none answers."""

    code = "not_running"
    exit_code = 9


class NotInThisVersion(ConfigError):
    """A documented command that a later version brings."""

    code = "not_in_this_version"
    exit_code = 64


def _walk(cls: type[PytwError]) -> dict[str, type[PytwError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found |= _walk(sub)
    return found


#: What a LimitExceeded's ``limit`` may be. On a wire it takes the place of the hint, where there is none.
LIMITS = frozenset({"cpu", "memory", "unbreakable", "depth", "size", "calls"})


def to_wire(error: PytwError) -> tuple[str, str, str | None]:
    """Code, detail and hint: all that crosses."""
    if isinstance(error, LimitExceeded) and not error.hint:
        return error.code, error.detail, error.limit
    return error.code, error.detail, error.hint


def from_wire(code: str, detail: str, hint: str | None = None) -> PytwError:
    """The class that *code* names; unknown codes become InternalError."""
    if code == LimitExceeded.code and hint in LIMITS:
        return LimitExceeded(detail, limit=hint)
    return _walk(PytwError).get(code, InternalError)(detail, hint=hint)
