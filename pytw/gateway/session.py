"""The gateway protocol of one shard, without I/O: what came in goes in, what to do next comes out.

A session outlives its connections. It is begun by IDENTIFY, named by READY and continued by RESUME from the last
sequence number; what ended a connection decides which of the two the next one starts with. Closing with 1000 or 1001
would end the session, so every close of ours has another code.

Source: spec/discord.md 1.2 to 1.6.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import random

import msgspec

from pytw.errors import ConfigError, ProtocolError, PytwError, TokenRefused
from pytw.limits import GATEWAY_ACK_S
from pytw.types import Cursor

#: Our close code: the session stays.
KEEP_SESSION = 4000

DISPATCH, HEARTBEAT, IDENTIFY, RESUME, RECONNECT, INVALID_SESSION, HELLO, ACK = 0, 1, 2, 6, 7, 9, 10, 11

_NEW_SESSION = frozenset({4003, 4007, 4009})
_INVALID_WAIT_S = (1.0, 5.0)
_FATAL: dict[int, tuple[type[PytwError], str, str]] = {
    4004: (TokenRefused, "Discord refused the bot's token", "check discord_auth.token"),
    4010: (ConfigError, "Discord refused the shard number", "a bug of ours"),
    4011: (ConfigError, "Discord wants more shards", "restart: the count is asked for at the start"),
    4012: (ConfigError, "Discord no longer speaks this gateway version", "update pytw"),
    4013: (ConfigError, "Discord does not know one of the intents", "update pytw"),
    4014: (
        ConfigError,
        "the bot may not use one of its intents",
        "enable the privileged intents in Discord's developer portal",
    ),
}


class Next(enum.Enum):
    """What a frame asks for."""

    NOTHING = enum.auto()
    BEAT = enum.auto()
    RECONNECT = enum.auto()
    #: Reconnect after `Session.wait_s`.
    RECONNECT_LATER = enum.auto()


class _Properties(msgspec.Struct, frozen=True):
    os: str = "linux"
    browser: str = "pytw"
    device: str = "pytw"


class _Identify(msgspec.Struct):
    token: str
    intents: int
    shard: tuple[int, int]
    properties: _Properties = _Properties()
    large_threshold: int = 50
    compress: bool = False


class _Resume(msgspec.Struct):
    token: str
    session_id: str
    seq: int


class _User(msgspec.Struct):
    id: str


class Ready(msgspec.Struct):
    """What we read of READY."""

    session_id: str
    resume_gateway_url: str
    user: _User
    application: _User | None = None


class _ReadyFrame(msgspec.Struct):
    d: Ready


class _Hello(msgspec.Struct):
    heartbeat_interval: int


_encode = msgspec.json.Encoder().encode
_decode_ready = msgspec.json.Decoder(_ReadyFrame)
_decode_hello = msgspec.json.Decoder(_Hello)


class Session:
    """Identify or resume, sequence, heartbeats and the meaning of close codes.

    Args:
        cursor: where an earlier process stopped; None begins with IDENTIFY.
        clock: monotonic seconds.
        jitter: numbers in [0, 1).
    """

    def __init__(
        self,
        *,
        token: str,
        shard: int,
        shards: int,
        intents: int,
        gateway_url: str,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random,
        cursor: Cursor | None = None,
    ) -> None:
        self._login = _Identify(token, intents, (shard, shards))
        self._gateway_url = gateway_url
        self._clock = clock
        self._jitter = jitter
        self.id = cursor.session_id if cursor else ""
        self.resume_url = cursor.resume_url if cursor else ""
        #: Sequence number of the last dispatch that was read.
        self.sequence = cursor.sequence if cursor else 0
        self.wait_s = 0.0
        self.latency_s = 0.0
        self._interval_s = 0.0
        self._beat_due = float("inf")
        self._beat_sent = 0.0
        self._ack_due = float("inf")

    @property
    def resumable(self) -> bool:
        return bool(self.id)

    @property
    def url(self) -> str:
        """Where the next connection goes."""
        return self.resume_url if self.id and self.resume_url else self._gateway_url

    def forget(self) -> None:
        """Give the session up: the next login is an IDENTIFY."""
        self.id, self.resume_url, self.sequence = "", "", 0

    def login(self) -> bytes:
        """IDENTIFY, or RESUME where there is a session."""
        if self.id:
            return _frame(RESUME, _encode(_Resume(self._login.token, self.id, self.sequence)))
        return _frame(IDENTIFY, _encode(self._login))

    def ready(self, frame: bytes) -> Ready:
        """Take the session's name out of READY. Raises: ProtocolError."""
        try:
            ready = _decode_ready.decode(frame).d
        except msgspec.DecodeError as error:
            raise ProtocolError(f"READY is not what it should be: {error}") from error
        self.id, self.resume_url = ready.session_id, ready.resume_gateway_url
        return ready

    # ---- frames that are not dispatches

    def receive(self, op: int, d: bytes) -> Next:
        """Act on a frame other than a dispatch. Raises: ProtocolError."""
        match op:
            case 11:
                self._ack_due = float("inf")
                self.latency_s = self._clock() - self._beat_sent
            case 1:
                return Next.BEAT
            case 7:
                return Next.RECONNECT
            case 9:
                if d.strip() != b"true":
                    self.forget()
                low, high = _INVALID_WAIT_S
                self.wait_s = low + (high - low) * self._jitter()
                return Next.RECONNECT_LATER
        return Next.NOTHING

    def hello(self, d: bytes) -> None:
        """Begin a connection's heartbeats. Raises: ProtocolError."""
        try:
            interval_ms = _decode_hello.decode(d).heartbeat_interval
        except msgspec.DecodeError as error:
            raise ProtocolError(f"HELLO is not what it should be: {error}") from error
        if interval_ms <= 0:
            raise ProtocolError(f"the gateway wants a heartbeat every {interval_ms} ms")
        self._interval_s = interval_ms / 1000
        self._beat_due = self._clock() + self._interval_s * self._jitter()
        self._ack_due = float("inf")

    # ---- heartbeats

    @property
    def due(self) -> float:
        """When `tick` wants to be called next."""
        return min(self._beat_due, self._ack_due)

    @property
    def zombie(self) -> bool:
        """The last heartbeat was not answered in time: the connection is dead."""
        return self._clock() >= self._ack_due

    def alive(self) -> None:
        """Nothing can be said about missing answers, since nothing was read."""
        if self._ack_due != float("inf"):
            self._ack_due = self._clock() + min(GATEWAY_ACK_S, self._interval_s)

    def tick(self) -> bytes | None:
        """The heartbeat if one is due."""
        return self.beat() if self._clock() >= self._beat_due else None

    def beat(self) -> bytes:
        """A heartbeat now, asked for or due."""
        now = self._clock()
        self._beat_sent = now
        self._beat_due = now + self._interval_s
        self._ack_due = min(self._ack_due, now + min(GATEWAY_ACK_S, self._interval_s))
        return _frame(HEARTBEAT, b"%d" % self.sequence if self.sequence else b"null")

    # ---- ends

    def closed(self, code: int | None) -> PytwError | None:
        """A connection has ended with *code*, None without one: the error that ends the shard, if it is fatal."""
        self._beat_due = self._ack_due = float("inf")
        if code in _FATAL:
            kind, detail, hint = _FATAL[code]
            return kind(f"{detail} (close code {code})", hint=hint)
        if code in _NEW_SESSION:
            self.forget()
        return None


def _frame(op: int, d: bytes) -> bytes:
    return b'{"op":%d,"d":%b}' % (op, d)
