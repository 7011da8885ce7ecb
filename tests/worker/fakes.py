"""A database and a Discord in memory, with switches for what goes wrong."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgpack
import orjson

from pytw.errors import NotFound, StorageUnavailable
from pytw.types import KvRecord, TemplateSource
from pytw.worker import memory
from pytw.worker.context.answers import READ_ONLY
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Operation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GUILD = 5 << 22


class MemoryDb(memory.MemoryDb):
    """The database in memory, seen and disturbed."""

    def __init__(self) -> None:
        super().__init__()
        #: What is claimed next, whether it is stored or not.
        self.due: list[tuple[int, KvRecord]] = []
        self.finished: list[tuple[int, str, int]] = []
        self.failed: list[tuple[int, str, int]] = []
        #: Whether a claim in vain is the last one.
        self.gives_up = False
        self.calls: list[tuple[str, int]] = []
        #: While set for a tenant, its operations wait for the event.
        self.blocked: dict[int, asyncio.Event] = {}
        self.failing = False
        self.in_flight: dict[int, int] = defaultdict(int)
        self.in_flight_seen: dict[int, int] = defaultdict(int)

    async def _work(self, operation: str, tenant: int) -> None:
        self.calls.append((operation, tenant))
        self.in_flight[tenant] += 1
        self.in_flight_seen[tenant] = max(self.in_flight_seen[tenant], self.in_flight[tenant])
        try:
            if tenant in self.blocked:
                await self.blocked[tenant].wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.in_flight[tenant] -= 1
        if self.failing:
            raise StorageUnavailable("the database is away")

    async def claim_expired(
        self, worker_id: int, workers: int, *, limit: int, busy: Sequence[int] = ()
    ) -> list[tuple[int, KvRecord]]:
        await self._work("claim_expired", -1)
        claimed = [(tenant, record) for tenant, record in self.due if tenant not in busy][:limit]
        self.due = [item for item in self.due if item not in claimed]
        return claimed

    async def finish_expired(self, tenant: int, handled: Sequence[tuple[str, int]]) -> int:
        gone = await super().finish_expired(tenant, handled)
        self.finished += [(tenant, *key) for key in handled]
        return gone

    async def fail_expired(self, tenant: int, record_id: str, version: int) -> bool:
        await super().fail_expired(tenant, record_id, version)
        self.failed.append((tenant, record_id, version))
        return self.gives_up


class MemoryDiscord:
    """Channels of guilds, and the messages that were sent."""

    def __init__(self, channels: dict[int, int] | None = None) -> None:
        self.channels = channels or {}
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.requests: list[tuple[str, str]] = []
        #: Takes the place of every raw answer.
        self.raw: bytes | None = None
        self.failure: Exception | None = None

    async def request(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> Any:
        self.requests.append((method, path))
        if self.failure is not None:
            raise self.failure
        if path == "/applications/@me":
            return {"id": "9", "approximate_guild_count": 7, "approximate_user_install_count": 3}
        if path == "/users/@me":
            return {"id": "9", "bot": True}
        parts = path.partition("?")[0].strip("/").split("/")
        if method == "GET" and parts[0] == "guilds":
            return {"id": parts[1], "name": "a guild"}
        channel = int(parts[1])
        if channel not in self.channels:
            raise NotFound("Unknown Channel")
        if method == "GET":
            return {"id": parts[1], "guild_id": str(self.channels[channel])}
        self.sent.append((channel, json))
        return {"id": "1", "channel_id": parts[1], "content": json.get("content")}

    async def request_raw(self, method: str, path: str, *, json: Any = None, reason: str | None = None) -> bytes:
        answer = await self.request(method, path, json=json, reason=reason)
        return orjson.dumps(answer) if self.raw is None else self.raw


def template(
    name: str, source: str, *events: str, caps: Sequence[str] = ("*",), paused: bool = False
) -> TemplateSource:
    """A template of one file."""
    return TemplateSource(
        name=name,
        files={"init.luau": source.encode()},
        events=frozenset(events),
        allowed_caps=tuple(caps),
        paused=paused,
    )


def record(tenant: int, key: str, version: int = 1, scopes: Sequence[str] = ("s",)) -> KvRecord:
    return KvRecord(f"{tenant}-{key}", key, list(scopes), msgpack.packb(1), version, NOW, NOW, NOW)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something that happens outside of the test's own steps, at most 5 s. *condition* may be a coroutine function."""
    try:
        async with asyncio.timeout(5):
            while True:
                met = condition()
                if await met if inspect.isawaitable(met) else met:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what}") from None


def call(
    name: str, *args: object, caps: tuple[str, ...] = ("*",), tenant: int = GUILD, request: int = 1, template: str = "t"
) -> HostCall:
    made = HostCall(tenant, msgpack.packb([request, template, name, None, list(args)]))
    made.caps = frozenset(caps)
    return made


class ReadOnly(dict):  # type: ignore[type-arg]
    """A table that scripts cannot write to."""


def _from_ext(code: int, data: bytes) -> object:
    if code == READ_ONLY:
        return ReadOnly(msgpack.unpackb(data, timestamp=3, ext_hook=_from_ext))
    return msgpack.ExtType(code, data)


async def results(operations: dict[str, Operation], made: HostCall) -> list:
    """What the boundary does, in the same order."""
    operation = operations[made.name]
    operation.admit(made)
    return msgpack.unpackb(await operation.handler(made), timestamp=3, ext_hook=_from_ext)
