"""The delivery window, and its reports."""

from __future__ import annotations

import asyncio
import random

import pytest

from pytw.gateway.cursor import CursorReporter, Window
from pytw.limits import CURSOR_HOG_HOLD_S, CURSOR_HOLD_S, CURSOR_SPAN_EVENTS, CURSOR_WINDOW_EVENTS
from tests.gateway.parts import Cursors


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sequence_stops_below_the_lowest_pending():
    window = Window(10)
    for number in (11, 12, 13, 14):
        window.start(number, 1, 0.0)
    window.end(11)
    window.end(13)
    assert window.snapshot() == (11, [13])
    window.end(12)
    assert window.snapshot() == (13, [])
    window.end(14)
    assert window.snapshot() == (14, [])


def test_events_nobody_listens_for_count_as_done():
    window = Window()
    window.start(1, 1, 0.0)
    window.received = 5
    assert window.snapshot() == (0, [2, 3, 4, 5])
    window.end(1)
    assert window.snapshot() == (5, [])


def test_numbers_done_by_an_earlier_process_stay_reported_until_they_are_replayed():
    window = Window(10, (12, 15))
    assert window.snapshot() == (10, [12, 15])
    window.start(11, 1, 0.0)
    assert window.was_done(12)
    window.received = 12
    assert window.snapshot() == (10, [12, 15])
    window.end(11)
    assert window.snapshot() == (12, [15])


def test_window_is_full_by_what_is_pending_or_not_yet_reported():
    window = Window()
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        assert not window.full
        window.start(number, 1, 0.0)
    assert window.full
    window.end(1)
    assert window.full
    window.reported()
    assert not window.full


def test_only_the_first_window_of_a_replay_may_have_run():
    window = Window(0, maybe_run=2)
    assert [window.start(number, 1, 0.0) for number in (1, 2, 3)] == [True, True, False]


def test_nothing_above_a_closed_intake_has_run():
    before = Window(5)
    before.start(6, 1, 0.0)
    before.start(7, 1, 0.0)
    before.end(7)
    before.closed = True
    sequence, above = before.snapshot()
    assert (sequence, above) == (5, [7, -7])
    after = Window(sequence, tuple(above), maybe_run=2)
    assert after.start(6, 1, 0.0)
    assert after.was_done(7)
    assert not after.start(8, 1, 0.0)


def test_full_window_releases_what_is_old():
    window = Window()
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        window.start(number, number % 8, 0.0)
    assert window.make_room(CURSOR_HOLD_S - 1) == CURSOR_HOLD_S
    assert window.full
    assert window.released == 0
    window.make_room(CURSOR_HOLD_S)
    assert window.released == CURSOR_WINDOW_EVENTS
    assert window.snapshot() == (CURSOR_WINDOW_EVENTS, [])


def test_tenant_that_holds_more_than_a_quarter_is_released_earlier_down_to_it():
    window = Window()
    quarter = CURSOR_WINDOW_EVENTS // 4
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        window.start(number, 1 if number <= 2 * quarter else number, 0.0)
    window.make_room(CURSOR_HOG_HOLD_S)
    assert window.released == quarter
    assert len(window) == CURSOR_WINDOW_EVENTS - quarter


def test_busy_tenant_is_no_hog_while_its_events_end():
    window = Window()
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        window.start(number, 1, 0.0)
    window.end(1, CURSOR_HOG_HOLD_S - 0.5)
    window.make_room(CURSOR_HOG_HOLD_S)
    assert window.released == 0
    window.make_room(2 * CURSOR_HOG_HOLD_S - 0.5)
    assert window.released > 0


def test_busy_tenant_holds_a_full_window_no_longer_than_others():
    window = Window()
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        window.start(number, 1, 0.0)
    window.end(1, CURSOR_HOLD_S)
    window.make_room(CURSOR_HOLD_S)
    assert window.released > 0


def test_span_of_a_cursor_is_bounded():
    window = Window()
    window.start(1, 1, 0.0)
    for number in range(2, CURSOR_SPAN_EVENTS + 10):
        window.start(number, 2, 0.0)
        window.end(number)
    assert window.released == 1
    assert len(window.snapshot()[1]) <= CURSOR_SPAN_EVENTS


def test_nothing_that_is_not_done_is_ever_reported_as_done():
    chance = random.Random(7)
    for _ in range(200):
        window, pending, number = Window(), set(), 0
        for _ in range(100):
            number += chance.choice((1, 1, 1, 2))
            if chance.random() < 0.6:
                window.start(number, 1, 0.0)
                pending.add(number)
            else:
                window.received = number
            if pending and chance.random() < 0.5:
                ended = chance.choice(sorted(pending))
                window.end(ended)
                pending.discard(ended)
            sequence, above = window.snapshot()
            assert pending == {n for n in range(1, number + 1) if n > sequence and n not in above}


async def test_changes_are_reported_together_and_a_quiet_shard_reports_nothing():
    cursors = Cursors()
    reporter = CursorReporter(cursors, shards=1, shard=0, clock=Clock())
    reporter.follow("s", "u", Window())
    for number in range(1, 50):
        reporter.passed(number)
    await cursors.until(lambda cursor: cursor.sequence == 49)
    assert len(cursors.reports) == 2
    assert reporter._armed is None


async def test_forgotten_session_is_reported_as_gone_once():
    cursors = Cursors()
    reporter = CursorReporter(cursors, shards=1, shard=0, clock=Clock())
    reporter.follow("s", "u", Window(3))
    reporter.forget()
    reporter.forget()
    assert cursors.reports[1:] == [None]


async def test_end_of_an_earlier_sessions_event_changes_nothing():
    cursors = Cursors()
    reporter = CursorReporter(cursors, shards=1, shard=0, clock=Clock())
    old = Window()
    reporter.follow("s", "u", old)
    old.start(1, 1, 0.0)
    reporter.follow("t", "u", Window(1))
    reporter.window.start(2, 1, 0.0)
    reporter.end(old, 1)
    reporter.close()
    assert cursors.kept[0].session_id == "t"
    assert cursors.kept[0].sequence == 1


async def test_room_comes_with_the_first_end():
    reporter = CursorReporter(Cursors(), shards=1, shard=0, clock=Clock())
    reporter.follow("s", "u", Window())
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        reporter.window.start(number, number, 0.0)
    waiting = asyncio.create_task(reporter.room())
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    reporter.end(reporter.window, 5)
    await asyncio.wait_for(waiting, 5)
    assert not reporter.window.full


@pytest.mark.parametrize("later", [CURSOR_HOLD_S])
async def test_room_comes_with_age(later: float):
    clock = Clock()
    reporter = CursorReporter(Cursors(), shards=1, shard=0, clock=clock)
    reporter.follow("s", "u", Window())
    for number in range(1, CURSOR_WINDOW_EVENTS + 1):
        reporter.window.start(number, number, 0.0)
    clock.now = later
    await asyncio.wait_for(reporter.room(), 5)
    assert reporter.window.released == CURSOR_WINDOW_EVENTS
