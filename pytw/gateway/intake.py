"""From a gateway frame to its tenant, touching nothing that no tenant asked for.

A frame that nobody listens for costs a peek, a look into a set and a number noted; `d` is copied when it is offered.
What belongs to another worker's tenant (direct messages arrive at shard 0 only) is forwarded, and is done when its
owner says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from pytw.errors import PytwError, Unavailable
from pytw.gateway.cursor import CursorReporter, Window
from pytw.limits import FORWARD_RETRY_S
from pytw.routing import Peek, worker_of
from pytw.types import CreateEvent, Forwarder, Offer, Outcome

log = logging.getLogger(__name__)

#: What is about the session rather than about a tenant.
_NOT_FOR_TENANTS = frozenset({"READY", "RESUMED", "GUILD_CREATE", "GUILD_DELETE", "RATE_LIMITED"})
#: Only these name their author; the bot's own reactions, bans and the like are delivered.
_BY_AUTHOR = frozenset({"MESSAGE_CREATE", "MESSAGE_UPDATE"})
_ALIASES = {"MESSAGE_CREATE": "MESSAGE"}
_RETRY_FIRST_S = 0.25
_RETRY_MAX_S = 4.0
#: The owner may be back soon; anything else is an answer.
_WORTH_ANOTHER_TRY = frozenset({Outcome.WORKER_LOST, Outcome.NOT_READY})


class Intake:
    """Decides for each dispatch of one shard who gets it.

    Args:
        aligned: guild events of this shard all belong to this worker (the shard count is a multiple of the workers).
        bot_id: whose messages are ours; 0 until it is known.
    """

    def __init__(
        self,
        *,
        worker_id: int,
        workers: int,
        aligned: bool,
        bot_id: int,
        offer: Offer,
        listens: Callable[[int, str], bool],
        forwarder: Forwarder,
        reporter: CursorReporter,
        clock: Callable[[], float],
    ) -> None:
        self._worker_id = worker_id
        self._workers = workers
        self._aligned = aligned
        self.bot_id = bot_id
        self._offer = offer
        self._listens = listens
        self._forwarder = forwarder
        self._reporter = reporter
        self._clock = clock
        self._forwards: set[asyncio.Task[None]] = set()
        self.seen = self.offered = self.forwarded = self.skipped = 0

    def take(self, frame: bytes, peeked: Peek, number: int) -> None:
        """Offer the event of *frame* to its tenant, or note that it is done. Never waits."""
        self.seen += 1
        tenant, name = peeked.tenant, peeked.t
        window = self._reporter.window
        if not tenant or name is None or name in _NOT_FOR_TENANTS:
            self._reporter.passed(number)
            return
        if name in _BY_AUTHOR:
            if peeked.author_id == self.bot_id:
                self._reporter.passed(number)
                return
            name = _ALIASES.get(name, name)
        ours = (self._aligned and peeked.guild_id) or worker_of(tenant, self._workers) == self._worker_id
        if ours and not self._listens(tenant, name):
            self._reporter.passed(number)
            return
        if window.was_done(number):
            self.skipped += 1
            self._reporter.passed(number)
            return
        event = CreateEvent(name, frame[peeked.start : peeked.end], None, window.start(number, tenant, self._clock()))
        if ours:
            self.offered += 1
            try:
                self._offer(tenant, event, partial(self._ended, window, number))
            except Exception:
                # One event must not end the shard for all its guilds.
                log.exception("%s was not taken", name, extra={"tenant": tenant})
                self._reporter.end(window, number)
        else:
            self.forwarded += 1
            task = asyncio.get_running_loop().create_task(self._forward(tenant, event, window, number))
            self._forwards.add(task)
            task.add_done_callback(self._forwards.discard)

    def _ended(self, window: Window, number: int, outcome: Outcome) -> None:
        self._reporter.end(window, number)

    async def _forward(self, tenant: int, event: CreateEvent, window: Window, number: int) -> None:
        """Bring *event* to its owner, again where the owner was lost over it.

        Cancellation: the event stays pending, so that a later process gets it.
        """
        give_up, wait_s = self._clock() + FORWARD_RETRY_S, _RETRY_FIRST_S
        while True:
            try:
                outcome = await self._forwarder.forward(tenant, event)
            except Unavailable as error:
                outcome = Outcome.WORKER_LOST
                log.debug("forwarding %s: %s", event.name, error)
            except PytwError as error:
                log.warning("forwarding %s was refused: %s", event.name, error, extra={"tenant": tenant})
                break
            if outcome not in _WORTH_ANOTHER_TRY:
                break
            if self._clock() >= give_up:
                log.warning("%s is dropped: its worker is not back", event.name, extra={"tenant": tenant})
                break
            event.redelivered = event.redelivered or outcome is Outcome.WORKER_LOST
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_MAX_S)
        self._reporter.end(window, number)

    async def close(self) -> None:
        """Give up what is being forwarded; it stays pending."""
        for task in self._forwards:
            task.cancel()
        await asyncio.gather(*self._forwards, return_exceptions=True)
