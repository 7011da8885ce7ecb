"""`StateReads`: what is remembered of what templates read, and that it is bounded."""

from pytw.types import TenantState
from pytw.worker.context.statereads import ENTRY_BYTES, StateReads

from .fakes import GUILD, call

OTHER = GUILD + 1
LONG = "x" * ENTRY_BYTES


def state(revision: int) -> TenantState:
    return TenantState(frozenset(), {"long": LONG}, revision=revision)


def at(request: int, tenant: int = GUILD, template: str = "t"):
    return call("runtime.gettenantstate", request=request, tenant=tenant, template=template)


def test_base_is_of_the_template_that_read_it():
    reads = StateReads()
    reads.note_read(at(1), state(3))
    assert reads.base(at(1), 3) == reads.base(at(2), 3) == reads.base(at(1), None) == state(3)
    assert reads.base(at(1, template="other"), 3) is None
    assert reads.base(at(1, tenant=OTHER), 3) is None
    assert reads.base(at(2), None) is None
    assert reads.base(at(1), 4) is None


def test_what_was_written_is_never_taken_for_the_stores():
    reads = StateReads()
    reads.note_read(at(1), state(3))
    reads.note_written(at(1), 3, TenantState(frozenset(), {}, revision=3))
    assert reads.base(at(1), 3).revision == reads.base(at(1), None).revision == -1


def test_who_reads_late_does_not_change_what_another_request_kept():
    """A read that began before the write and ends behind it gives what was there before."""
    reads = StateReads()
    reads.note_read(at(1), state(3))
    reads.note_written(at(1), 3, TenantState(frozenset(), {"mine": 1}, revision=3))
    reads.note_read(at(2), state(3))
    assert reads.base(at(2), 3) == state(3)
    assert reads.base(at(3), 3).data == {"mine": 1}


def test_a_tenant_forgets_its_own_oldest_and_no_others():
    reads = StateReads(tenant_bytes_max=20 * ENTRY_BYTES)
    reads.note_read(at(1, OTHER), state(1))
    for number in range(100):
        reads.note_read(at(number), state(number))
    assert reads.base(at(0), 0) is None
    assert reads.base(at(99), 99) is not None
    assert reads.base(at(1, OTHER), 1) is not None
    assert reads.bytes <= 30 * ENTRY_BYTES


def test_of_too_many_tenants_the_least_active_are_forgotten():
    reads = StateReads(bytes_max=60 * ENTRY_BYTES)
    for tenant in range(100):
        reads.note_read(at(1, tenant), state(1))
        reads.note_read(at(1, GUILD), state(1))
    assert reads.base(at(1, 0), 1) is None
    assert reads.base(at(1, 99), 1) is not None
    assert reads.base(at(1, GUILD), 1) is not None
    assert reads.bytes <= 60 * ENTRY_BYTES
