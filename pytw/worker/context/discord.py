"""``ctx.Discord``: Discord's REST API within the tenant's own guild. Source: reference (spec luau-api 5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from pytw.cache import Cache
from pytw.discord import check_message
from pytw.errors import Forbidden, RequestError
from pytw.types import Id, OwnerType
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Handler, Need, Operation

CHANNELS_REMEMBERED_MAX = 4_096
CHANNEL_LIFE_S = 300.0

#: Fields that Discord reads as lists; an empty Luau table does not say which it is.
_LISTS = frozenset(
    {"embeds", "components", "attachments", "sticker_ids", "fields", "parse", "users", "roles", "options", "answers"}
)


class Rest(Protocol):
    """What this asks of Discord's REST client."""

    async def request(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> Any: ...
    async def request_raw(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> bytes:
        """The answer's body as it came."""


def snowflake(value: Any, what: str) -> int:
    """Ids are strings or whole numbers. Raises: RequestError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
        raise RequestError(f"{what} must be an id: a string of digits or a whole number")
    return value


def guild_of(call: HostCall) -> int:
    tenant = Id.of(call.tenant)
    if tenant.owner_type is not OwnerType.GUILD:
        raise RequestError("Current context is not a guild")
    return tenant.snowflake


def _as_json(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return [] if not value and name in _LISTS else {key: _as_json(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    return value


def checked_message(data: dict[str, Any]) -> dict[str, Any]:
    """The message as JSON, within the rules. Raises: RequestError."""
    message: dict[str, Any] = _as_json(data)
    if message.get("attachments"):
        raise RequestError("Message attachments are disabled right now")
    check_message(message)
    return message


class Discord:
    """``discord.*``."""

    def __init__(self, rest: Rest, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest = rest
        #: The guild of a channel, 0 for those of none: what is another guild's is remembered as well as what is one's own.
        self.channels: Cache[int, int] = Cache(CHANNELS_REMEMBERED_MAX, CHANNEL_LIFE_S, clock=clock)

    def operations(self) -> dict[str, Operation]:
        return _operations({"create_message": self.create_message, "get_guild": self.get_guild})

    async def create_message(self, call: HostCall) -> bytes:
        guild = guild_of(call)
        argument = call.table(0, "the argument")
        channel = snowflake(argument.get("channel_id"), "channel_id")
        data = argument.get("data")
        if not isinstance(data, dict):
            raise RequestError("data must be a table")
        message = checked_message(data)
        await self.require_own_channel(guild, channel)
        return answers.lazy_json(await self._rest.request_raw("POST", f"/channels/{channel}/messages", json=message))

    async def get_guild(self, call: HostCall) -> bytes:
        return answers.lazy_json(await self._rest.request_raw("GET", f"/guilds/{guild_of(call)}?with_counts=true"))

    async def require_own_channel(self, guild: int, channel: int) -> None:
        """Raises: Forbidden: the channel is another guild's, or nobody's."""
        if await self.channels.get(channel, lambda: self._guild_of_channel(channel)) != guild:
            raise Forbidden(f"channel {channel} does not belong to this guild")

    async def _guild_of_channel(self, channel: int) -> int:
        found = await self._rest.request("GET", f"/channels/{channel}")
        return int(found.get("guild_id") or 0)


def _operations(methods: dict[str, Handler]) -> dict[str, Operation]:
    """Each method is its own capability and its own rate-limit bucket."""

    def operation(method: str, handler: Handler) -> Operation:
        need = Need((f"discord:{method}",), f"Discord action `{method}` not allowed in this template context")
        return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("discord", method))

    return {f"discord.{method}": operation(method, handler) for method, handler in methods.items()}
