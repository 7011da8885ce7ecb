"""Discord's REST routes that we call: method, path, and which part of the path is the major parameter."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from pytw.errors import RequestError

_SNOWFLAKE = re.compile(r"\d{15,20}")
_PATH = re.compile(r"(/[\w@.:~%+-]+)+(\?[^\s#]*)?", re.ASCII)
_MAJOR = re.compile(r"/(channels|guilds|webhooks)/(\d+)(/[\w-]{30,})?")


class Call(NamedTuple):
    """One request to be made. Calls of equal `route` and `major` share a rate limit."""

    method: str
    path: str
    route: str
    major: str


class Route(NamedTuple):
    method: str
    template: str
    #: Name of the path part whose value has a rate limit of its own; "" if there is none.
    major: str = ""

    def call(self, **parts: int | str) -> Call:
        """The call with *parts* in the path, each escaped. Raises: RequestError, where one is no part of a path."""
        if any(_climbs(str(value)) for value in parts.values()):
            raise RequestError("not a part of a path")
        path = self.template.format(**{name: quote(str(value), safe="@") for name, value in parts.items()})
        return Call(self.method, path, f"{self.method} {self.template}", str(parts.get(self.major, "")))


GATEWAY_BOT: Final = Route("GET", "/gateway/bot")
USERS_ME: Final = Route("GET", "/users/@me")
GET_GUILD: Final = Route("GET", "/guilds/{guild_id}", "guild_id")
GET_GUILD_CHANNELS: Final = Route("GET", "/guilds/{guild_id}/channels", "guild_id")
GET_GUILD_ROLES: Final = Route("GET", "/guilds/{guild_id}/roles", "guild_id")
GET_GUILD_MEMBER: Final = Route("GET", "/guilds/{guild_id}/members/{user_id}", "guild_id")
GET_CHANNEL: Final = Route("GET", "/channels/{channel_id}", "channel_id")
CREATE_MESSAGE: Final = Route("POST", "/channels/{channel_id}/messages", "channel_id")


def _climbs(path: str) -> bool:
    """Whether URL rules could shorten *path*: dots, also escaped ones, as a whole part of it."""
    return any(unquote(part) in (".", "..") for part in path.split("/"))


def call_of(method: str, path: str) -> Call:
    """The call for a path that comes without a route: ids are taken for parameters, as Discord does.

    Raises:
        RequestError: the path could lead elsewhere than it seems to.
    """
    bare = path.split("?", 1)[0]
    if not _PATH.fullmatch(path) or _climbs(bare):
        raise RequestError("not a path of Discord's API")
    major = _MAJOR.match(bare)
    return Call(method, path, f"{method} {_SNOWFLAKE.sub('{id}', bare)}", major.group(0) if major else "")
