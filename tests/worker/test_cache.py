"""`WorkerCacheData`: bounded by bytes, and what each template may do."""

from pytw.worker.cache import ENTRY_BYTES, FlushOthers, FlushSelf, WorkerCacheData
from pytw.worker.template import Template

from .fakes import template

A, B, C = 1 << 22, 2 << 22, 3 << 22


def test_least_recently_used_programs_leave_first():
    cache = WorkerCacheData(3 * (ENTRY_BYTES + 100))
    for tenant in (A, B, C):
        assert cache.put(tenant, 100, []) == []
    cache.loaded.move_to_end(A)
    assert cache.put(4 << 22, 100, []) == [B]
    assert list(cache.loaded) == [C, A, 4 << 22]


def test_program_that_alone_is_too_big_stays_until_the_next():
    cache = WorkerCacheData(1000)
    assert cache.put(A, 5000, []) == []
    assert cache.put(B, 10, []) == [A]
    assert cache.bytes == ENTRY_BYTES + 10


def test_replacing_a_program_replaces_its_bytes():
    cache = WorkerCacheData(1 << 20)
    cache.put(A, 5000, [])
    cache.put(A, 10, [])
    assert cache.bytes == ENTRY_BYTES + 10
    cache.forget(A)
    assert cache.bytes == 0


def test_capabilities_are_those_of_the_template_now():
    cache = WorkerCacheData(1 << 20)
    cache.put(A, 1, [Template(template("t", "", "X", caps=["kv:*"]))])
    assert cache.caps(A, "t") == {"kv:*"}
    assert cache.caps(A, "gone") == frozenset()
    assert cache.caps(A, "$builtins") == {"*"}


def test_own_template_of_the_builtin_name_gains_nothing():
    cache = WorkerCacheData(1 << 20)
    cache.put(A, 1, [Template(template("$builtins", "", "X", caps=[]))])
    assert cache.caps(A, "$builtins") == frozenset()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_not_used_for_its_life_is_unloaded():
    clock = Clock()
    cache = WorkerCacheData(1 << 20, 10, clock=clock)
    for tenant in (A, B, C):
        cache.put(tenant, 100, [])
    clock.now = 6
    assert cache.use(A, clock.now)
    clock.now = 10
    assert cache.expire() == []
    clock.now = 11
    assert cache.expire() == [B, C]
    assert list(cache.loaded) == [A]
    assert cache.bytes == ENTRY_BYTES + 100
    clock.now = 17
    assert cache.expire() == [A]
    assert (cache.bytes, cache.expire()) == (0, [])


def test_use_of_programs_is_counted():
    cache = WorkerCacheData(2 * ENTRY_BYTES)
    assert not cache.use(A, 0.0)
    cache.put(A, 0, [])
    assert cache.use(A, 0.0)
    cache.put(B, 0, [])
    cache.put(C, 0, [])
    assert (cache.hits, cache.misses, cache.evictions) == (1, 1, 1)


def test_no_deferred_regeneration_takes_the_place_of_another():
    cache = WorkerCacheData(1_000)
    cache.defer(1, 10, FlushSelf())
    cache.defer(1, 10, FlushOthers(frozenset({2})))
    cache.defer(1, 10, FlushOthers(frozenset({3})))
    cache.defer(1, 11, FlushSelf())
    cache.defer(2, 10, FlushSelf())
    assert cache.due(1, 10) == {FlushSelf(), FlushOthers(frozenset({2})), FlushOthers(frozenset({3}))}
    assert cache.due(1, 10) == set()
    assert cache.due(1, 11) == {FlushSelf()}
    assert cache.regenerations == {2: {10: {FlushSelf()}}}
