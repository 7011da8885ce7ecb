"""The protocol core, fed with frames made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytw.errors import (
    DeadlineExceeded,
    LimitExceeded,
    NotFound,
    Overloaded,
    ProtocolError,
    PytwError,
    Unavailable,
    WorkerLost,
    _walk,
)
from pytw.limits import FRAME_BYTES_MAX, HEARTBEATS_MISSED_MAX, RECORD_BYTES_MAX
from pytw.mesophyll._framing import join, split
from pytw.mesophyll.channel import DEADLINES_SPARE, Call, Channel
from pytw.mesophyll.records import Kind

Settled = list[tuple[bytes, PytwError | None]]


def channel(handlers: Any = None, **kw: Any) -> Channel:
    return Channel(handlers or {}, on_output=lambda: None, **kw)


def sent(c: Channel) -> list[tuple[int, int, int, bytes]]:
    return [record for frame in c.take() for record in split(frame)]


def ask(c: Channel, tenant: int = 7, **kw: Any) -> tuple[int, Settled]:
    settled: Settled = []
    number = c.request(Kind.DISPATCH, tenant, b"x", lambda body, error: settled.append((body, error)), **kw)
    return number, settled


def failed(code: str, detail: str, hint: str | None = None) -> bytes:
    return msgspec.msgpack.encode((code, detail, hint))


def test_a_result_settles_its_request_once() -> None:
    c = channel()
    number, settled = ask(c)
    assert sent(c) == [(Kind.DISPATCH, number, 7, b"x")]
    answer = join([(Kind.RESULT, number, 7, b"done")])
    c.receive(answer)
    c.receive(answer)
    assert settled == [(b"done", None)]
    assert (c.pending, c.ignored) == (0, 1)


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.FAILED])
def test_answers_to_nothing_or_of_another_tenant_are_ignored_and_counted(kind: Kind) -> None:
    c = channel()
    number, settled = ask(c, tenant=7)
    for request, tenant in ((number + 1, 7), (0, 7), (2**64 - 1, 7), (number, 8)):
        c.receive(join([(kind, request, tenant, failed("not_found", "x"))]))
    assert (settled, c.ignored, c.pending) == ([], 4, 1)


@pytest.mark.parametrize("cls", sorted(_walk(PytwError).values(), key=lambda cls: cls.code))
def test_every_error_crosses_as_its_class(cls: type[PytwError]) -> None:
    master, worker = channel(), channel({Kind.DISPATCH: lambda call: call.fail(cls("why", hint="so"))})
    _, settled = ask(master)
    for frame in master.take():
        worker.receive(frame)
    for frame in worker.take():
        master.receive(frame)
    ((_, error),) = settled
    assert type(error) is cls
    assert (error.detail, error.hint) == ("why", "so")


def test_what_a_handler_raises_is_the_answer() -> None:
    def missing(call: Call) -> None:
        raise NotFound("no such thing")

    def broken(call: Call) -> None:
        raise KeyError("secret")

    c = channel({Kind.CHECK: missing, Kind.REFRESH: broken})
    c.receive(join([(Kind.CHECK, 1, 5, b""), (Kind.REFRESH, 2, 5, b""), (Kind.REFRESH, 0, 5, b"")]))
    first, second = sent(c)
    assert first == (Kind.FAILED, 1, 5, failed("not_found", "no such thing"))
    assert second[:3] == (Kind.FAILED, 2, 5)
    assert b"secret" not in second[3]


def test_a_call_is_answered_once() -> None:
    calls: list[Call] = []
    c = channel({Kind.DISPATCH: calls.append})
    c.receive(join([(Kind.DISPATCH, 4, 5, b"x")]))
    calls[0].answer(b"a")
    calls[0].answer(b"b")
    calls[0].fail(NotFound("c"))
    assert sent(c) == [(Kind.RESULT, 4, 5, b"a")]


def test_request_zero_wants_no_answer() -> None:
    c = channel({Kind.DISPATCH: lambda call: call.answer(b"a")})
    c.receive(join([(Kind.DISPATCH, 0, 5, b"x")]))
    assert sent(c) == []


def test_a_request_number_in_flight_is_refused_a_second_time() -> None:
    c = channel({Kind.DISPATCH: lambda call: None})
    with pytest.raises(ProtocolError):
        c.receive(join([(Kind.DISPATCH, 4, 5, b"x"), (Kind.DISPATCH, 4, 5, b"x")]))


def test_records_of_one_tick_leave_in_one_frame() -> None:
    woken: list[int] = []
    c = Channel({}, on_output=lambda: woken.append(1))
    for _ in range(50):
        ask(c)
    assert len(woken) == 1
    (frame,) = c.take()
    assert len(split(frame)) == 50
    assert c.take() == []


def test_frames_stay_within_their_limit() -> None:
    c = channel()
    for _ in range(5):
        c.post(Kind.LOG, 0, bytes(RECORD_BYTES_MAX - 26))
    frames = c.take()
    assert [len(frame) for frame in frames] == [FRAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX // 2]


def test_a_body_over_the_limit_fails_alone() -> None:
    c = channel({Kind.DISPATCH: lambda call: call.answer(bytes(RECORD_BYTES_MAX + 1))})
    with pytest.raises(LimitExceeded):
        c.request(Kind.DISPATCH, 1, bytes(RECORD_BYTES_MAX + 1), lambda body, error: None)
    assert (c.pending, c.take()) == (0, [])
    c.receive(join([(Kind.DISPATCH, 4, 5, b"x")]))
    assert sent(c)[0][0] == Kind.FAILED


def test_pending_requests_are_bounded() -> None:
    c = channel(requests_max=3)
    for _ in range(3):
        ask(c)
    with pytest.raises(Overloaded):
        ask(c)
    assert len(sent(c)) == 3


def test_calls_being_served_are_bounded() -> None:
    c = channel({Kind.DISPATCH: lambda call: None}, requests_max=2)
    c.receive(join([(Kind.DISPATCH, n, 5, b"") for n in (1, 2, 3)]))
    assert sent(c) == [(Kind.FAILED, 3, 5, failed("overloaded", "2 requests of this link are being served"))]
    assert c.serving == 2


def test_an_abandoned_request_is_told_and_its_answer_ignored() -> None:
    c = channel()
    number, settled = ask(c)
    c.abandon(number)
    c.abandon(number)
    assert [record[:2] for record in sent(c)] == [(Kind.DISPATCH, number), (Kind.CANCEL, number)]
    c.receive(join([(Kind.RESULT, number, 7, b"late")]))
    assert (settled, c.ignored) == ([], 1)


def test_cancel_reaches_the_call_and_only_of_its_tenant() -> None:
    cancelled: list[int] = []

    def start(call: Call) -> None:
        call.on_cancel = lambda: cancelled.append(call.request)

    calls = channel({Kind.DISPATCH: start})
    calls.receive(join([(Kind.DISPATCH, 4, 5, b"x")]))
    calls.receive(join([(Kind.CANCEL, 4, 6, b""), (Kind.CANCEL, 9, 5, b"")]))
    assert cancelled == []
    calls.receive(join([(Kind.CANCEL, 4, 5, b"")]))
    assert (cancelled, calls.serving) == ([4], 0)


def test_deadlines_fail_in_time_and_tell_the_peer() -> None:
    c = channel()
    early, settled = ask(c, deadline_s=10.0)
    _, later = ask(c, deadline_s=12.0)
    sent(c)
    assert c.expire(9.9)
    assert settled == []
    assert c.expire(10.2)
    assert isinstance(settled[0][1], DeadlineExceeded)
    assert later == []
    assert [record[:2] for record in sent(c)] == [(Kind.CANCEL, early)]
    assert not c.expire(12.2)
    assert len(later) == 1


def test_answered_requests_do_not_pile_up_until_their_deadline() -> None:
    c = channel()
    _, waiting = ask(c, deadline_s=60.0)
    for _ in range(DEADLINES_SPARE + 10):
        number, _ = ask(c, deadline_s=61.0)
        c.receive(join([(Kind.RESULT, number, 7, b"done")]))
        sent(c)
    assert c.expire(1.0)
    assert sum(map(len, c._deadlines.values())) == 1
    assert not c.expire(60.2)
    assert isinstance(waiting[0][1], DeadlineExceeded)


def test_loss_fails_everything_pending_and_cancels_what_is_served() -> None:
    cancelled: list[int] = []

    def start(call: Call) -> None:
        call.on_cancel = lambda: cancelled.append(call.request)

    c = channel({Kind.DISPATCH: start})
    c.receive(join([(Kind.DISPATCH, 4, 5, b"x")]))
    many = [ask(c, deadline_s=1.0)[1] for _ in range(10)]
    c.lose(WorkerLost("gone"))
    c.lose(WorkerLost("again"))
    assert all(type(error) is WorkerLost and error.detail == "gone" for ((_, error),) in many)
    assert len({id(error) for ((_, error),) in many}) == 10
    assert (cancelled, c.take(), c.pending) == ([4], [], 0)
    with pytest.raises(WorkerLost):
        ask(c)
    c.post(Kind.LOG, 0, b"")
    assert c.take() == []


def test_unknown_kinds_close_and_unserved_kinds_are_answered() -> None:
    c = channel()
    c.receive(join([(Kind.DRAIN, 3, 0, b""), (Kind.LOG, 0, 0, b"")]))
    assert sent(c) == [(Kind.FAILED, 3, 0, failed("unavailable", "DRAIN is not served here"))]
    for kind in (0, max(Kind) + 1, 255):
        with pytest.raises(ProtocolError):
            c.receive(join([(kind, 3, 0, b"")]))


def test_a_malformed_failure_closes() -> None:
    c = channel()
    number, settled = ask(c)
    for body in (b"", b"\xc0", b"\x91" * 5000, msgspec.msgpack.encode(("a", 5, None))):
        with pytest.raises(ProtocolError):
            c.receive(join([(Kind.FAILED, number, 7, body)]))
    assert settled == []


def test_unknown_error_codes_are_bugs() -> None:
    c = channel()
    number, settled = ask(c)
    c.receive(join([(Kind.FAILED, number, 7, failed("no_such_code", "x"))]))
    error = settled[0][1]
    assert error is not None
    assert error.code == "internal"
    assert not isinstance(error, Unavailable)


def test_the_third_silent_beat_is_the_last() -> None:
    c = channel()
    assert c.beat(0.0)
    for beat in range(1, HEARTBEATS_MISSED_MAX):
        assert c.beat(beat * 0.5)
    assert not c.beat(HEARTBEATS_MISSED_MAX * 0.5)


def test_anything_heard_is_a_sign_of_life() -> None:
    c = channel({Kind.LOG: lambda call: None})
    for beat in range(20):
        assert c.beat(beat * 0.5)
        if beat % 2:
            c.receive(join([(Kind.LOG, 0, 0, b"")]))


def test_a_side_that_was_stopped_itself_forgives_the_silence() -> None:
    c = channel()
    c.beat(0.0)
    c.beat(0.5)
    c.beat(1.0)
    assert c.beat(60.0)
    assert c.beat(60.5)
    assert c.beat(61.0)
    assert not c.beat(61.5)


@given(st.binary(max_size=300))
def test_random_frames_raise_protocol_errors_and_nothing_else(data: bytes) -> None:
    c = channel({Kind.DISPATCH: lambda call: call.answer(b"")})
    ask(c)
    for frame in (data, join([(Kind.FAILED, 1, 7, data)]), join([(Kind.DISPATCH, 5, 7, data)]) + data):
        try:
            c.receive(frame)
        except ProtocolError:
            pass
