"""`POST /mock/say` ``{"guild_id", "content", "wait_s"?}``: a member of the mock Discord speaks. Control socket and dev mode only."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from pytw.api.answers import answer
from pytw.api.auth import at_this_machine, on_control_socket, peer_uid
from pytw.api.bodies import body_of
from pytw.api.context import CONTEXT
from pytw.api.numbers import snowflake
from pytw.errors import NotFound
from pytw.limits import MOCK_TEXT_MAX, MOCK_WAIT_MAX_S


class Say(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the request."""

    guild_id: str | int
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=MOCK_TEXT_MAX)]
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=MOCK_WAIT_MAX_S)] = 2.0


_decoder = msgspec.json.Decoder(Say)


def routes() -> list[web.RouteDef]:
    return [web.post("/mock/say", say)]


async def say(request: web.Request) -> web.Response:
    mock = request.app[CONTEXT].mock
    # To everyone else it does not exist; who sits at this machine is told the way.
    if mock is not None and peer_uid(request) is None and at_this_machine(request):
        raise NotFound("only the control socket has this", hint="`tw mock say` without --url, on the server's machine")
    if mock is None or not on_control_socket(request):
        raise NotFound("there is no mock Discord here", hint="it runs in dev mode, and listens to `tw mock say`")
    asked = await body_of(request, _decoder)
    return answer(await mock(snowflake(str(asked.guild_id), "guild_id"), asked.content, asked.wait_s))
