"""`Repeats`: lines that a tenant writes again and again become a few and a count."""

from __future__ import annotations

import logging

#: So many lines of the same words within a round are written as they are, each with its request.
SAME_LINES_MAX = 5
LINES_REMEMBERED_MAX = 10_000


class Repeats:
    """Writes lines to a log. Rounds end with `flush`, which the worker calls about once a second."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._times: dict[tuple[int, int, str], int] = {}

    def write(self, level: int, text: str, tenant: int, request: str) -> None:
        """Write the line, or count it if it was written `SAME_LINES_MAX` times in this round."""
        line = (tenant, level, text)
        times = self._times.get(line, 0) + 1
        if times > 1 or len(self._times) < LINES_REMEMBERED_MAX:
            self._times[line] = times
        if times <= SAME_LINES_MAX:
            self._log.log(level, "%s", text, extra={"tenant": tenant, "request": request})

    def flush(self) -> None:
        """Say how often the lines came that were only counted, and start anew."""
        ended, self._times = self._times, {}
        for (tenant, level, text), times in ended.items():
            if times > SAME_LINES_MAX:
                self._log.log(level, "%s (repeated %d times)", text, times - SAME_LINES_MAX, extra={"tenant": tenant})


__all__ = ["Repeats"]
