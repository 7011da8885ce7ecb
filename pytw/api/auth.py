"""Who asks.

- On the control socket: the owner of the server's process or root, by peer credentials, as root.
- A token in ``Authorization`` (bare as in the reference, or after ``Bearer``): the user of that session, root if listed in
  ``discord_auth.root_users``.
- In dev mode, from loopback, with a loopback name in ``Host`` and no foreign ``Origin``: a developer at this machine. The
  two checks keep web pages out, which a browser on this machine would otherwise let in (DNS rebinding, plain forms).
"""

from __future__ import annotations

import os
import socket
import struct
from urllib.parse import urlsplit

from aiohttp import web

from pytw.api.context import CONTEXT, Principal
from pytw.config import is_loopback
from pytw.errors import Forbidden, Unauthorized

CONTROL = Principal("control", root=True)
DEVELOPER = Principal("developer", root=False)

#: Longer tokens are refused unread.
TOKEN_TEXT_MAX = 512


def peer_uid(request: web.Request) -> int | None:
    """The user id at the other end of a UNIX socket; None on other sockets."""
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def on_control_socket(request: web.Request) -> bool:
    """The request came by UNIX socket, from root or our own user."""
    return peer_uid(request) in (0, os.geteuid())


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def at_this_machine(request: web.Request) -> bool:
    """From loopback, meant for loopback, and not sent by a page of another site."""
    origin = request.headers.get("Origin")
    return (
        is_loopback(request.remote)
        and is_loopback(_hostname(f"//{request.headers.get('Host', '')}"))
        and (origin is None or is_loopback(_hostname(origin)))
        and request.headers.get("Sec-Fetch-Site") != "cross-site"
    )


async def principal(request: web.Request) -> Principal | None:
    """Who asks; None for nobody in particular.

    Raises:
        Unauthorized: the token is not valid.
        Forbidden: the control socket was reached by another account.
    """
    if peer_uid(request) is not None:
        if on_control_socket(request):
            return CONTROL
        raise Forbidden("the control socket is for the account that runs the server")
    authorization = request.headers.get("Authorization")
    if authorization is None:
        return None
    context = request.app[CONTEXT]
    token = authorization[7:] if authorization[:7].lower() == "bearer " else authorization
    token = token.strip()
    user = None
    if context.session is not None and 0 < len(token) <= TOKEN_TEXT_MAX:
        user = await context.session(token)
    if user is None:
        raise Unauthorized("the token is unknown or has expired")
    return Principal(user, root=user in context.root_users)


async def require_root(request: web.Request) -> Principal:
    """Who asks, if that may do everything.

    Raises:
        Unauthorized, Forbidden.
    """
    who = await principal(request)
    if who is None:
        raise Unauthorized("a token is needed", hint="Authorization: Bearer TOKEN, or use `tw` on the server's machine")
    if not who.root:
        raise Forbidden("this is for root users", hint="discord_auth.root_users lists them")
    return who


async def require_root_or_developer(request: web.Request) -> Principal:
    """`require_root`, but open to whoever sits at this machine in dev mode."""
    who = await principal(request)
    if who is None and request.app[CONTEXT].dev:
        if at_this_machine(request):
            return DEVELOPER
        raise Forbidden(
            "in dev mode this is open to this machine only", hint="ask for it at 127.0.0.1, or send a root user's token"
        )
    return await require_root(request)
