"""Which intent an event needs before a session gets it (spec/discord.md 1.4)."""

from __future__ import annotations

GUILDS = 1 << 0
GUILD_MESSAGES = 1 << 9
DIRECT_MESSAGES = 1 << 12
KNOWN = 53_608_447

#: The first match by prefix wins: longer names stand before shorter ones. The second bit is for events outside guilds.
_BY_PREFIX: tuple[tuple[str, int, int], ...] = (
    ("MESSAGE_REACTION_", 1 << 10, 1 << 13),
    ("MESSAGE_POLL_VOTE_", 1 << 24, 1 << 25),
    ("MESSAGE_", GUILD_MESSAGES, DIRECT_MESSAGES),
    ("TYPING_START", 1 << 11, 1 << 14),
    ("CHANNEL_PINS_UPDATE", GUILDS, DIRECT_MESSAGES),
    ("GUILD_MEMBERS_CHUNK", 0, 0),
    ("GUILD_MEMBER_", 1 << 1, 0),
    ("THREAD_MEMBERS_UPDATE", GUILDS, 0),
    ("GUILD_AUDIT_LOG_ENTRY_CREATE", 1 << 2, 0),
    ("GUILD_BAN_", 1 << 2, 0),
    ("GUILD_EMOJIS_UPDATE", 1 << 3, 0),
    ("GUILD_STICKERS_UPDATE", 1 << 3, 0),
    ("GUILD_SOUNDBOARD_SOUND", 1 << 3, 0),
    ("GUILD_INTEGRATIONS_UPDATE", 1 << 4, 0),
    ("INTEGRATION_", 1 << 4, 0),
    ("WEBHOOKS_UPDATE", 1 << 5, 0),
    ("INVITE_", 1 << 6, 0),
    ("VOICE_STATE_UPDATE", 1 << 7, 0),
    ("VOICE_CHANNEL_EFFECT_SEND", 1 << 7, 0),
    ("PRESENCE_UPDATE", 1 << 8, 0),
    ("GUILD_SCHEDULED_EVENT_", 1 << 16, 0),
    ("AUTO_MODERATION_RULE_", 1 << 20, 0),
    ("AUTO_MODERATION_ACTION_EXECUTION", 1 << 21, 0),
    ("GUILD_", GUILDS, 0),
    ("CHANNEL_", GUILDS, 0),
    ("THREAD_", GUILDS, 0),
    ("STAGE_INSTANCE_", GUILDS, 0),
)


def needed(event: str, *, in_guild: bool) -> int:
    """The intent that *event* needs; 0 if every session gets it."""
    for prefix, guild_bit, other_bit in _BY_PREFIX:
        if event.startswith(prefix):
            return guild_bit if in_guild else other_bit
    return 0
