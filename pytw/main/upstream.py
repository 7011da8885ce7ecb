"""Where events come from and answers go: Discord, or in dev mode the mock, in the master's own loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from pytw.config import Config
from pytw.discord import DiscordRest
from pytw.errors import DiscordUnavailable
from pytw.fauxpas.mockdiscord import MockDiscord
from pytw.main.topology import mock_shards
from pytw.worker.spec import DiscordSpec

log = logging.getLogger(__name__)

#: Everything but presences, which cost the most and which no template reads. Members and message content are privileged.
INTENTS = 53_608_447 & ~(1 << 8)
API_PATH = "/api/v10"
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 30.0


@dataclass(slots=True)
class Upstream:
    """What workers need to know of Discord, except the shard count that they will share."""

    token: str
    api_base: str
    gateway_url: str
    recommended_shards: int
    max_concurrency: int
    rest: DiscordRest
    mock: MockDiscord | None = None

    def spec(self, shards: int) -> DiscordSpec:
        return DiscordSpec(
            token=self.token,
            api_base=self.api_base,
            gateway_url=self.gateway_url,
            shards=shards,
            intents=INTENTS,
            max_concurrency=self.max_concurrency,
        )

    async def close(self) -> None:
        await self.rest.close()
        if self.mock is not None:
            await self.mock.close()


async def open_mock() -> Upstream:
    """A Discord of our own on a free port of loopback."""
    mock = MockDiscord(shards=mock_shards())
    await mock.start()
    return Upstream(
        token=mock.token,
        api_base=mock.api_base,
        gateway_url=mock.gateway_url,
        recommended_shards=mock.shards,
        max_concurrency=16,
        rest=DiscordRest(mock.api_base, mock.token),
        mock=mock,
    )


async def open_discord(config: Config) -> Upstream:
    """Asks Discord for its gateway, again and again while it does not answer.

    Raises:
        TokenRefused: Discord does not accept the token.
    """
    base = (config.meta.proxy.rstrip("/") or "https://discord.com") + API_PATH
    token = config.discord_auth.token
    rest = DiscordRest(base, token)
    wait_s = RETRY_FIRST_S
    try:
        while True:
            try:
                answer = await rest.gateway_bot()
                break
            except DiscordUnavailable as e:
                log.warning("%s; next try in %.0f s", e.detail, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
    except BaseException:
        await rest.close()
        raise
    return Upstream(
        token=token,
        api_base=base,
        gateway_url=str(answer["url"]),
        recommended_shards=max(1, int(answer["shards"])),
        max_concurrency=max(1, int(answer["session_start_limit"]["max_concurrency"])),
        rest=rest,
    )
