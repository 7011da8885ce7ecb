"""What the mock's Discord consists of: users, guilds, channels and messages. No I/O.

A guild is made the first time that somebody names its id, so that every plausible guild exists.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pytw.fauxpas.mockdiscord import objects
from pytw.fauxpas.mockdiscord.ids import Snowflakes, channel_guild, channel_user, dm_channel, general_channel, plausible
from pytw.fauxpas.mockdiscord.objects import Json

GUILDS_MAX = 100_000
CHANNEL_MESSAGES_MAX = 500
CHANNELS_MAX = 20_000
BOT_MESSAGES_MAX = 10_000

#: The member who speaks where nobody else is named.
VISITOR_ID = 200_000_000_000_000_002

#: Hands an event to the gateway: name, `d` as JSON, guild. Answers how many sessions got it.
Publish = Callable[[str, bytes, int | None], int]


class Place:
    """Where a channel is: in a guild, or between the bot and a user."""

    __slots__ = ("channel_id", "guild_id", "messages", "user_id")

    def __init__(self, channel_id: int, guild_id: int | None, user_id: int | None) -> None:
        self.channel_id = channel_id
        self.guild_id = guild_id
        self.user_id = user_id
        self.messages: dict[int, Json] = {}


class World:
    def __init__(self, *, bot_id: int, wall_s: Callable[[], float], publish: Publish) -> None:
        self._wall_s = wall_s
        self._publish = publish
        self._ids = Snowflakes(wall_s)
        self.bot = objects.current_user(bot_id, "template-worker")
        self.application = objects.application(self.bot)
        self._guilds: dict[int, Json] = {}
        self._places: dict[int, Place] = {}
        self._by_bot: deque[tuple[int, Json]] = deque(maxlen=BOT_MESSAGES_MAX)
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    # ---- guilds and people

    @property
    def guild_ids(self) -> Iterable[int]:
        return self._guilds.keys()

    def guild(self, guild_id: int) -> Json | None:
        """The guild, made now if nobody has named it; None if no guild can have this id."""
        if (found := self._guilds.get(guild_id)) is not None:
            return found
        if not plausible(guild_id):
            return None
        if len(self._guilds) >= GUILDS_MAX:
            self._guilds.pop(next(iter(self._guilds)))
        made = objects.guild(guild_id, f"Guild {guild_id}", str(VISITOR_ID))
        self._guilds[guild_id] = made
        self._publish("GUILD_CREATE", self.guild_create(guild_id), guild_id)
        return made

    def guild_create(self, guild_id: int) -> bytes:
        return encode(objects.guild_create(self._guilds[guild_id], self.channels(guild_id), self.members(guild_id)))

    def channels(self, guild_id: int) -> list[Json]:
        return [objects.text_channel(guild_id, general_channel(guild_id), "general")]

    def members(self, guild_id: int) -> list[Json]:
        return [objects.member(self.bot), objects.member(self.user(VISITOR_ID))]

    def member(self, guild_id: int, user_id: int) -> Json | None:
        return objects.member(self.user(user_id)) if plausible(user_id) else None

    def user(self, user_id: int) -> Json:
        if str(user_id) == self.bot["id"]:
            return self.bot
        return objects.user(user_id, "visitor" if user_id == VISITOR_ID else f"user{user_id}")

    def channel(self, channel_id: int) -> Json | None:
        place = self.place(channel_id)
        if place is None:
            return None
        if place.guild_id is not None:
            return self.channels(place.guild_id)[0]
        return objects.dm(channel_id, self.user(place.user_id or VISITOR_ID))

    def place(self, channel_id: int) -> Place | None:
        """The channel, made with its guild if need be; None if no channel can have this id."""
        if (found := self._places.get(channel_id)) is not None:
            return found
        guild_id, user_id = channel_guild(channel_id), channel_user(channel_id)
        if guild_id is None and user_id is None:
            return None
        if guild_id is not None and self.guild(guild_id) is None:
            return None
        if len(self._places) >= CHANNELS_MAX:
            self._places.pop(next(iter(self._places)))
        made = self._places[channel_id] = Place(channel_id, guild_id, user_id)
        return made

    # ---- messages

    def post(self, channel_id: int, author_id: int, body: Json) -> tuple[Json, int] | None:
        """A new message, and how many sessions heard of it; None if there is no such channel."""
        place = self.place(channel_id)
        if place is None:
            return None
        by_bot = str(author_id) == self.bot["id"]
        made = self._message(place, author_id, body)
        message_id = int(made["id"])
        place.messages[message_id] = made
        if len(place.messages) > CHANNEL_MESSAGES_MAX:
            place.messages.pop(next(iter(place.messages)))
        heard = self._publish("MESSAGE_CREATE", encode(self._with_guild(place, made, author_id)), place.guild_id)
        if by_bot:
            self._by_bot.append((message_id, made))
            for waiter in self._waiting.pop(channel_id, ()):
                if not waiter.done():
                    waiter.set_result(None)
        return made, heard

    def edit(self, channel_id: int, message_id: int, body: Json) -> Json | None:
        place = self.place(channel_id)
        if place is None or (found := place.messages.get(message_id)) is None:
            return None
        found |= {
            k: body[k] for k in ("content", "embeds", "components", "flags", "attachments") if body.get(k) is not None
        }
        found["edited_timestamp"] = objects.timestamp(self._wall_s())
        self._publish(
            "MESSAGE_UPDATE", encode(self._with_guild(place, found, int(found["author"]["id"]))), place.guild_id
        )
        return found

    def delete(self, channel_id: int, message_id: int) -> bool:
        place = self.place(channel_id)
        if place is None or place.messages.pop(message_id, None) is None:
            return False
        d: Json = {"id": str(message_id), "channel_id": str(channel_id)}
        if place.guild_id is not None:
            d["guild_id"] = str(place.guild_id)
        self._publish("MESSAGE_DELETE", encode(d), place.guild_id)
        return True

    def by_bot(self, *, after: int = 0, channel_id: int | None = None) -> list[Json]:
        """Messages of the bot above id *after*, oldest first."""
        wanted = None if channel_id is None else str(channel_id)
        found: list[Json] = []
        for message_id, made in reversed(self._by_bot):
            if message_id <= after:
                break
            if wanted is None or made["channel_id"] == wanted:
                found.append(made)
        return found[::-1]

    def next_by_bot(self, channel_id: int) -> asyncio.Future[None]:
        """Done when the bot writes in this channel."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(channel_id, []).append(waiter)
        return waiter

    def stop_waiting(self, channel_id: int, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(channel_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiting.pop(channel_id, None)

    def _message(self, place: Place, author_id: int, body: Json) -> Json:
        made = objects.message(
            self._ids.next(),
            place.channel_id,
            self.user(author_id),
            str(body.get("content") or ""),
            objects.timestamp(self._wall_s()),
        )
        made |= {k: body[k] for k in ("embeds", "components", "flags", "tts", "attachments") if body.get(k) is not None}
        if body.get("nonce") is not None:
            made["nonce"] = body["nonce"]
        if isinstance(reference := body.get("message_reference"), dict):
            made["type"] = 19
            made["message_reference"] = {"type": 0, "channel_id": str(place.channel_id), **reference}
        made["channel_type"] = 1 if place.guild_id is None else 0
        return made

    def _with_guild(self, place: Place, made: Json, author_id: int) -> Json:
        if place.guild_id is None:
            return made
        return made | {"member": objects.partial_member(), "guild_id": str(place.guild_id)}


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


__all__ = ["VISITOR_ID", "Place", "World", "dm_channel", "encode", "general_channel"]
