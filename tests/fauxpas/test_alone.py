"""`tw mock serve`: the mock as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import sys

import aiohttp


async def test_mock_alone_says_where_it_is_and_ends_with_0_on_sigterm():
    program = "import sys; from pytw.main.mock import run; sys.exit(run('127.0.0.1', 0))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    banner = {}
    async with asyncio.timeout(20):
        while "say" not in banner:
            name, _, rest = (await process.stdout.readline()).decode().strip().partition(" ")
            banner[name] = rest.strip()
    headers = {"Authorization": f"Bot {banner['token']}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{banner['REST']}/gateway/bot") as answer:
        assert (await answer.json())["url"] == banner["gateway"]
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 10) == 0
