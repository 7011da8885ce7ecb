"""What is known of the bot as a whole (``ctx.Runtime:stats``), asked of Discord now and then."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pytw.errors import DiscordUnavailable, Unavailable
from pytw.limits import BOT_STATS_RETRY_S, BOT_STATS_S
from pytw.worker.context.discord import Rest


class BotStats:
    """The numbers, at most `BOT_STATS_S` old where Discord answers; older ones where it does not.

    Args:
        cached: how many tenants this worker holds settings of; few are users.
    """

    def __init__(self, rest: Rest, cached: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = rest
        self._cached = cached
        self._clock = clock
        self._started_at = datetime.now(UTC)
        self._application: dict[str, Any] | None = None
        self._ask_at = -math.inf
        self._asking = asyncio.Lock()

    async def read(self) -> dict[str, Any]:
        """The map that a script gets.

        The host keeps no members: users are those who installed the bot for themselves, as Discord counts them.

        Raises: Unavailable: Discord was never reached.
        """
        application = await self._known()
        return {
            "total_cached_guilds": self._cached(),
            "total_guilds": _count(application, "approximate_guild_count"),
            "total_users": _count(application, "approximate_user_install_count"),
            "last_started_at": self._started_at,
        }

    async def _known(self) -> dict[str, Any]:
        async with self._asking:
            if self._clock() >= self._ask_at:
                try:
                    self._application = await self._rest.request("GET", "/applications/@me")
                    self._ask_at = self._clock() + BOT_STATS_S
                except Unavailable:
                    # Callers queue here: each that tried anew would wait as long as Discord takes not to answer.
                    self._ask_at = self._clock() + BOT_STATS_RETRY_S
            if self._application is None:
                raise DiscordUnavailable("Discord did not tell about the bot yet, try again in a few seconds")
            return self._application


def _count(application: dict[str, Any], name: str) -> int:
    value = application.get(name)
    return value if isinstance(value, int) else 0
