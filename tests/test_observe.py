"""`pytw.observe`: the documented line, JSON lines, fields of a dispatch, one registry."""

import io
import json
import logging

import pytest

from pytw import observe


@pytest.fixture
def lines():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()

    def take(**options):
        observe.setup_logging(stream=stream, **options)
        return stream

    yield take
    root.handlers[:], root.level = before, level


def test_line_of_a_worker_is_the_documented_one(lines):
    out = lines(level="info", worker=0)
    logging.getLogger("pytw.x").warning("hello %s", "you")
    assert out.getvalue() == "[Worker 0] (pytw.x) WARN - hello you\n"


def test_line_of_the_master_has_no_worker(lines):
    out = lines(level="info")
    logging.getLogger("pytw.x").info("hello")
    logging.getLogger("pytw.x").debug("not this")
    assert out.getvalue() == "(pytw.x) INFO - hello\n"


def test_line_of_a_dispatch_names_tenant_and_request(lines):
    out = lines(level="info")
    extra = {"tenant": (1 << 63) | 5, "request": 7, "template": "t\n", "event": "MESSAGE"}
    logging.getLogger("pytw.x").error("bad", extra=extra)
    assert out.getvalue() == "(pytw.x) ERROR - bad tenant=user:5 request=7 template=t\n     event=MESSAGE\n"


def test_message_cannot_forge_a_line(lines):
    out = lines(level="info")
    logging.getLogger("pytw.x").info("one\n(pytw.x) ERROR - two\r\x1b[31mred")
    assert out.getvalue() == "(pytw.x) INFO - one\n    (pytw.x) ERROR - two\\x0d\\x1b[31mred\n"


def test_json_line_has_every_field(lines):
    out = lines(level="INFO", json_lines=True, worker=3)
    logging.getLogger("pytw.x").info("one\ntwo", extra={"tenant": 5, "request": 7})
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "INFO",
        "target": "pytw.x",
        "worker": 3,
        "tenant": "5",
        "request": 7,
        "message": "one\ntwo",
    }
    assert out.getvalue().count("\n") == 1


def test_exception_keeps_its_traceback(lines):
    out = lines(level="info", json_lines=True)
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("pytw.x").exception("bad")
    assert "ValueError: x" in json.loads(out.getvalue())["exception"]


def test_same_metric_twice_is_one_metric():
    metrics = observe.Metrics()
    metrics.counter("tw_a", "A.", ("kind",)).labels("x").inc()
    metrics.counter("tw_a", "A.", ("kind",)).labels("x").inc()
    assert 'tw_a_total{kind="x"} 2.0' in metrics.exposition()
