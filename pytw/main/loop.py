"""The event loop of master and workers: uvloop, which asks no thread for an address that is one already."""

from __future__ import annotations

import socket
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """`sock_connect` of uvloop resolves numeric addresses in a thread of libuv's pool, which starts for it and stays."""

    async def getaddrinfo(self, host: Any, port: Any, *, family: int = 0, type: int = 0, **more: Any) -> list[Any]:
        """As `asyncio.AbstractEventLoop.getaddrinfo`; without *type* it answers for streams."""
        found: list[Any] = await super().getaddrinfo(host, port, family=family, type=type or socket.SOCK_STREAM, **more)
        return found


def new_event_loop() -> Loop:
    return Loop()
