"""Names that never resolve hold up the tenant that asks for them, and nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading

import pytest

from pytw.limits import HTTP_DNS_TENANT_MAX, HTTP_DNS_THREADS_MAX
from pytw.worker.context.httpfetch import TENANT, SystemLookup

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]


class Resolver:
    """The system's resolver, whose names under ``slow.test`` do not resolve before they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Semaphore(0)
        self.asked: list[bytes] = []

    def getaddrinfo(self, host: bytes, port: int, **_: object) -> list[object]:
        self.asked.append(host)
        self.began.release()
        if host.endswith(b"slow.test"):
            self.go.wait(60)
        return list(ANSWER)


@pytest.fixture
def resolver(monkeypatch):
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.go.set()


def ask(lookup: SystemLookup, tenant: int, host: str) -> asyncio.Task[object]:
    context = contextvars.copy_context()
    context.run(TENANT.set, tenant)
    return asyncio.get_running_loop().create_task(lookup(host, 443), context=context)  # type: ignore[arg-type]


async def test_lookups_that_were_given_up_hold_up_their_tenant_only(resolver):
    lookup = SystemLookup()
    try:
        slow = [ask(lookup, 1, f"{i}.slow.test") for i in range(3 * HTTP_DNS_THREADS_MAX)]
        async with asyncio.timeout(10):
            for _ in range(HTTP_DNS_TENANT_MAX):
                await asyncio.to_thread(resolver.began.acquire)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            # The threads are still busy with what nobody waits for.
            again = [ask(lookup, 1, f"again{i}.slow.test") for i in range(HTTP_DNS_THREADS_MAX)]
            assert await ask(lookup, 2, "good.test") == [("192.0.2.1", 443)]
            assert len(resolver.asked) == HTTP_DNS_TENANT_MAX + 1
            resolver.go.set()
            assert await asyncio.gather(*again) == [[("192.0.2.1", 443)]] * len(again)
            assert not lookup._shares
    finally:
        lookup.close()
