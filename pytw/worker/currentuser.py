"""The bot's own user (``ctx.current_user``), asked of Discord once, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pytw.errors import PytwError, Unavailable
from pytw.limits import CURRENT_USER_TRIES_MAX
from pytw.worker.context.discord import Rest

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0


async def learn_current_user(rest: Rest, tell: Callable[[bytes], None]) -> None:
    """Hand the user's JSON to *tell* once Discord gives it.

    A refusal is not asked again, an absent Discord at most `CURRENT_USER_TRIES_MAX` times: what is missing then is one
    field of `ctx`, and the next start of the worker asks anew.
    """
    wait_s = RETRY_FIRST_S
    for tries_left in reversed(range(CURRENT_USER_TRIES_MAX)):
        try:
            tell(await rest.request_raw("GET", "/users/@me"))
        except Unavailable as error:
            if tries_left:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
                continue
            log.warning("ctx.current_user stays nil: %s", error.detail)
        except PytwError as error:
            log.warning("ctx.current_user stays nil: %s", error.detail)
        return
