"""`tw mock serve`: the mock Discord alone, for developing a bot, pytw included, without Discord."""

from __future__ import annotations

import asyncio
import signal
import sys

from pytw.fauxpas.mockdiscord import MockDiscord


def run(host: str, port: int, *, shards: int = 1) -> int:
    """Serve until SIGINT or SIGTERM; answers the exit code. Raises: AddressInUse."""
    return asyncio.run(_serve(host, port, shards))


async def _serve(host: str, port: int, shards: int) -> int:
    mock = MockDiscord(shards=shards)
    await mock.start(host, port)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    sys.stdout.write(_banner(mock))
    sys.stdout.flush()
    await ended.wait()
    await mock.close()
    return 0


def _banner(mock: MockDiscord) -> str:
    base = f"http://{mock.host}:{mock.port}"
    return (
        f"mock Discord\n"
        f"  REST     {mock.api_base}\n"
        f"  gateway  {mock.gateway_url}\n"
        f"  token    {mock.token}\n"
        f'  say      curl -H \'Content-Type: application/json\' -d \'{{"guild_id":"123","content":"hi","wait_s":2}}\''
        f" {base}/mock/say\n"
    )
