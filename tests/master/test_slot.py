"""The restart theory, with time as a number."""

from pytw.master.slot import LEAVE_TIMEOUT_S, START_TIMEOUT_S, Do, SlotMachine, State


def born(now: float = 0.0) -> SlotMachine:
    machine = SlotMachine(0)
    assert machine.tick(now) == [Do.SPAWN]
    machine.ready(now)
    return machine


def die_and_wait(machine: SlotMachine, now: float) -> tuple[float, list[Do]]:
    """The seconds until the next spawn, and what was asked for at the death."""
    todo = machine.exited(now)
    return (0.0 if Do.SPAWN in todo else machine.due - now), todo


def test_restart_delays_are_0_3_6_9_12_15_15() -> None:
    machine = born()
    waits = []
    now = 0.0
    for _ in range(8):
        wait, _ = die_and_wait(machine, now)
        waits.append(wait)
        now += wait
        machine.tick(now)
        machine.ready(now)
    assert waits == [0, 3, 6, 9, 12, 15, 15, 15]


def test_healthy_minute_resets_the_count_and_a_spawn_does_not() -> None:
    machine = born()
    machine.exited(1.0)
    machine.ready(1.0)
    machine.exited(2.0)
    machine.tick(5.0)
    machine.ready(5.0)
    assert die_and_wait(machine, 64.9)[0] == 6
    machine.tick(71.0)
    machine.ready(71.0)
    assert die_and_wait(machine, 131.0)[0] == 0


def test_tenth_failure_in_a_row_alarms_once_and_slows_to_a_try_a_minute() -> None:
    machine = born()
    now, alarms, waits = 0.0, 0, []
    for _ in range(12):
        wait, todo = die_and_wait(machine, now)
        alarms += todo.count(Do.ALARM)
        waits.append(wait)
        now += wait
        machine.tick(now)
    assert alarms == 1
    assert waits[9:] == [60.0, 60.0, 60.0]
    assert machine.crash_loop


def test_next_process_is_asked_for_only_after_the_exit_of_the_one_before() -> None:
    machine = born()
    assert machine.lost() == [Do.KILL]
    assert machine.tick(100.0) == []
    assert machine.exited(100.0) == [Do.SPAWN]


def test_worker_that_loses_its_link_is_killed() -> None:
    machine = born()
    assert machine.lost(deaf=True) == [Do.KILL]
    assert machine.deaf


def test_late_tick_of_the_master_kills_no_worker_that_starts() -> None:
    machine = SlotMachine(0)
    machine.tick(0.0)
    assert machine.tick(40.0, late_s=39.9) == []
    assert machine.tick(START_TIMEOUT_S + 41.0) == [Do.KILL]


def test_worker_that_never_becomes_ready_is_killed() -> None:
    machine = SlotMachine(0)
    machine.tick(0.0)
    assert machine.tick(START_TIMEOUT_S - 0.1) == []
    assert machine.tick(START_TIMEOUT_S) == [Do.KILL]


def test_replacement_is_no_failure_and_has_no_delay() -> None:
    machine = born()
    assert machine.leave(5.0) == [Do.LEAVE]
    assert machine.lost() == []
    assert machine.exited(6.0) == [Do.SPAWN]
    assert machine.failures == 0


def test_closed_slot_starts_nothing_again() -> None:
    machine = born()
    assert machine.close(1.0) == [Do.LEAVE]
    assert machine.exited(2.0) == []
    assert machine.state is State.CLOSED
    assert machine.tick(100.0) == []


def test_worker_that_does_not_leave_in_time_is_killed() -> None:
    machine = born()
    machine.close(1.0)
    assert machine.tick(13.0) == [Do.KILL]


def test_failed_spawn_counts_as_a_failure() -> None:
    machine = SlotMachine(0)
    machine.tick(0.0)
    assert machine.exited(0.0) == [Do.SPAWN]
    assert machine.exited(0.0) == []
    assert machine.due == 3.0


def test_worker_that_says_it_ends_has_time_for_it_and_counts_as_a_failure() -> None:
    machine = SlotMachine(0)
    machine.tick(0.0)
    assert machine.ends(1.0)
    assert not machine.ends(1.0)
    assert machine.lost() == []
    assert machine.tick(2.0) == []
    assert machine.exited(2.0) == [Do.SPAWN]
    assert machine.failures == 1


def test_worker_that_says_it_ends_and_does_not_is_killed() -> None:
    machine = SlotMachine(0)
    machine.tick(0.0)
    machine.ends(0.0)
    assert machine.tick(LEAVE_TIMEOUT_S) == [Do.KILL]
