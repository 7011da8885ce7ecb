"""`WorkerCacheData`: bounded by bytes, and what each template may do."""

from pytw.worker.cache import ENTRY_BYTES, WorkerCacheData
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
