from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pytw.mesophyll import Handler, Kind, Link, LinkHandler, MesophyllClient, MesophyllServer, new_token


class Pair:
    """A server on a random port, and the workers that connected to it."""

    def __init__(self) -> None:
        self.lost: list[tuple[int, str]] = []
        self.client_lost: asyncio.Queue[str] = asyncio.Queue()
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.server: MesophyllServer
        self.clients: list[MesophyllClient] = []

    async def start(self, handlers: dict[Kind, LinkHandler] | None = None, address: str = "") -> str:
        self.server = MesophyllServer(
            handlers,
            on_link=self.links.put_nowait,
            on_lost=lambda link, reason: self.lost.append((link.worker_id, reason)),
            settings={"name": "test"},
        )
        return await self.server.start(address)

    def client(self, worker_id: int = 0, epoch: int = 1, handlers: dict[Kind, Handler] | None = None, **kw: Any) -> Any:
        client = MesophyllClient(worker_id, epoch, handlers or {}, on_lost=self.client_lost.put_nowait, **kw)
        self.clients.append(client)
        return client

    async def connect(
        self, worker_id: int = 0, epoch: int = 1, handlers: dict[Kind, Handler] | None = None, **kw: Any
    ) -> tuple[Link, MesophyllClient]:
        token = new_token()
        await self.server.expect(worker_id, epoch, token)
        client = self.client(worker_id, epoch, handlers, **kw)
        await client.connect(self.server.address, token)
        return await self.links.get(), client

    async def close(self) -> None:
        for client in self.clients:
            if client._session is not None:
                await client.close()
        await self.server.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    await made.close()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Any]:
    """Turns the loop until a condition holds; the test's own timeout ends it."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)

    return wait
