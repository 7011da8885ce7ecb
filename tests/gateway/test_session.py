"""The protocol of a shard with literal frames and a clock that is passed in."""

from __future__ import annotations

import json

import pytest

from pytw.errors import ConfigError, ProtocolError, TokenRefused
from pytw.gateway.session import ACK, HEARTBEAT, INVALID_SESSION, RECONNECT, Next, Session
from pytw.types import Cursor

READY = (
    b'{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"7"},"session_id":"abc",'
    b'"resume_gateway_url":"ws://resume","guilds":[]}}'
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def session(clock: Clock | None = None, *, jitter: float = 0.5, cursor: Cursor | None = None) -> Session:
    return Session(
        token="T",
        shard=2,
        shards=4,
        intents=513,
        gateway_url="ws://gateway",
        clock=clock or Clock(),
        jitter=lambda: jitter,
        cursor=cursor,
    )


def ready(made: Session) -> Session:
    made.ready(READY)
    made.sequence = 9
    return made


def test_first_login_is_an_identify_at_the_gateways_own_url():
    made = session()
    login = json.loads(made.login())
    assert made.url == "ws://gateway"
    assert login["op"] == 2
    assert login["d"]["token"] == "T"
    assert login["d"]["shard"] == [2, 4]
    assert login["d"]["intents"] == 513


def test_login_after_ready_is_a_resume_at_the_resume_url():
    made = ready(session())
    assert made.url == "ws://resume"
    assert json.loads(made.login()) == {"op": 6, "d": {"token": "T", "session_id": "abc", "seq": 9}}


def test_stored_cursor_is_resumed():
    made = session(cursor=Cursor("s", "ws://r", 41, [43]))
    assert json.loads(made.login())["d"] == {"token": "T", "session_id": "s", "seq": 41}


def test_first_beat_comes_after_a_jittered_interval_and_carries_the_sequence():
    clock = Clock()
    made = session(clock)
    made.hello(b'{"heartbeat_interval":10000}')
    assert made.due == 105.0
    assert made.tick() is None
    clock.now = 105.0
    assert made.tick() == b'{"op":1,"d":null}'
    made.receive(ACK, b"null")
    made.sequence = 9
    assert made.due == 115.0
    assert made.beat() == b'{"op":1,"d":9}'


def test_unanswered_beat_makes_a_zombie_within_five_seconds():
    clock = Clock()
    made = session(clock)
    made.hello(b'{"heartbeat_interval":10000}')
    clock.now = 105.0
    made.tick()
    clock.now = 109.9
    assert not made.zombie
    clock.now = 110.0
    assert made.zombie
    made.alive()
    assert not made.zombie


def test_asked_beat_does_not_put_the_deadline_of_the_last_one_off():
    clock = Clock()
    made = session(clock)
    made.hello(b'{"heartbeat_interval":10000}')
    made.beat()
    clock.now = 104.0
    assert made.receive(HEARTBEAT, b"null") is Next.BEAT
    made.beat()
    clock.now = 105.0
    assert made.zombie


def test_answer_tells_the_latency():
    clock = Clock()
    made = session(clock)
    made.hello(b'{"heartbeat_interval":10000}')
    made.beat()
    clock.now += 0.25
    made.receive(ACK, b"null")
    assert made.latency_s == 0.25
    assert not made.zombie


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 1.0), (0.5, 3.0), (1.0, 5.0)])
def test_invalid_session_waits_one_to_five_seconds(jitter: float, wait_s: float):
    made = ready(session(jitter=jitter))
    assert made.receive(INVALID_SESSION, b"false") is Next.RECONNECT_LATER
    assert made.wait_s == wait_s
    assert not made.resumable


def test_resumable_invalid_session_is_kept():
    made = ready(session())
    assert made.receive(INVALID_SESSION, b"true") is Next.RECONNECT_LATER
    assert made.resumable


def test_op_7_keeps_the_session():
    made = ready(session())
    assert made.receive(RECONNECT, b"null") is Next.RECONNECT
    assert made.resumable


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 4000, 4001, 4002, 4005, 4008])
def test_session_survives_close_code(code: int | None):
    made = ready(session())
    assert made.closed(code) is None
    assert made.resumable


@pytest.mark.parametrize("code", [4003, 4007, 4009])
def test_session_ends_with_close_code(code: int):
    made = ready(session())
    assert made.closed(code) is None
    assert not made.resumable


@pytest.mark.parametrize("code", [4004, 4010, 4011, 4012, 4013, 4014])
def test_fatal_close_code_has_an_error_with_a_hint(code: int):
    error = ready(session()).closed(code)
    assert isinstance(error, TokenRefused if code == 4004 else ConfigError)
    assert error.hint


@pytest.mark.parametrize("frame", [b"{}", b'{"d":{"session_id":1}}', b"nonsense"])
def test_ready_without_its_fields_is_refused(frame: bytes):
    with pytest.raises(ProtocolError):
        session().ready(frame)


@pytest.mark.parametrize("d", [b"{}", b'{"heartbeat_interval":0}', b'{"heartbeat_interval":-5}', b"null"])
def test_hello_without_an_interval_is_refused(d: bytes):
    with pytest.raises(ProtocolError):
        session().hello(d)
