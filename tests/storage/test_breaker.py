"""The circuit breaker, by its own clock."""

from __future__ import annotations

import pytest

from pytw.errors import StorageUnavailable
from pytw.limits import BREAKER_FAILURES, BREAKER_PROBE_S_MAX, BREAKER_WAIT_FIRST_S, BREAKER_WAIT_S_MAX
from pytw.storage.breaker import Breaker, State


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def fail(breaker: Breaker, times: int = BREAKER_FAILURES) -> None:
    for _ in range(times):
        breaker.failed("refused")


def test_it_opens_after_failures_in_a_row_only(breaker: Breaker) -> None:
    for _ in range(10):
        fail(breaker, BREAKER_FAILURES - 1)
        breaker.answered()
    breaker.admit()
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert (breaker.state, breaker.opened) == (State.OPEN, 1)


def test_open_it_says_when_the_next_try_is_and_why(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = 0.1
    with pytest.raises(StorageUnavailable) as caught:
        breaker.admit()
    assert str(caught.value) == "the database is away and is tried again in 0.1 s (refused)"
    assert breaker.refused == 1


def test_one_caller_probes_and_its_success_closes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = BREAKER_WAIT_FIRST_S
    breaker.admit()
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="is being tried now"):
            breaker.admit()
    breaker.answered()
    breaker.admit()
    assert breaker.state is State.CLOSED


def test_each_probe_that_fails_doubles_the_wait_up_to_its_bound(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    waits = []
    for _ in range(8):
        began = clock.now
        while breaker.state is State.OPEN:
            clock.now += 0.125
            try:
                breaker.admit()
            except StorageUnavailable:
                continue
        waits.append(clock.now - began)
        breaker.failed("refused")
    assert waits == [0.25, 0.5, *[BREAKER_WAIT_S_MAX] * 6]
    assert breaker.opened == 1
    breaker.answered()
    fail(breaker)
    clock.now += BREAKER_WAIT_FIRST_S
    breaker.admit()


def test_probe_of_a_caller_that_gave_up_gives_way_to_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now = 1.0
    breaker.admit()
    clock.now += BREAKER_PROBE_S_MAX
    breaker.admit()
    assert breaker.state is State.PROBING


def test_word_that_the_database_is_back_is_tried_at_once(breaker: Breaker, clock: Clock) -> None:
    breaker.try_now()
    assert breaker.state is State.CLOSED
    fail(breaker)
    breaker.try_now()
    breaker.admit()
    assert breaker.state is State.PROBING
