"""`PublicReads`: what anybody may ask of the database, without a token, gets few of its connections.

Workers and operators share them: whoever asks a lot without having said who they are waits for others of the kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytw.errors import Overloaded
from pytw.limits import PUBLIC_READS_MAX, PUBLIC_READS_WAITING_MAX


class PublicReads:
    """At most `PUBLIC_READS_MAX` at once, and `PUBLIC_READS_WAITING_MAX` that wait."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(PUBLIC_READS_MAX)
        self._inside = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises: Overloaded: too many wait."""
        if self._inside >= PUBLIC_READS_MAX + PUBLIC_READS_WAITING_MAX:
            raise Overloaded("too many ask at the moment")
        self._inside += 1
        try:
            async with self._turns:
                yield
        finally:
            self._inside -= 1


__all__ = ["PublicReads"]
