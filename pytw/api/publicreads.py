"""`PublicReads`: what anybody may ask for, without a token, gets a small part of the database and of the object storage.

Workers and operators share them: whoever asks a lot without having said who they are waits for others of the kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytw.errors import Overloaded
from pytw.limits import PUBLIC_READS_WAITING_MAX


class PublicReads:
    """At most *at_once* at the same time, and `PUBLIC_READS_WAITING_MAX` that wait."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._inside = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises: Overloaded: too many wait."""
        if self._inside >= self._at_once + PUBLIC_READS_WAITING_MAX:
            raise Overloaded("too many ask at the moment")
        self._inside += 1
        try:
            async with self._turns:
                yield
        finally:
            self._inside -= 1


__all__ = ["PublicReads"]
