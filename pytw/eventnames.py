"""The names of events, as templates know them. Source: spec/luau-api.md 7, spec/discord.md 1.9."""

from __future__ import annotations

from typing import Final


def _names() -> frozenset[str]:
    groups = {
        "APPLICATION_COMMAND_PERMISSIONS": "UPDATE",
        "AUTO_MODERATION": "RULE_CREATE RULE_UPDATE RULE_DELETE ACTION_EXECUTION",
        "CHANNEL": "CREATE UPDATE DELETE PINS_UPDATE",
        "THREAD": "CREATE UPDATE DELETE LIST_SYNC MEMBER_UPDATE MEMBERS_UPDATE",
        "ENTITLEMENT": "CREATE UPDATE DELETE",
        "GUILD": "UPDATE AUDIT_LOG_ENTRY_CREATE BAN_ADD BAN_REMOVE EMOJIS_UPDATE STICKERS_UPDATE INTEGRATIONS_UPDATE "
        "MEMBER_ADD MEMBER_REMOVE MEMBER_UPDATE MEMBERS_CHUNK ROLE_CREATE ROLE_UPDATE ROLE_DELETE "
        "SCHEDULED_EVENT_CREATE SCHEDULED_EVENT_UPDATE SCHEDULED_EVENT_DELETE SCHEDULED_EVENT_USER_ADD "
        "SCHEDULED_EVENT_USER_REMOVE SOUNDBOARD_SOUND_CREATE SOUNDBOARD_SOUND_UPDATE SOUNDBOARD_SOUND_DELETE "
        "SOUNDBOARD_SOUNDS_UPDATE",
        "SOUNDBOARD": "SOUNDS",
        "INTEGRATION": "CREATE UPDATE DELETE",
        "INTERACTION": "CREATE",
        "INVITE": "CREATE DELETE",
        "MESSAGE": "UPDATE DELETE DELETE_BULK REACTION_ADD REACTION_REMOVE REACTION_REMOVE_ALL REACTION_REMOVE_EMOJI "
        "POLL_VOTE_ADD POLL_VOTE_REMOVE",
        "PRESENCE": "UPDATE",
        "STAGE_INSTANCE": "CREATE UPDATE DELETE",
        "SUBSCRIPTION": "CREATE UPDATE DELETE",
        "TYPING": "START",
        "USER": "UPDATE",
        "VOICE": "CHANNEL_EFFECT_SEND STATE_UPDATE SERVER_UPDATE",
        "WEBHOOKS": "UPDATE",
    }
    return frozenset({"MESSAGE", *(f"{group}_{end}" for group, ends in groups.items() for end in ends.split())})


#: The 71 Discord events.
DISCORD_EVENTS: Final = _names()
#: Those that the host makes.
HOST_EVENTS: Final = frozenset({"OnStartup", "KeyExpiry", "KeyResume"})
#: Gateway names that templates know by another name.
RENAMED: Final = {"MESSAGE_CREATE": "MESSAGE"}
#: Events of the website have any name that begins so, and a user for an author.
WEB_PREFIX: Final = "Web"
#: What `ctx.Runtime:eventlist` tells: KeyResume is not of the reference, and ``Web`` events have no fixed names.
EVENT_LIST: Final = (*sorted(DISCORD_EVENTS), "OnStartup", "KeyExpiry")
