"""Discord's objects as JSON-ready mappings, with every field that discord.py, hikari and twilight insist on.

Source: spec/discord.md 5.2 and Discord's OpenAPI description.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pytw.fauxpas.mockdiscord.ids import general_channel

Json = dict[str, Any]

_LONG_AGO = "2020-01-01T00:00:00+00:00"


def timestamp(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="microseconds")


def user(user_id: int, name: str, *, bot: bool = False) -> Json:
    made: Json = {
        "id": str(user_id),
        "username": name,
        "discriminator": "0",
        "global_name": None if bot else name.title(),
        "avatar": None,
        "avatar_decoration_data": None,
        "banner": None,
        "accent_color": None,
        "clan": None,
        "collectibles": None,
        "display_name_styles": None,
        "primary_guild": None,
        "flags": 0,
        "public_flags": 0,
    }
    if bot:
        made["bot"] = True
    return made


def current_user(user_id: int, name: str) -> Json:
    return user(user_id, name, bot=True) | {
        "mfa_enabled": True,
        "verified": True,
        "email": None,
        "locale": "en-US",
        "bio": "",
    }


def application(bot: Json) -> Json:
    return {
        "id": bot["id"],
        "name": bot["username"],
        "icon": None,
        "description": "",
        "summary": "",
        "type": None,
        "bot": bot,
        "verify_key": "0" * 64,
        "flags": 1 << 18 | 1 << 14 | 1 << 12,
        "owner": user(1, "owner"),
        "team": None,
        "bot_public": True,
        "bot_require_code_grant": False,
        "hook": True,
        "is_monetized": False,
        "rpc_origins": [],
        "redirect_uris": [],
        "interactions_endpoint_url": None,
        "integration_types_config": {"0": {}},
        "approximate_guild_count": 0,
    }


def member(of: Json, *, roles: tuple[str, ...] = ()) -> Json:
    return {"user": of, **partial_member(roles=roles)}


def partial_member(*, roles: tuple[str, ...] = ()) -> Json:
    """A member as a message carries it: without its user."""
    return {
        "roles": list(roles),
        "nick": None,
        "avatar": None,
        "banner": None,
        "joined_at": _LONG_AGO,
        "premium_since": None,
        "communication_disabled_until": None,
        "pending": False,
        "deaf": False,
        "mute": False,
        "flags": 0,
    }


def everyone_role(guild_id: int) -> Json:
    return {
        "id": str(guild_id),
        "name": "@everyone",
        "description": None,
        "permissions": str((1 << 50) - 1),
        "position": 0,
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "managed": False,
        "mentionable": False,
        "icon": None,
        "unicode_emoji": None,
        "flags": 0,
    }


def text_channel(guild_id: int, channel_id: int, name: str) -> Json:
    return {
        "id": str(channel_id),
        "type": 0,
        "guild_id": str(guild_id),
        "name": name,
        "position": 0,
        "permission_overwrites": [],
        "topic": None,
        "nsfw": False,
        "last_message_id": None,
        "last_pin_timestamp": None,
        "rate_limit_per_user": 0,
        "parent_id": None,
        "flags": 0,
    }


def dm(channel_id: int, recipient: Json) -> Json:
    return {"id": str(channel_id), "type": 1, "last_message_id": None, "flags": 0, "recipients": [recipient]}


def guild(guild_id: int, name: str, owner_id: str) -> Json:
    """A guild as `GET /guilds/{id}` answers, without counts."""
    return {
        "id": str(guild_id),
        "name": name,
        "icon": None,
        "icon_hash": None,
        "splash": None,
        "discovery_splash": None,
        "banner": None,
        "home_header": None,
        "description": None,
        "owner_id": owner_id,
        "region": "deprecated",
        "afk_channel_id": None,
        "afk_timeout": 300,
        "widget_enabled": False,
        "widget_channel_id": None,
        "verification_level": 1,
        "default_message_notifications": 1,
        "explicit_content_filter": 0,
        "roles": [everyone_role(guild_id)],
        "emojis": [],
        "stickers": [],
        "features": [],
        "mfa_level": 0,
        "application_id": None,
        "system_channel_id": str(general_channel(guild_id)),
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "public_updates_channel_id": None,
        "safety_alerts_channel_id": None,
        "max_presences": None,
        "max_members": 500_000,
        "max_stage_video_channel_users": 50,
        "max_video_channel_users": 25,
        "vanity_url_code": None,
        "premium_tier": 0,
        "premium_subscription_count": 0,
        "premium_progress_bar_enabled": False,
        "preferred_locale": "en-US",
        "nsfw": False,
        "nsfw_level": 0,
        "hub_type": None,
        "incidents_data": None,
    }


def guild_create(of: Json, channels: list[Json], members: list[Json]) -> Json:
    """The `d` of GUILD_CREATE."""
    return of | {
        "joined_at": _LONG_AGO,
        "large": False,
        "unavailable": False,
        "member_count": len(members),
        "voice_states": [],
        "members": members,
        "channels": channels,
        "threads": [],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }


def message(message_id: int, channel_id: int, author: Json, content: str, sent_at: str) -> Json:
    return {
        "type": 0,
        "tts": False,
        "timestamp": sent_at,
        "pinned": False,
        "mentions": [],
        "mention_roles": [],
        "mention_everyone": False,
        "id": str(message_id),
        "flags": 0,
        "embeds": [],
        "edited_timestamp": None,
        "content": content,
        "components": [],
        "channel_type": 0,
        "channel_id": str(channel_id),
        "author": author,
        "attachments": [],
    }
