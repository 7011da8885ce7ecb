"""`ProgramLoads`: brings tenants' programs from the database into the engines, when first needed and when changed."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from pytw.errors import InternalError, PytwError, StorageUnavailable, Unavailable, WorkerLost
from pytw.limits import Limits
from pytw.worker.cache import WorkerCacheData
from pytw.worker.state import WorkerState
from pytw.worker.template import LeftOut, Template, program, runnable
from pytw.worker.vms import Pending, WorkerVmManager
from pytw.workerdb import WorkerDb

log = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 10.0
#: A database that is away is asked again for so long while events wait: they outlive its restart.
RETRY_FOR_S = 5.0
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
NO_TEMPLATES = program([])

#: Called when the load ended, with why it failed.
Resume = Callable[[PytwError | None], None]


class _Load:
    """One tenant's load under way, the events that wait for it, and whether something changed meanwhile."""

    __slots__ = ("again", "gate", "program", "task", "waiting")

    def __init__(self) -> None:
        self.waiting: OrderedDict[int, tuple[Pending, Resume]] = OrderedDict()
        self.again = False
        self.gate = False
        self.program = False
        self.task: asyncio.Task[None]


class ProgramLoads:
    """At most one load per tenant at a time; a change during a load makes it start over."""

    def __init__(
        self, db: WorkerDb, vms: WorkerVmManager, state: WorkerState, cache: WorkerCacheData, limits: Limits
    ) -> None:
        self._db = db
        self._vms = vms
        self._state = state
        self.cache = cache
        self._limits = limits
        self._loads: dict[int, _Load] = {}
        #: The built-in template dispatches the tenant's templates itself: engines get none, and its results are theirs.
        self.loop_mode = False
        #: Hears of templates that a load left out.
        self.left_out: LeftOut = lambda tenant, name, why: None

    def wait(self, tenant: int, pending: Pending, resume: Resume) -> bool:
        """Have *resume* called when the tenant's program is loaded, in the order of these calls.

        Returns: False if too many wait already.
        """
        load = self._loads.get(tenant) or self._begin(tenant, gate=False)
        if len(load.waiting) >= self._limits.queue_events_max:
            return False
        load.waiting[pending.request] = pending, resume
        return True

    def give_up(self, tenant: int, request: int) -> Pending | None:
        """Forget a waiting request; None if it does not wait."""
        load = self._loads.get(tenant)
        entry = load.waiting.pop(request, None) if load is not None else None
        return entry[0] if entry is not None else None

    def sweep(self, now: float) -> list[Pending]:
        """Take out what has waited past its deadline."""
        late = []
        for load in self._loads.values():
            numbers = [number for number, (pending, _) in load.waiting.items() if pending.deadline < now]
            late += [load.waiting.pop(number)[0] for number in numbers]
        return late

    async def ensure(self, tenant: int) -> None:
        """Returns when the tenant's program is loaded. Raises: Unavailable."""
        if tenant not in self.cache.loaded:
            load = self._loads.get(tenant) or self._begin(tenant, gate=False)
            load.program = True
            await asyncio.shield(load.task)

    async def refresh(self, tenant: int) -> None:
        """Read the tenant's gate again, and its program if it is loaded. Raises: Unavailable.

        What was read before this call does not count: a load under way is repeated.
        """
        load = self._loads.get(tenant)
        if load is None:
            load = self._begin(tenant, gate=True)
        else:
            load.again = load.gate = True
        await asyncio.shield(load.task)

    def _begin(self, tenant: int, *, gate: bool) -> _Load:
        load = self._loads[tenant] = _Load()
        load.gate = gate
        load.task = asyncio.get_running_loop().create_task(self._run(tenant, load))
        # Waiting events hear of a failure through `resume`; then nobody may await the task.
        load.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return load

    async def _run(self, tenant: int, load: _Load) -> None:
        error: PytwError | None = None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                while True:
                    load.again = False
                    await self._read_patiently(tenant, load)
                    if not load.again:
                        break
        except PytwError as raised:
            error = raised
        except TimeoutError:
            error = StorageUnavailable(f"the templates did not come within {LOAD_TIMEOUT_S:g} s")
        except Exception as raised:
            log.exception("templates cannot be loaded", extra={"tenant": tenant})
            error = InternalError(f"the templates cannot be loaded: {type(raised).__name__}")
        finally:
            del self._loads[tenant]
            if error is None and tenant not in self.cache.loaded and load.waiting:
                error = InternalError("the load was given up")
            for _pending, resume in load.waiting.values():
                resume(error)
        if error is not None:
            raise error

    async def _read_patiently(self, tenant: int, load: _Load) -> None:
        waited_s, pause_s = 0.0, RETRY_FIRST_S
        while True:
            try:
                return await self._read(tenant, load)
            except WorkerLost:
                raise
            except Unavailable:
                if not load.waiting or waited_s >= RETRY_FOR_S:
                    raise
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def _read(self, tenant: int, load: _Load) -> None:
        if load.gate:
            await self._state.refresh(tenant)
        if tenant in self.cache.loaded or load.waiting or load.program:
            sources = [] if self.loop_mode else await self._db.program(tenant)
            self._install(tenant, runnable(sources, tenant, self._limits, self.left_out))

    def _install(self, tenant: int, templates: list[Template]) -> None:
        packed = program([template.pack() for template in templates])
        self._vms.set_program(tenant, packed)
        for oldest in self.cache.put(tenant, len(packed), templates):
            self.unload(oldest)

    def unload(self, tenant: int) -> None:
        """Take the tenant's program from its engine; the next event loads it again."""
        # An engine that takes nothing is replaced by one without programs.
        with suppress(Unavailable):
            self._vms.set_program(tenant, NO_TEMPLATES)

    async def close(self) -> None:
        """Give up the loads under way; what waits for them is answered."""
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
