"""Random operations of two tenants on objects, with crashes between the steps, against a dict.

Per key the store is linearizable: what was acknowledged is there; a write that broke off has happened if its bytes had come
to the bucket, a deletion from its first step on, and everybody sees so from then on. Tenants have nothing of each other, and their room is exact. All in a folder inside a canary.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pytw.errors import LimitExceeded, NotFound
from pytw.limits import Limits
from pytw.storage.objectkeys import blob_path
from pytw.storage.objectrows import ObjectRows
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database, open_pool
from pytw.types import Id
from tests.storage.objectplaces import Crash, Fragile, LocalPlace

KEYS = ["a", "a/b", "a_b", "ab", "%", "é.png", "d/" * 100 + "x"]
PREFIXES = ["", "a", "a/", "a_", "%", "d/", "zz"]
ROOM = 2000
SIZES = [0, 1, 999, 1000, 1001, 2000, 2001]
LIMITS = Limits(objects_bytes_max=ROOM, objects_max=4)
PUT_STEPS = ["before put", "after put"]
DELETE_STEPS = ["before delete", "after delete"]
_numbers = itertools.count(1)

owners = st.integers(0, 1)
keys = st.sampled_from(KEYS)


class ObjectsMachine(RuleBasedStateMachine):
    database: Database
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="pytw-objects-")
        self.place = LocalPlace(Path(self._folder.name))
        number = next(_numbers)
        # The second's id starts with the first's.
        self.owners = [Id.guild(1_000_000 + number), Id.guild((1_000_000 + number) * 10 + number % 10)]
        self.model: list[dict[str, bytes]] = [{}, {}]
        self.rows = ObjectRows(self.database, LIMITS)
        self.bodies = itertools.count()
        self.restart()

    def run_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def body(self, size: int) -> bytes:
        """No two are the same, as far as their size allows."""
        return next(self.bodies).to_bytes(4, "big")[-size:].ljust(size, b"x") if size else b""

    def may_put(self, owner: int, key: str, size: int) -> bool:
        """Whether there is room. What has broken off takes none that a refusal would not find."""
        mine = self.model[owner]
        others = [data for name, data in mine.items() if name != key]
        grows = size > len(mine.get(key, b""))
        if key not in mine and len(others) >= LIMITS.objects_max:
            return False
        return not grows or sum(map(len, others)) + size <= ROOM

    def break_off(self, call: Coroutine[Any, Any, None], step: str, *, restarts: bool) -> type[Exception] | None:
        """How a call ended that was told to crash; the process may go on, or a new one may."""
        self.blobs.crash(step)
        try:
            self.run_(call)
        except (Crash, LimitExceeded, NotFound) as error:
            ended: type[Exception] | None = type(error)
        else:
            ended = None
        self.blobs.before.clear()
        self.blobs.after.clear()
        if restarts:
            self.restart()
        return ended

    @rule()
    def restart(self) -> None:
        """A new process: nothing is left but the rows and the bytes."""
        self.blobs = Fragile(self.place.blobs())
        self.store = ObjectStore(self.database, self.blobs, LIMITS)

    @rule(owner=owners, key=keys, size=st.sampled_from(SIZES))
    def put(self, owner: int, key: str, size: int) -> None:
        data, may = self.body(size), self.may_put(owner, key, size)
        try:
            self.run_(self.store.put(self.owners[owner], key, data))
        except LimitExceeded:
            assert not may
        else:
            assert may
            self.model[owner][key] = data

    @rule(owner=owners, key=keys, size=st.sampled_from(SIZES), step=st.sampled_from(PUT_STEPS), restarts=st.booleans())
    def put_breaks_off(self, owner: int, key: str, size: int, step: str, restarts: bool) -> None:
        data, may = self.body(size), self.may_put(owner, key, size)
        ended = self.break_off(self.store.put(self.owners[owner], key, data), step, restarts=restarts)
        assert ended is (Crash if may else LimitExceeded)
        if may and step == "after put":
            self.model[owner][key] = data

    @rule(owner=owners, key=keys)
    def delete(self, owner: int, key: str) -> None:
        there = self.model[owner].pop(key, None) is not None
        try:
            self.run_(self.store.delete(self.owners[owner], key))
        except NotFound:
            assert not there
        else:
            assert there

    @rule(owner=owners, key=keys, step=st.sampled_from(DELETE_STEPS), restarts=st.booleans())
    def delete_breaks_off(self, owner: int, key: str, step: str, restarts: bool) -> None:
        """It is promised from the first step on. Ending an earlier deletion may break off, too."""
        there = self.model[owner].pop(key, None) is not None
        ended = self.break_off(self.store.delete(self.owners[owner], key), step, restarts=restarts)
        assert ended is Crash or (ended is NotFound and not there)

    @rule(owner=owners, key=keys)
    def get(self, owner: int, key: str) -> None:
        there = self.model[owner].get(key)
        try:
            assert self.run_(self.store.get(self.owners[owner], key)) == there
        except NotFound:
            assert there is None
        assert self.run_(self.store.exists(self.owners[owner], key)) == (there is not None)

    @rule(owner=owners, prefix=st.sampled_from(PREFIXES), limit=st.integers(1, 3))
    def list_pages(self, owner: int, prefix: str, limit: int) -> None:
        found: list[tuple[str, int]] = []
        after: str | None = None
        while page := self.run_(self.store.list(self.owners[owner], prefix, limit=limit, after=after)):
            assert len(page) <= limit
            found += [(item.key, item.size) for item in page]
            after = page[-1].key
        mine = ((key, len(data)) for key, data in self.model[owner].items() if key.startswith(prefix))
        assert found == sorted(mine, key=lambda item: item[0].encode())

    @rule(owner=owners)
    def room_is_exact(self, owner: int) -> None:
        self.list_pages(owner, "", 3)
        used = self.run_(self.rows.usage(self.owners[owner]))
        assert (used.objects, used.bytes) == (len(self.model[owner]), sum(map(len, self.model[owner].values())))

    @invariant()
    def nothing_else_changes(self) -> None:
        self.run_(self.place.check_canary())
        mine = {blob_path(self.owners[owner], key) for owner in (0, 1) for key in KEYS}
        assert self.run_(self.place.raw()).keys() <= mine

    def teardown(self) -> None:
        for owner in (0, 1):
            self.room_is_exact(owner)
            for key in KEYS:
                self.get(owner, key)
        self._folder.cleanup()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_objects_are_a_dict_whatever_breaks_off(database_url: str) -> None:
    loop = asyncio.new_event_loop()
    try:
        database = loop.run_until_complete(open_pool(database_url, 2))
        machine = type("Machine", (ObjectsMachine,), {"database": database, "loop": loop})
        steps = settings(
            max_examples=60,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=steps)
        loop.run_until_complete(database.close())
    finally:
        loop.close()
