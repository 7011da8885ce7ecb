"""`Worker`: everything that runs the tenants of one place in the pool, wired together.

The same in a worker process and in the master (`--worker-type threadpool`): only its database and what it is told by
differ.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

from pytw.errors import ConfigError, LimitExceeded, PytwError, ScriptError
from pytw.eventnames import EVERY_EVENT, LOOP_EVENTS, ON_STARTUP
from pytw.types import CreateEvent, Outcome
from pytw.worker.background import IN_FLIGHT_MAX, Background
from pytw.worker.cache import FlushSelf, WorkerCacheData
from pytw.worker.changes import TenantChanges
from pytw.worker.context import RateLimits, VMContext
from pytw.worker.context.botstats import BotStats
from pytw.worker.context.boundary import OnCall
from pytw.worker.context.discord import Discord, Rest
from pytw.worker.context.globalkv import GlobalKv
from pytw.worker.context.http import Http
from pytw.worker.context.kv import Kv
from pytw.worker.context.objectstorage import ObjectStorage
from pytw.worker.context.runtime import Runtime, runtime_info
from pytw.worker.context.runtimetemplates import RuntimeTemplates
from pytw.worker.context.secrets import Secrets
from pytw.worker.currentuser import learn_current_user
from pytw.worker.db import WorkerDB
from pytw.worker.dispatch import WorkerDispatch
from pytw.worker.filter import WorkerFilter
from pytw.worker.keyexpiry import KeyExpiry, KeyExpiryChannel
from pytw.worker.keyresume import KeyResume
from pytw.worker.loads import ProgramLoads
from pytw.worker.repeats import Repeats
from pytw.worker.scrub import Scrubber
from pytw.worker.spec import WorkerSpec
from pytw.worker.state import WorkerState
from pytw.worker.template import BUILTINS_DIR, Template, builtins_template, read_tree
from pytw.worker.vms import NATIVE_ENGINE, EngineMaker, WorkerVmManager
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)
template_log = logging.getLogger("template")

SWEEP_S = 1.0
CHECK_MS = 5_000
#: How long a check waits for CPU time to flow back to a tenant that has none left, and how often it looks.
CHECK_PATIENCE_S = 2.0
CHECK_PAUSE_S = 0.1
#: Sources of templates that a worker keeps loaded.
PROGRAM_BYTES_MAX = 256 << 20
STARTUP_PAYLOAD = b'{"reason":"worker_startup"}'

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

_NO_CPU_LEFT = (
    "the entry runs too long, or the tenant has used up its CPU time; "
    "pause the template that uses it, or try again in a few seconds"
)

#: Hears that a tenant has held a VM thread for so many milliseconds.
OnBlame = Callable[[int, int], None]


class Worker:
    """Runs the tenants of one place. Source: reference `Worker` (spec 5.9), with an end as well as a beginning.

    `start` returns when events are taken. Until then, and after `drain` began, events end with ``not_ready``.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        db: WorkerDb,
        rest: Rest,
        *,
        on_blame: OnBlame | None = None,
        on_call: OnCall | None = None,
        blame_fd: int = -1,
        engine: EngineMaker = NATIVE_ENGINE,
        http: Http | None = None,
    ) -> None:
        self.spec = spec
        self._rest = rest
        self.id = spec.worker_id
        self.worker_db = WorkerDB(db, spec.limits.db_operations_max)
        self.db = self.worker_db.operations
        self.filter = WorkerFilter(spec.worker_id, spec.workers)
        self.state = WorkerState(self.db, spec.worker_id, spec.workers)
        self.cache = WorkerCacheData(PROGRAM_BYTES_MAX)
        self._builtins = _builtins(spec.builtins_dir)
        self.vms = WorkerVmManager(
            spec.limits,
            vm_threads=spec.vm_threads,
            workers=spec.workers,
            debug=spec.worker_debug,
            blame_fd=blame_fd,
            blame_slot=spec.blame_slot,
            runtime_info=runtime_info(spec.links),
            engine=engine,
        )
        self.loads = ProgramLoads(self.db, self.vms, self.state, self.cache, spec.limits)
        self.scrubber = Scrubber(spec.limits.error_bytes_max)
        self.dispatch = WorkerDispatch(
            self.vms, self.state, self.loads, spec.limits, worker_id=self.id, scrubber=self.scrubber
        )
        runtime = Runtime(self.db, self.loads.refresh, BotStats(rest, self._tenants))
        self._http = http or Http(spec.http_domains)
        self._discord = Discord(rest)
        templates = RuntimeTemplates(
            self.db,
            spec.limits,
            self.check_template,
            self._discord.require_own_channel,
            lambda call: self.changes.defer(call.tenant, call.request, FlushSelf()),
            lambda: self.loop_mode,
        )
        self.context = VMContext(
            self.vms,
            self._caps_of,
            RateLimits(compat=spec.compat_ratelimits),
            Kv(self.db).operations()
            | GlobalKv(self.db, spec.links.get("frontend_url", "")).operations()
            | ObjectStorage(self.db).operations()
            | self._discord.operations()
            | templates.operations()
            | runtime.operations()
            | Secrets(self.db, self.scrubber).operations()
            | self._http.operations(),
            on_call,
            scrubber=self.scrubber,
        )
        self.repeats = Repeats(template_log)
        self.background = Background(self.dispatch)
        self.changes = TenantChanges(
            self.vms,
            self.state,
            self.loads,
            self.cache,
            self._tell_later,
            self._refreshed,
            mine=self.filter,
            spawn=self._spawn,
            event_s=spec.limits.event_deadline_ms / 1000,
        )
        self.dispatch.on_regeneration = self.changes.ended
        self.expiry = KeyExpiry(KeyExpiryChannel(self.db, self.filter), self.db, self.state, self.background)
        self.resume = KeyResume(self.db, self.filter, self.state, self.background)
        self._on_blame = on_blame
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        #: What is up; ``/readyz`` names each.
        self.parts = {"engines": False, "builtins": False, "gates": False}

    async def start(self) -> None:
        """Start the VM threads, learn what the built-ins listen for, load the gates, take events.

        Raises: ConfigError: the built-in tree does not run. Unavailable: the gates cannot be read.
        """
        try:
            events = await self._open_engines()
            self.parts["engines"] = self.parts["builtins"] = True
            # One function for all events dispatches the tenant's templates itself (DESIGN 6).
            self.loads.loop_mode = events == [EVERY_EVENT]
            # One function for all events takes what passes the gate and widens it only by what the reference's bot is
            # asked by name, which no one but the API sends.
            await self.state.load(LOOP_EVENTS if self.loop_mode else events)
        except BaseException:
            await self.close()
            raise
        self.parts["gates"] = True
        self.dispatch.ready = True
        self._sweep()
        self._spawn(self.expiry.run())
        self._spawn(self.resume.run())
        if self.spec.discord is not None:
            self._spawn(learn_current_user(self._rest, self.vms.set_current_user))
        waiting = iter(self.state.listeners(ON_STARTUP))
        for _ in range(IN_FLIGHT_MAX):
            self._spawn(self._tell_of_startup(waiting))

    async def _open_engines(self) -> list[str]:
        try:
            return await self.vms.open(self, self._builtins, CHECK_MS)
        except PytwError as error:
            raise ConfigError(f"the built-in templates do not run: {error.detail}") from error

    async def _tell_of_startup(self, waiting: Iterator[int]) -> None:
        """One of several that share the tenants: a task for each of them would be too many."""
        for tenant in waiting:
            await self._tell(tenant, STARTUP_PAYLOAD)

    async def _tell(self, tenant: int, payload: bytes) -> None:
        await self.background.run(tenant, CreateEvent(ON_STARTUP, payload))

    def _tell_later(self, tenant: int, payload: bytes) -> None:
        self._spawn(self._tell(tenant, payload))

    def _tenants(self) -> int:
        return len(self.state)

    async def _caps_of(self, tenant: int, template: str) -> frozenset[str]:
        await self.loads.ensure(tenant)
        return self.cache.caps(tenant, template)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    def _sweep(self) -> None:
        self.dispatch.sweep()
        self.repeats.flush()
        for tenant in self.cache.expire():
            self.loads.unload(tenant)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    # -- what the gateway sees -------------------------------------------------------------------------

    def offer(self, tenant: int, event: CreateEvent, done: Callable[[Outcome], None]) -> None:
        """`types.Offer`: take an event from the gateway."""
        self.dispatch.dispatch(tenant, event, partial(_outcome, done))

    def listens(self, tenant: int, event: str) -> bool:
        """Whether an event has a reason to be decoded at all."""
        return self.state.listens(tenant, event)

    # -- what the engines say besides results (vms.Sink) -----------------------------------------------

    def host_call(self, tenant: int, call: int, payload: bytes) -> None:
        self.context.host_call(tenant, call, payload)

    def log_line(self, tenant: int, request: int, payload: bytes) -> None:
        template, level, text = msgpack.unpackb(payload)
        number = level if isinstance(level, int) else _LEVELS.get(level, logging.INFO)
        line = self.scrubber.text(tenant, f"{template}: {text}")
        self.repeats.write(number, line, tenant, self.dispatch.name(request))

    def deaf(self, tenant: int, milliseconds: int) -> None:
        log.error("a VM thread is deaf for %d ms", milliseconds, extra={"tenant": tenant})
        if self._on_blame is not None:
            self._on_blame(tenant, milliseconds)

    def engine_replaced(self, holds: Callable[[int], bool]) -> None:
        for tenant in [tenant for tenant in self.cache.loaded if holds(tenant)]:
            self.cache.forget(tenant)
            self.resume.again(tenant)

    def vm_lost(self, tenant: int) -> None:
        self.resume.again(tenant)

    @property
    def loop_mode(self) -> bool:
        """Whether the built-in template is one function that dispatches the tenants' templates itself (DESIGN 6)."""
        return self.loads.loop_mode

    # -- orders ----------------------------------------------------------------------------------------

    async def check_template(self, tenant: int, template: Template) -> list[str]:
        """The events that a template's entry names. Raises: ScriptError, LimitExceeded, Unavailable."""
        template.check_bounds(self.spec.limits)
        events: list[str] = msgpack.unpackb(await self.check(tenant, template.pack()))
        return events

    async def check(self, tenant: int, template: bytes) -> bytes:
        """The msgpack list of events that a packed template names.

        A check runs on the tenant's own CPU time. So that a template that uses it all up does not keep its own mended
        version out, a check that finds none is made again for `CHECK_PATIENCE_S`.

        Raises: ScriptError, LimitExceeded, Unavailable.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + CHECK_PATIENCE_S
        while True:
            try:
                return await self.vms.check(tenant, template, CHECK_MS)
            except ScriptError as error:
                raise ScriptError(self.scrubber.text(tenant, error.detail), hint=error.hint) from None
            except LimitExceeded as error:
                if error.limit != "cpu":
                    raise
                if clock() + CHECK_PAUSE_S > end:
                    raise LimitExceeded(f"{error.detail}: {_NO_CPU_LEFT}", limit="cpu") from error
            await asyncio.sleep(CHECK_PAUSE_S)

    async def refresh_tenant(self, tenant: int) -> None:
        """Returns when the tenant's next event sees its state and templates of now. Raises: Unavailable."""
        await self.changes.refresh(tenant)
        if self.state.refusal(tenant) is Outcome.BANNED:
            # Nobody hears of their answers any more, and what they wait for may take half a minute: a message to be sent, say.
            self.context.give_up(tenant)

    def _refreshed(self, tenant: int) -> None:
        self._spawn(self.expiry.retry(tenant))
        self.resume.again(tenant)

    async def drop_tenant(self, tenant: int) -> None:
        """End the tenant's VM; its next event makes a new one. Raises: Unavailable."""
        await self.changes.drop(tenant)
        self.resume.again(tenant)

    def stats(self) -> dict[str, int]:
        """Numbers for heartbeats and metrics."""
        numbers = self.vms.stats()
        numbers |= {f"outcome_{outcome.slug}": self.dispatch.outcomes[outcome] for outcome in Outcome}
        counts = self.dispatch.why.counts
        numbers |= {f"refused_{reason}": count for (_, reason), count in counts.items() if reason}
        numbers |= {
            "in_flight": self.dispatch.in_flight,
            "host_calls": self.context.in_flight,
            "db_waiting": self.worker_db.turns.waiting,
            "objects_waiting": self.worker_db.object_turns.waiting,
            "db_retries": self.worker_db.retries,
            "db_late": self.worker_db.late,
            "programs": len(self.cache),
            "program_bytes": self.cache.bytes,
            "program_hits": self.cache.hits,
            "program_misses": self.cache.misses,
            "program_evictions": self.cache.evictions,
            **{f"channel_{what}": count for what, count in self._discord.channels.counts().items()},
            "gates": len(self.state),
            "resumed": self.resume.told,
        }
        numbers |= {f"expiry_{name}": count for name, count in self.expiry.counts.items()}
        return numbers

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what runs end. Returns whether all of it did in time."""
        for task in list(self._tasks):
            task.cancel()
        return await self.dispatch.drain(timeout_s)

    async def close(self) -> None:
        """End at once: what is pending ends with ``worker_lost`` or ``not_ready``."""
        self.dispatch.ready = False
        if self._sweeper is not None:
            self._sweeper.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loads.close()
        await self.vms.close()
        self.repeats.flush()
        await self.context.close()
        self._http.close()


def _outcome(done: Callable[[Outcome], None], body: bytes) -> None:
    done(Outcome(body[1]))


def _builtins(directory: str) -> Template:
    root = Path(directory) if directory else BUILTINS_DIR
    if not root.is_dir():
        raise ConfigError(f"{root} is not a directory", hint="--builtins-dir names a tree of Luau files")
    return builtins_template(read_tree(root))
