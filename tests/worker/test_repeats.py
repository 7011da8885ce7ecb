"""`Repeats`: nothing is lost but the same words over and over."""

import logging

from pytw.worker.repeats import LINES_REMEMBERED_MAX, SAME_LINES_MAX, Repeats

LOG = logging.getLogger("tests.repeats")


def said(caplog) -> list[tuple[int, str]]:
    return [(record.tenant, record.getMessage()) for record in caplog.records]


def test_same_line_over_and_over_becomes_a_few_and_a_count(caplog):
    caplog.set_level(logging.INFO)
    repeats = Repeats(LOG)
    for number in range(SAME_LINES_MAX + 7):
        repeats.write(logging.INFO, "t: again", 1, f"0-{number}")
    repeats.write(logging.INFO, "t: again", 2, "0-99")
    repeats.write(logging.INFO, "t: other", 1, "0-100")
    assert said(caplog) == [(1, "t: again")] * SAME_LINES_MAX + [(2, "t: again"), (1, "t: other")]
    assert [record.request for record in caplog.records][:2] == ["0-0", "0-1"]
    caplog.clear()
    repeats.flush()
    assert said(caplog) == [(1, "t: again (repeated 7 times)")]
    repeats.flush()
    repeats.write(logging.INFO, "t: again", 1, "0-101")
    assert said(caplog)[1:] == [(1, "t: again")]


def test_more_lines_than_it_remembers_are_written_all_the_same(caplog):
    caplog.set_level(logging.INFO)
    repeats = Repeats(LOG)
    for number in range(LINES_REMEMBERED_MAX + 3):
        repeats.write(logging.INFO, f"t: {number}", 1, "0-1")
    assert len(caplog.records) == LINES_REMEMBERED_MAX + 3
