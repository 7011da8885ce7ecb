"""What signals ask of the master. Handlers only set flags and events; the master's one task acts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)


class Signals:
    """SIGTERM and SIGINT end orderly, a second one at once; SIGHUP replaces the workers.

    Args:
        at_once: called for the second signal, just before the process ends with 128 + its number.
        replace: called for SIGHUP.
    """

    def __init__(self, *, at_once: Callable[[], None], replace: Callable[[], None]) -> None:
        self.ending = asyncio.Event()
        self._at_once = at_once
        self._replace = replace
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._hup)

    def _end(self, number: signal.Signals) -> None:
        if not self.ending.is_set():
            log.info("%s: finishing what runs (once more ends at once)", number.name)
            self.ending.set()
            return
        log.warning("%s again: ending at once", number.name)
        self._at_once()
        os._exit(128 + number)

    def _hup(self) -> None:
        log.info("SIGHUP: replacing the workers one by one")
        self._replace()
