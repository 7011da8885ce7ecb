"""`Why`: the last notes of a tenant, bounded in every direction."""

from pytw.types import Outcome
from pytw.worker.why import LINES_PER_TENANT_S, NOTES_PER_TENANT_MAX, TENANTS_MAX, Why


def test_only_the_last_notes_are_kept():
    why = Why(clock=lambda: 5.0)
    for number in range(NOTES_PER_TENANT_MAX + 3):
        why.note(1, f"E{number}", Outcome.SHED, "worker_queue")
    notes = why.of(1)
    assert len(notes) == NOTES_PER_TENANT_MAX
    assert notes[-1] == (5.0, f"E{NOTES_PER_TENANT_MAX + 2}", Outcome.SHED, "worker_queue")


def test_least_recently_noted_tenants_are_forgotten():
    why = Why()
    for tenant in range(TENANTS_MAX + 1):
        why.note(tenant, "E", Outcome.BANNED, None)
    assert why.of(0) == []
    assert len(why.of(1)) == 1


def test_drops_are_counted_by_reason():
    why = Why()
    why.note(1, "E", Outcome.SHED, "worker_queue", counted_as="worker_queue")
    why.note(2, "E", Outcome.SHED, "worker_queue", counted_as="worker_queue")
    assert why.counts == {(Outcome.SHED, "worker_queue"): 2}


def test_lines_of_a_tenant_are_limited_per_second():
    now = [7.0]
    why = Why(clock=lambda: now[0])
    said = [why.note(1, "E", Outcome.SCRIPT_ERROR, "x") for _ in range(20)]
    assert said == [True] * LINES_PER_TENANT_S + [False] * (20 - LINES_PER_TENANT_S)
    now[0] = 8.0
    assert why.note(1, "E", Outcome.SCRIPT_ERROR, "x")
