"""Faults that the mock shows on demand, each counted down as it is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """What goes wrong next. Counts are times; 0 is never."""

    rest_429: int = 0
    retry_after_s: float = 0.2
    rest_429_global: bool = False
    rest_5xx: int = 0
    rest_5xx_status: int = 502
    acks_missing: int = 0
    identifies_refused: int = 0
    resumes_refused: int = 0
    #: The next connections end with this close code instead of an answer to IDENTIFY or RESUME.
    login_close_code: int = 0
    login_closes: int = 0

    def take(self, name: str) -> bool:
        """Whether fault *name* shows now; counts it down."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
