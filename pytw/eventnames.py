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
ON_STARTUP: Final = "OnStartup"
KEY_EXPIRY: Final = "KeyExpiry"
KEY_RESUME: Final = "KeyResume"
#: Those that the host makes.
HOST_EVENTS: Final = frozenset({ON_STARTUP, KEY_EXPIRY, KEY_RESUME})
#: In a template's events: all of them.
EVERY_EVENT: Final = "*"
#: Gateway names that templates know by another name.
RENAMED: Final = {"MESSAGE_CREATE": "MESSAGE"}
#: Events of the website have any name that begins so, and a user for an author.
WEB_PREFIX: Final = "Web"
#: What `ctx.Runtime:eventlist` tells: KeyResume is not of the reference, and ``Web`` events have no fixed names.
EVENT_LIST: Final = (*sorted(DISCORD_EVENTS), ON_STARTUP, KEY_EXPIRY)
#: What a tenant without a row listens for.
DEFAULT_EVENTS: Final = frozenset({"INTERACTION_CREATE", "WebGetSettings", "WebExecuteSetting"})
#: What the reference's bot is asked by its own names, though a tenant's default set lacks them (spec luau-api 0.14).
LOOP_EVENTS: Final = frozenset({"GetSettings", "ExecuteSetting"})
