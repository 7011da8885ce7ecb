"""`Operation`: all that the boundary has to know of one host call, in one place: who may, how often, how long, how much."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from pytw.limits import HOST_CALL_S, VALUE_BYTES_MAX
from pytw.worker.context.call import HostCall

#: Answers a call with the msgpack list of its results.
Handler = Callable[[HostCall], Awaitable[bytes]]


class Need(NamedTuple):
    """What a caller must hold for a call, and what it is told if it does not."""

    #: Any one of these suffices.
    capabilities: Sequence[str]
    refusal: str


class Bucket(NamedTuple):
    """Where a call is counted (spec luau-api 4.7)."""

    plugin: str
    name: str


class Operation(Struct, frozen=True, kw_only=True):
    """A host call by its rules. `VMContext` applies them in this order; the handler only does the work."""

    handler: Handler
    #: What the caller needs for this very call; None: nothing.
    need: Callable[[HostCall], Need] | None = None
    #: None: as often as it likes.
    bucket: Bucket | None = None
    #: From the call's arrival to its answer.
    timeout_s: float = HOST_CALL_S
    answer_bytes_max: int = VALUE_BYTES_MAX

    def admit(self, call: HostCall) -> None:
        """Raises: Forbidden: the caller may not. RequestError: its arguments do not even say what it wants."""
        if self.need is not None and not call.may_do_all:
            capabilities, refusal = self.need(call)
            call.require_any(capabilities, refusal)
