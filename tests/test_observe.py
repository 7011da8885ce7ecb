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
    log = observe.dispatch_log(logging.getLogger("pytw.x"), (1 << 63) | 5, 7, template="t")
    log.error("bad", extra={"event": "MESSAGE"})
    assert out.getvalue() == "(pytw.x) ERROR - bad tenant=user:5 request=7 template=t event=MESSAGE\n"


def test_message_cannot_forge_a_line(lines):
    out = lines(level="info")
    logging.getLogger("pytw.x").info("one\n(pytw.x) ERROR - two\r\x1b[31mred")
    assert out.getvalue() == "(pytw.x) INFO - one\n    (pytw.x) ERROR - two\\x0d\\x1b[31mred\n"


def test_json_line_has_every_field(lines):
    out = lines(level="INFO", json_lines=True, worker=3)
    observe.dispatch_log(logging.getLogger("pytw.x"), 5, 7).info("one\ntwo")
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


def test_exposition_of_a_worker_carries_its_label():
    metrics = observe.Metrics()
    metrics.gauge("tw_a", "A.").set(1)
    metrics.counter("tw_b", "B.", ("kind",)).labels('a} b"').inc()
    text = metrics.exposition(worker=4)
    assert 'tw_a{worker="4"} 1.0' in text
    assert 'tw_b_total{worker="4",kind="a} b\\""} 1.0' in text


def test_merged_expositions_parse_as_one():
    from prometheus_client.parser import text_string_to_metric_families

    parts = []
    for worker in (None, 0, 1):
        metrics = observe.Metrics()
        metrics.gauge("tw_a", "A.").set(1)
        metrics.histogram("tw_h", "H.", buckets=(1.0, 2.0)).observe(1)
        parts.append(metrics.exposition(worker))
    families = {f.name: f for f in text_string_to_metric_families(observe.merged(parts))}
    assert [s.labels.get("worker") for s in families["tw_a"].samples] == [None, "0", "1"]
    assert observe.merged(parts).count("# TYPE tw_h histogram") == 1
