"""What a worker remembers of tenants is bounded, however many it has seen."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pytw.limits import RATE_TENANTS_MAX
from pytw.types import Outcome
from pytw.worker.cache import ENTRY_BYTES
from pytw.worker.loads import NO_TEMPLATES
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, call
from .workerlike_contract import event, spec

TENANTS = 50_000
AT_ONCE = 2_000
#: No structure may hold more; the bounds of single ones are smaller.
ENTRIES_MAX = RATE_TENANTS_MAX
PROGRAMS_MAX = 10_000
_CONTAINERS = (dict, set, frozenset, list, tuple, deque)


def large(root: Any, entries_max: int) -> dict[str, int]:
    """Every container of more than *entries_max* entries that is reachable from *root* through our own objects."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("worker", root)]
    while waiting:
        path, thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _CONTAINERS):
            if len(thing) > entries_max:
                found[path] = len(thing)
            parts = [*thing.keys(), *thing.values()] if isinstance(thing, Mapping) else list(thing)
            waiting += [(f"{path}[]", part) for part in parts if not isinstance(part, (int, str, bytes))]
        else:
            waiting += [(f"{path}.{name}", part) for name, part in _parts(thing)]
    return found


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, types.MethodType):
        yield "self", thing.__self__
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            yield "closure", cell.cell_contents
    elif type(thing).__module__.startswith("pytw.") and not isinstance(thing, (type, MemoryDb)):
        yield from getattr(thing, "__dict__", {}).items()
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    yield name, getattr(thing, name)


@pytest.fixture
async def worker(tmp_path: Path):
    """Its built-ins listen for nothing that is sent here: programs are loaded, and no VM is needed."""
    (tmp_path / "init.luau").write_text("return { NEVER_SENT = function() end }")
    made = Worker(structs.replace(spec(), builtins_dir=str(tmp_path)), MemoryDb(), MemoryDiscord())
    # As many empty programs as the real bound holds of 26 KB each.
    made.cache._bytes_max = PROGRAMS_MAX * (ENTRY_BYTES + len(NO_TEMPLATES))
    thread = WorkerThread(made)
    await thread.start()
    yield made
    await thread.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.weakness(26)
async def test_fifty_thousand_tenants_leave_no_structure_over_its_bound(worker: Worker) -> None:
    """Events that pass the gate and others, host calls, quarantines, changes of their templates."""
    ended: dict[Outcome, int] = {}
    left = 0
    done = asyncio.Event()

    def count(body: bytes) -> None:
        nonlocal left
        outcome = Outcome(body[1])
        ended[outcome] = ended.get(outcome, 0) + 1
        left -= 1
        if not left:
            done.set()

    handler = worker.context._operations["runtime.gettenantstate"].handler
    for first in range(1, TENANTS + 1, AT_ONCE):
        tenants = [number << 22 for number in range(first, first + AT_ONCE)]
        left = 2 * len(tenants)
        done.clear()
        for tenant in tenants:
            worker.dispatch.dispatch(tenant, event("INTERACTION_CREATE"), count)
            worker.dispatch.dispatch(tenant, event("NOBODY_LISTENS"), count)
            worker.context._rates.spend(tenant, "kv", "get")
            worker.state.quarantine(tenant, 1.0)
        await done.wait()
        if first <= ENTRIES_MAX + AT_ONCE:
            # Slower, so with fewer: more than any structure may hold.
            await asyncio.gather(*(handler(call("", tenant=tenant)) for tenant in tenants))
            await asyncio.gather(*(worker.refresh_tenant(tenant) for tenant in tenants))
    assert ended == {Outcome.NOT_SUBSCRIBED: 2 * TENANTS}
    assert worker.cache.misses == TENANTS
    assert large(worker, ENTRIES_MAX) == {}
    assert len(worker.cache) <= PROGRAMS_MAX
    assert worker.cache.evictions >= TENANTS - PROGRAMS_MAX
    assert large(worker, 1_000) != {}


async def test_the_search_for_large_structures_finds_them(worker: Worker) -> None:
    """What the test above is worth: it sees into slots, closures, bound methods and nested containers."""
    worker.state.blocked.update(dict.fromkeys(range(300), 1.0))
    worker.dispatch.why._tenants.update(dict.fromkeys(range(300)))  # type: ignore[arg-type]
    found = large(worker, 299)
    assert {path.rpartition(".")[2] for path in found} == {"blocked", "_tenants"}


async def test_gates_are_kept_of_tenants_with_a_row_only(worker: Worker) -> None:
    for tenant in range(1 << 22, 50 << 22, 1 << 22):
        await worker.refresh_tenant(tenant)
    assert len(worker.state) == 0


async def test_a_quarantine_that_is_over_is_forgotten_when_another_begins(worker: Worker) -> None:
    now = 100.0
    worker.state._clock = lambda: now
    for tenant in range(1, 1_000):
        worker.state.quarantine(tenant, now + 10)
        now += 11
    assert len(worker.state.blocked) == 1
