"""Snowflakes, and the channel ids that follow from the ids of guilds and users.

Guild and user ids stay below 2**61 (Discord's clock reaches that in 2032). The two bits above it say what a channel
belongs to, so that every channel id can be read without a table, also for guilds that nobody has mentioned yet.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

DISCORD_EPOCH_MS = 1_420_070_400_000
OWNER_ID_MAX = (1 << 61) - 1
_GUILD_CHANNEL = 1 << 62
_USER_CHANNEL = 3 << 61


def general_channel(guild_id: int) -> int:
    """The id of a guild's `general` channel."""
    return guild_id | _GUILD_CHANNEL


def dm_channel(user_id: int) -> int:
    """The id of the channel between the bot and a user."""
    return user_id | _USER_CHANNEL


def channel_guild(channel_id: int) -> int | None:
    """The guild whose `general` channel this is; None for any other channel."""
    return channel_id ^ _GUILD_CHANNEL if channel_id >> 61 == 2 else None


def channel_user(channel_id: int) -> int | None:
    """The user whose channel with the bot this is; None for any other channel."""
    return channel_id ^ _USER_CHANNEL if channel_id >> 61 == 3 else None


def plausible(owner_id: int) -> bool:
    """Whether a guild or a user may have this id."""
    return 0 < owner_id <= OWNER_ID_MAX


def token_for(bot_id: int) -> str:
    """A token as Discord makes them: the first part is the bot's id, which some clients read out of it."""
    return base64.b64encode(str(bot_id).encode()).decode().rstrip("=") + ".mock.token"


class Snowflakes:
    """Ids that grow with each call and carry the time."""

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._last = 0

    def next(self) -> int:
        made = (int(self._wall_s() * 1000) - DISCORD_EPOCH_MS) << 22
        self._last = max(made, self._last + 1)
        return self._last
