"""The gateway's WebSocket side: one `Connection` per client, reading its frames and writing its session's.

Source: spec/discord.md 1.1 to 1.8 and 5.3.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from pytw.fauxpas.mockdiscord import intents
from pytw.fauxpas.mockdiscord.encoding import Encoder, Plain, control_frame, encoder
from pytw.fauxpas.mockdiscord.faults import Faults
from pytw.fauxpas.mockdiscord.sessions import Session, Sessions
from pytw.fauxpas.mockdiscord.world import World, encode

SEND_BYTES_MAX = 4_096
SENDS_MAX = 120
SENDS_WINDOW_S = 60.0
#: Frames written before other tasks get a turn.
_BATCH_FRAMES = 32
_KEEP_SESSION_UNLESS = frozenset({1000, 1001})
_ENDS_SESSION = frozenset({4003, 4004, 4007, 4009, 4010, 4011, 4012, 4013, 4014})


class Gateway:
    """Accepts connections and holds what they share."""

    def __init__(
        self,
        *,
        token: str,
        world: World,
        sessions: Sessions,
        faults: Faults,
        clock: Callable[[], float],
        heartbeat_interval_ms: int,
        resume_url: Callable[[], str],
    ) -> None:
        self.token = token
        self.world = world
        self.sessions = sessions
        self.faults = faults
        self.clock = clock
        self.heartbeat_interval_ms = heartbeat_interval_ms
        self.resume_url = resume_url
        self.connections: set[Connection] = set()

    async def accept(self, request: web.Request) -> web.StreamResponse:
        packing = encoder(request.query.get("compress", ""))
        if packing is None or request.query.get("encoding", "json") != "json":
            return web.Response(
                status=400, text="this gateway speaks encoding=json and the compressions it has libraries for"
            )
        socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 20, timeout=1.0)
        await socket.prepare(request)
        connection = Connection(self, request, socket, packing)
        self.connections.add(connection)
        try:
            await connection.run(version=request.query.get("v", "10"))
        finally:
            self.connections.discard(connection)
        return socket

    def of_shard(self, shard: int | None) -> list[Connection]:
        """The connections of a shard; of all, if it is None."""
        return [c for c in self.connections if shard is None or (c.session is not None and c.session.shard == shard)]


class Connection:
    """One client. Its position is the sequence number up to which it has got its session's frames."""

    def __init__(self, gateway: Gateway, request: web.Request, socket: web.WebSocketResponse, packing: Encoder) -> None:
        self._gateway = gateway
        self._request = request
        self._socket = socket
        self._encoder = packing
        self._control: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._sends: deque[float] = deque()
        self._position = 0
        self._closed_by_us = 0
        self.session: Session | None = None

    # ---- life

    async def run(self, *, version: str) -> None:
        writer = asyncio.create_task(self._write())
        try:
            if version not in ("9", "10"):
                await self.close(4012, "Invalid API version")
                return
            interval = b'{"heartbeat_interval":%d,"_trace":["mock"]}' % self._gateway.heartbeat_interval_ms
            self.send(10, interval)
            await self._read()
        finally:
            writer.cancel()
            self._leave()

    async def close(self, code: int, reason: str = "") -> None:
        """End the connection with *code*; 1006 cuts it without a word."""
        self._closed_by_us = code
        if code in _ENDS_SESSION and self.session is not None:
            self._gateway.sessions.drop(self.session)
        if code == 1006:
            if self._request.transport is not None:
                self._request.transport.abort()
        else:
            await self._socket.close(code=code, message=reason.encode())

    def _leave(self) -> None:
        session, sessions = self.session, self._gateway.sessions
        if session is None:
            return
        sessions.detach(session, self)
        if not self._closed_by_us and self._socket.close_code in _KEEP_SESSION_UNLESS and session.listener is None:
            sessions.drop(session)

    # ---- out

    def send(self, op: int, d: bytes = b"null") -> None:
        """Queue a frame without a sequence number, ahead of the session's."""
        self._control.append(control_frame(op, d))
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    def taken_over(self) -> None:
        self.session = None
        task = asyncio.get_running_loop().create_task(self.close(4000, "Session was resumed elsewhere"))
        task.add_done_callback(lambda _: None)

    async def _write(self) -> None:
        batch = 0
        while True:
            if self._control:
                frame = self._control.popleft()
            elif self.session is not None and (found := self.session.after(self._position)) is not None:
                self._position, frame = found
            else:
                self._news.clear()
                await self._news.wait()
                continue
            data, binary = self._encoder.encode(frame)
            try:
                await self._socket.send_frame(data, WSMsgType.BINARY if binary else WSMsgType.TEXT)
            except (ConnectionError, RuntimeError):
                return
            batch += 1
            if batch % _BATCH_FRAMES == 0:
                await asyncio.sleep(0)

    # ---- in

    async def _read(self) -> None:
        patience_s = self._gateway.heartbeat_interval_ms / 1000 * 2.5 + 1.0
        while True:
            try:
                message = await self._socket.receive(timeout=patience_s)
            except TimeoutError:
                await self.close(4009, "Session timed out")
                return
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            problem = self._take(message.data)
            if problem is not None:
                await self.close(*problem)
                return

    def _take(self, data: str | bytes) -> tuple[int, str] | None:
        """Act on one frame; answers the close code if the client must go."""
        if len(data) > SEND_BYTES_MAX:
            return 4002, "Payload is too long"
        now = self._gateway.clock()
        self._sends.append(now)
        while now - self._sends[0] > SENDS_WINDOW_S:
            self._sends.popleft()
        if len(self._sends) > SENDS_MAX:
            return 4008, "You are being rate limited"
        try:
            frame = msgspec.json.decode(data)
            op, d = frame["op"], frame.get("d")
        except (msgspec.DecodeError, TypeError, KeyError):
            return 4002, "Error while decoding payload"
        if op == 1:
            if not self._gateway.faults.take("acks_missing"):
                self.send(11)
            return None
        if op == 2:
            return self._identify(d) if isinstance(d, dict) else (4002, "Error while decoding payload")
        if op == 6:
            return self._resume(d) if isinstance(d, dict) else (4002, "Error while decoding payload")
        if op not in (3, 4, 8, 31, 43):
            return 4001, "Unknown opcode"
        if self.session is None:
            return 4003, "Not authenticated"
        if op == 8 and isinstance(d, dict):
            self._send_members(self.session, d)
        return None

    def _refused(self, token: object) -> tuple[int, str] | None:
        faults = self._gateway.faults
        if faults.login_close_code and faults.take("login_closes"):
            return faults.login_close_code, "Fault"
        if not isinstance(token, str) or token.removeprefix("Bot ") != self._gateway.token:
            return 4004, "Authentication failed"
        return None

    def _identify(self, d: dict[str, Any]) -> tuple[int, str] | None:
        if self.session is not None:
            return 4005, "Already authenticated"
        if (problem := self._refused(d.get("token"))) is not None:
            return problem
        match d.get("shard", [0, 1]):
            case [int(shard), int(shards)] if 0 <= shard < shards:
                pass
            case _:
                return 4010, "Invalid shard"
        wanted = d.get("intents")
        if not isinstance(wanted, int) or wanted < 0 or wanted & ~intents.KNOWN:
            return 4013, "Invalid intents"
        sessions = self._gateway.sessions
        if self._gateway.faults.take("identifies_refused") or not sessions.may_identify(shard):
            self.send(9, b"false")
            return None
        if isinstance(self._encoder, Plain):
            self._encoder.pack_payloads = d.get("compress") is True
        session = sessions.create(shard, shards, wanted)
        self._greet(session)
        self._attach(session, 0)
        return None

    def _greet(self, session: Session) -> None:
        """READY and the guilds of the shard."""
        world, now = self._gateway.world, self._gateway.clock()
        guilds = [g for g in world.guild_ids if (g >> 22) % session.shards == session.shard]
        application = {"id": world.application["id"], "flags": world.application["flags"]}
        ready = {
            "v": 10,
            "user_settings": {},
            "user": world.bot,
            "session_type": "normal",
            "session_id": session.id,
            "resume_gateway_url": self._gateway.resume_url(),
            "relationships": [],
            "private_channels": [],
            "presences": [],
            "guilds": [{"unavailable": True, "id": str(g)} for g in guilds],
            "guild_join_requests": [],
            "geo_ordered_rtc_regions": [],
            "auth": {},
            "application": application,
            "shard": [session.shard, session.shards],
            "_trace": ["mock"],
        }
        session.push("READY", encode(ready), now)
        if session.intents & intents.GUILDS:
            for guild_id in guilds:
                session.push("GUILD_CREATE", world.guild_create(guild_id), now)

    def _resume(self, d: dict[str, Any]) -> tuple[int, str] | None:
        if self.session is not None:
            return 4005, "Already authenticated"
        if (problem := self._refused(d.get("token"))) is not None:
            return problem
        session_id, sequence = d.get("session_id"), d.get("seq")
        session = self._gateway.sessions.find(session_id) if isinstance(session_id, str) else None
        if session is None or not isinstance(sequence, int) or not session.can_resume(sequence):
            self.send(9, b"false")
            return None
        if self._gateway.faults.take("resumes_refused"):
            self._gateway.sessions.drop(session)
            self.send(9, b"false")
            return None
        if sequence > session.last:
            self._gateway.sessions.drop(session)
            return 4007, "Invalid seq"
        session.resumed(self._gateway.clock())
        self._attach(session, sequence)
        return None

    def _attach(self, session: Session, position: int) -> None:
        self._gateway.sessions.attach(session, self)
        self.session, self._position = session, position
        self._news.set()

    def _send_members(self, session: Session, d: dict[str, Any]) -> None:
        try:
            guild_id = int(d["guild_id"])
        except (KeyError, TypeError, ValueError):
            return
        chunk = {
            "guild_id": str(guild_id),
            "members": self._gateway.world.members(guild_id),
            "chunk_index": 0,
            "chunk_count": 1,
            "not_found": [],
        }
        if d.get("nonce") is not None:
            chunk["nonce"] = d["nonce"]
        session.push("GUILD_MEMBERS_CHUNK", encode(chunk), self._gateway.clock())
