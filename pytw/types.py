"""What several rooms speak of: tenants, events, outcomes, and the interfaces that they hand each other."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgpack

USER_BIT = 1 << 63
ID_MAX = USER_BIT - 1


class OwnerType(enum.StrEnum):
    """Who owns a tenant, as the database spells it."""

    GUILD = "guild"
    USER = "user"


class Id(NamedTuple):
    """A tenant by name: a guild's or a user's snowflake.

    Inside workers, engines and frames a tenant is its 64-bit ``key``: the id, top bit set for users.
    """

    owner_type: OwnerType
    snowflake: int

    @classmethod
    def guild(cls, snowflake: int) -> Id:
        return cls(OwnerType.GUILD, snowflake)

    @classmethod
    def user(cls, snowflake: int) -> Id:
        return cls(OwnerType.USER, snowflake)

    @classmethod
    def of(cls, key: int) -> Id:
        """The tenant behind a 64-bit key."""
        return cls(OwnerType.USER, key ^ USER_BIT) if key & USER_BIT else cls(OwnerType.GUILD, key)

    @property
    def key(self) -> int:
        return self.snowflake | USER_BIT if self.owner_type is OwnerType.USER else self.snowflake

    @property
    def owner_id(self) -> str:
        return str(self.snowflake)


class Outcome(enum.IntEnum):
    """How a dispatch, or one of its templates, ended. Among templates that ran, a larger number is worse."""

    OK = 0
    CANCELLED = 1
    SCRIPT_ERROR = 2
    TIMEOUT = 3
    LIMIT_EXCEEDED = 4
    NOT_SUBSCRIBED = 16
    BANNED = 17
    QUARANTINED = 18
    SHED = 19
    NOT_READY = 20
    WORKER_LOST = 21

    @property
    def slug(self) -> str:
        return self.name.lower()

    @property
    def ran(self) -> bool:
        return self < Outcome.NOT_SUBSCRIBED


@dataclass(slots=True)
class CreateEvent:
    """An event on its way to a tenant.

    ``payload`` is JSON, for gateway events Discord's ``d`` as it came; nothing looks inside before Luau reads it.
    """

    name: str
    payload: bytes
    author: str | None = None
    redelivered: bool = False


class TemplateResult(NamedTuple):
    """What one template made of an event. ``value`` is decoded msgpack; see pytw.values."""

    template: str
    outcome: Outcome
    limit: str | None
    value: Any
    error: str | None


class Meter(NamedTuple):
    """What a dispatch cost: CPU and wall microseconds, host calls by name, bytes of results."""

    cpu_us: int
    wall_us: int
    calls: Mapping[str, int]
    result_bytes: int


class DispatchResult:
    """The end of a dispatch. Decodes the engine's answer when it is first looked at.

    The answer is msgpack ``[outcome, limit, [[template, outcome, limit, value, error], ...], [cpu_us, wall_us, calls, result_bytes]]``.
    To who waits for it the worker adds the request's name in its log as a fifth element.
    """

    __slots__ = ("_decoded", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._decoded: list[Any] | None = None

    @classmethod
    def nothing_ran(cls, outcome: Outcome, reason: str | None = None) -> DispatchResult:
        return cls(msgpack.packb([int(outcome), reason, [], [0, 0, {}, 0]]))

    @classmethod
    def of_request(cls, body: bytes, request: str) -> DispatchResult:
        """An engine's answer with the request's name behind it."""
        return cls(b"\x95" + body[1:] + msgpack.packb(request)) if body[0] == 0x94 else cls(body)

    def _fields(self) -> list[Any]:
        if self._decoded is None:
            from pytw import values

            self._decoded = values.unpack(self.body)
        return self._decoded

    @property
    def outcome(self) -> Outcome:
        # The array header and a small integer: two bytes tell the outcome without decoding the rest.
        return Outcome(self.body[1])

    @property
    def limit(self) -> str | None:
        """The limit that was exceeded, or why nothing ran."""
        return self._fields()[1]  # type: ignore[no-any-return]

    @property
    def request(self) -> str | None:
        """What the log calls it; None for what was refused without a number."""
        fields = self._fields()
        return fields[4] if len(fields) > 4 else None

    @property
    def templates(self) -> list[TemplateResult]:
        return [TemplateResult(t[0], Outcome(t[1]), t[2], t[3], t[4]) for t in self._fields()[2]]

    @property
    def meter(self) -> Meter:
        return Meter(*self._fields()[3])


class Note(NamedTuple):
    """One event of a tenant that did not run, or ended badly. ``at`` is in Unix seconds."""

    at: float
    event: str
    outcome: Outcome
    reason: str | None


@dataclass(slots=True, frozen=True)
class TenantGate:
    """What the gate needs of a tenant: the events it listens for, by state or by template, and whether it is banned."""

    tenant: int
    events: frozenset[str]
    banned: bool = False


@dataclass(slots=True, frozen=True)
class TenantState:
    """A tenant's own settings (``ctx.Runtime:gettenantstate``). ``data`` is a JSON object."""

    events: frozenset[str]
    data: Mapping[str, Any]
    banned: bool = False
    revision: int = 0  #: grows with each write; 0: no row


#: Where the built-in template of loop mode keeps templates: scopes of the key-value store.
LOOP_SCOPE = "templates"
LOOP_PAUSED_SCOPE = "templates.paused"
#: In a template's capabilities: all of them. There is no other wildcard (spec luau-api 8).
EVERY_CAPABILITY = "*"
#: The built-in template, first for every tenant.
BUILTINS = "$builtins"
#: The module that a template starts at if it names no other.
ENTRY = "init"
#: Ends of the files that hold Luau.
LUAU_SUFFIXES = (".luau", ".lua")
#: The file that holds the aliases of `require`.
RC_FILE = ".luaurc"


@dataclass(slots=True, frozen=True)
class TemplateSource:
    """A deployed template: what an engine needs to run it. ``left_out`` says why it cannot be run, if it cannot."""

    name: str
    files: Mapping[str, bytes]
    events: frozenset[str]
    entry: str = ENTRY
    allowed_caps: Sequence[str] = (EVERY_CAPABILITY,)
    paused: bool = False
    version: int = 0
    left_out: str = ""


@dataclass(slots=True, frozen=True)
class Draft:
    """What is to be saved of a template, and whether it is to run.

    Args:
        files: path -> source; empty for one of the shop.
        events: what the entry listens for, as it was evaluated; None where it was not.
        events_override: what the template gets instead, for this deployment.
        allowed_caps: None: all, or what the shop's listing says.
        paused: None leaves it as it is; a new template runs.
        error: why it cannot run. It is saved, and what runs stays.
        deploy: False saves a draft; what runs stays as it is.
        shop: ``$shop/name#version``: run what the shop has, in place of files.
    """

    name: str
    files: Mapping[str, str]
    entry: str = ENTRY
    events: Sequence[str] | None = None
    events_override: Sequence[str] | None = None
    allowed_caps: Sequence[str] | None = None
    error_channel: str | None = None
    author: str | None = None
    message: str = ""
    paused: bool | None = None
    error: str | None = None
    deploy: bool = True
    shop: str | None = None


@dataclass(slots=True, frozen=True)
class TemplateInfo:
    """A template as scripts of its tenant see it. ``content`` is path -> source; None in lists."""

    name: str
    events: Sequence[str]
    error_channel: str | None
    allowed_caps: Sequence[str]
    paused: bool
    version: int | None
    created_at: datetime
    last_updated_at: datetime
    content: Mapping[str, str] | None = None


@dataclass(slots=True, frozen=True)
class ScriptCaller:
    """The template that changes others: its name, what it holds where it calls, and whether a loop runs the templates."""

    template: str
    held: Sequence[str]
    loop: bool


@dataclass(slots=True)
class KvRecord:
    """One row of a tenant's key-value store. ``value`` is one msgpack KhronosValue."""

    id: str
    key: str
    scopes: list[str]
    value: bytes
    version: int
    created_at: datetime
    last_updated_at: datetime
    expires_at: datetime | None = None
    resume: bool = False

    @property
    def cursor(self) -> str:
        """What `WorkerDb.kv_find` takes as ``after`` to go on behind this record."""
        return f"{self.id}:{self.key}"


class KvWritten(NamedTuple):
    """What a write of a key came to: the version there is now, and whether that is the one that was to be written."""

    written: bool
    version: int  #: 0: there is no such key


class KvReleased(NamedTuple):
    """What became of the claims of a worker that is gone."""

    due: int  #: due again at once
    given_up: int  #: that was their last attempt


@dataclass(frozen=True, slots=True)
class KvPlace:
    """Whose key it is and which, without its value."""

    tenant: int
    id: str
    key: str
    scopes: list[str]


@dataclass(frozen=True, slots=True)
class GlobalEntry:
    """What a tenant publishes for everybody. ``public_metadata`` and ``data`` are JSON texts."""

    scope: str
    key: str
    version: int
    short: str
    public_metadata: bytes
    data: bytes
    public_data: bool = False
    long: str | None = None


@dataclass(frozen=True, slots=True)
class GlobalRecord:
    """One version of the global key-value store. ``public_metadata`` and ``data`` are JSON texts.

    ``data`` is None in listings, and where whoever asks has to buy it first. ``opaque`` data is not for everybody's eyes.
    """

    key: str
    version: int
    scope: str
    owner_type: str
    owner_id: str
    short: str
    long: str | None
    public_metadata: bytes
    public_data: bool
    price: int | None
    review_state: str
    created_at: datetime
    last_updated_at: datetime
    data: bytes | None = None

    @property
    def opaque(self) -> bool:
        return self.price is not None or not self.public_data

    @property
    def cursor(self) -> str:
        """What a listing of this scope takes as ``after`` to go on behind this record."""
        return f"{self.version}:{self.key}"

    def purchase_url(self, frontend_url: str, tenant: int | None = None) -> str:
        """Where it is bought, by *tenant* if one asks; *frontend_url* is the website, empty where there is none."""
        place = f"{quote(self.scope, safe='')}/{quote(self.key, safe='')}/{self.version}"
        owner = "" if tenant is None else "?{0.owner_type.value}={0.owner_id}".format(Id.of(tenant))
        return f"{frontend_url.rstrip('/')}/global-kvs/{place}{owner}"


@dataclass(frozen=True, slots=True)
class GlobalPage:
    """A part of a listing, by key and version. ``after`` is where the next one goes on, None behind the last."""

    items: list[GlobalRecord]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class GlobalPurchase:
    """That a tenant has bought a version: for which price, and which member of the staff noted it."""

    owner: Id
    price: int
    granted_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object of a listing; ``key`` is as the tenant knows it."""

    key: str
    size: int
    last_modified: datetime
    etag: str | None = None


@dataclass(slots=True)
class Cursor:
    """Where a gateway shard goes on: everything up to ``sequence`` is done, and ``done_above`` besides.

    An entry ``-n`` of ``done_above`` says that intake was closed after ``n``: nothing above ran.
    """

    session_id: str
    resume_url: str
    sequence: int
    done_above: list[int] = field(default_factory=list)


class CursorSink(Protocol):
    """Keeps the gateway cursors of shards."""

    async def load(self, shards: int) -> dict[int, Cursor]: ...
    def report(self, shards: int, shard: int, cursor: Cursor | None) -> None:
        """Replaces what is known of *shard*; None forgets it. Never blocks."""


class IdentifySlots(Protocol):
    """Hands out the right to IDENTIFY: ``max_concurrency`` a 5 s window over all workers."""

    async def acquire(self, shard: int) -> None: ...


class Forwarder(Protocol):
    """Takes events that arrived away from their tenant's worker to it."""

    async def forward(self, tenant: int, event: CreateEvent) -> Outcome: ...


#: Takes an event from the gateway. Calls ``done`` once, when the event has an outcome.
Offer = Callable[[int, CreateEvent, Callable[[Outcome], None]], None]

#: Answers one request of the master: returns the body of the answer or raises PytwError.
Answer = Callable[[int, bytes], Awaitable[bytes]]
