"""Users of the HTTP API and their tokens, of which only hashes are kept.

Every request of the API asks whose token it has: sessions are kept for a moment, and forgotten at once when they or their
user are changed here. What a user's guilds are is Discord's to say; the answer is kept in the user's row for a while.

Source: reference `auth` (spec/http-schema-systems.md 2, 3.2), with bounded lives and numbers.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from pytw.cache import Cache
from pytw.errors import Forbidden, LimitExceeded, NotFound, RequestError
from pytw.limits import (
    API_TOKEN_S_MAX,
    API_TOKENS_MAX,
    SESSION_LIFE_S,
    SESSIONS_KEPT_MAX,
    USER_GUILDS_BYTES_MAX,
    USER_GUILDS_LIFE_S,
)

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

TOKEN_BYTES = 32
BANNED = "banned"
TYPES = frozenset({"login", "app_login", "api"})

_COLUMNS = "s.id, s.user_id, s.type, s.name, s.expiry, s.created_at, u.state"
CHECK = f"""
SELECT {_COLUMNS} FROM web_api_tokens s JOIN users u USING (user_id) WHERE s.token_hash = $1 AND s.expiry > now()"""
LIST = f"""
SELECT {_COLUMNS} FROM web_api_tokens s JOIN users u USING (user_id)
WHERE s.user_id = $1 AND s.expiry > now() ORDER BY s.created_at, s.id"""
CREATE = """
INSERT INTO web_api_tokens (user_id, type, name, token_hash, expiry) VALUES ($1, $2, $3, $4, $5)
RETURNING id, user_id, type, name, expiry, created_at"""
KEEP = """
INSERT INTO users (user_id) VALUES ($1)
ON CONFLICT (user_id) DO UPDATE SET last_updated_at = now() RETURNING state"""
GUILDS = """
SELECT CASE WHEN guilds_cached_at > now() - make_interval(secs => $2) THEN guilds_cache::text END AS guilds
FROM users WHERE user_id = $1"""
KEEP_GUILDS = "UPDATE users SET guilds_cache = $2::text::jsonb, guilds_cached_at = now() WHERE user_id = $1"


@dataclass(frozen=True, slots=True)
class Session:
    """A token that is valid, without the token."""

    id: UUID
    user_id: str
    type: str
    name: str | None
    expiry: datetime
    created_at: datetime
    state: str


class UserStore:
    """Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        #: By the token's hash. Tokens that nobody has are not kept: whoever tries many would push out those in use.
        self.kept: Cache[bytes, Session | None] = Cache(SESSIONS_KEPT_MAX, _life_s, clock=clock)
        #: Keeps nothing: several that ask for a user's guilds at once wait for one answer.
        self._guilds: Cache[str, Any] = Cache(1, 0, clock=clock)

    async def keep(self, user_id: str) -> str:
        """Make the user known; returns its state."""
        return str(await self._db.fetchval(KEEP, user_id))

    async def set_state(self, user_id: str, state: str) -> None:
        """Raises: NotFound."""
        statement = "UPDATE users SET state = $2, last_updated_at = now() WHERE user_id = $1"
        if not await self._db.execute(statement, user_id, state):
            raise NotFound(f"there is no user {user_id}")
        self.kept.forget_where(lambda session: session is not None and session.user_id == user_id)

    async def guilds(self, user_id: str, read: Callable[[], Awaitable[Any]], *, refresh: bool = False) -> Any:
        """The user's guilds, as JSON knows them: what *read* has told in the last `USER_GUILDS_LIFE_S`, else what it tells now.

        Args:
            read: asks Discord; what it raises is raised here.
            refresh: ask in any case.
        Raises:
            NotFound: no such user.
            LimitExceeded: more than `USER_GUILDS_BYTES_MAX`.
        """
        if not refresh:
            row = await self._db.fetchrow(GUILDS, user_id, USER_GUILDS_LIFE_S)
            if row is None:
                raise NotFound(f"there is no user {user_id}")
            if row["guilds"] is not None:
                return orjson.loads(row["guilds"])
        return await self._guilds.get(user_id, lambda: self._read_guilds(user_id, read))

    async def _read_guilds(self, user_id: str, read: Callable[[], Awaitable[Any]]) -> Any:
        found = await read()
        text = orjson.dumps(found)
        if len(text) > USER_GUILDS_BYTES_MAX:
            raise LimitExceeded(f"the list of guilds is too long ({len(text):,} bytes)")
        if not await self._db.execute(KEEP_GUILDS, user_id, text.decode()):
            raise NotFound(f"there is no user {user_id}")
        return found

    async def create_session(
        self, user_id: str, type_: str, expires_s: float, name: str | None = None
    ) -> tuple[str, Session]:
        """A new token, shown this once, and its session. The user must be known.

        Raises:
            RequestError: an unknown type, or a life outside 1 s to `API_TOKEN_S_MAX`.
            LimitExceeded: the user has `API_TOKENS_MAX` already.
            NotFound: no such user.
        """
        if type_ not in TYPES:
            raise RequestError(f"not a type of session: {type_[:40]!r}", hint=", ".join(sorted(TYPES)))
        if not 1 <= expires_s <= API_TOKEN_S_MAX:
            raise RequestError("a token lives 1 second at least", hint=f"and {API_TOKEN_S_MAX} seconds at most")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        expiry = datetime.now(UTC) + timedelta(seconds=expires_s)
        async with self._db.transaction() as connection:
            state = await connection.fetchval("SELECT state FROM users WHERE user_id = $1 FOR UPDATE", user_id)
            if state is None:
                raise NotFound(f"there is no user {user_id}")
            held = await connection.fetchval(
                "SELECT count(*) FROM web_api_tokens WHERE user_id = $1 AND expiry > now()", user_id
            )
            if held >= API_TOKENS_MAX:
                raise LimitExceeded(f"too many sessions: {held}", hint=f"{API_TOKENS_MAX} at most")
            row = await connection.fetchrow(CREATE, user_id, type_, name, _hash(token), expiry)
        return token, Session(**dict(row), state=state)

    async def session(self, token: str) -> Session | None:
        """Whose token it is; None if it is unknown or has expired.

        As the database has it, or had it at most `SESSION_LIFE_S` ago where nobody here has changed it since.
        """
        hashed = _hash(token)
        return await self.kept.get(hashed, lambda: self._read_session(hashed))

    async def user_of(self, token: str) -> str | None:
        """The user behind a token; None if it is unknown or has expired. Raises: Forbidden: the user is banned."""
        session = await self.session(token)
        if session is None:
            return None
        if session.state == BANNED:
            raise Forbidden(f"user {session.user_id} is banned")
        return session.user_id

    async def _read_session(self, hashed: bytes) -> Session | None:
        row = await self._db.fetchrow(CHECK, hashed)
        return None if row is None else _session(row)

    async def sessions(self, user_id: str) -> list[Session]:
        """Valid sessions of a user, oldest first."""
        return [_session(row) for row in await self._db.fetch(LIST, user_id)]

    async def delete_session(self, user_id: str, session_id: UUID) -> None:
        """End an own session. Raises: NotFound."""
        statement = "DELETE FROM web_api_tokens WHERE user_id = $1 AND id = $2"
        if not await self._db.execute(statement, user_id, session_id):
            raise NotFound(f"you have no session {session_id}")
        self.kept.forget_where(lambda session: session is not None and session.id == session_id)

    async def purge(self, *, limit: int = 1_000) -> int:
        """Delete tokens that have expired, a bounded number at once; returns how many."""
        statement = (
            "DELETE FROM web_api_tokens WHERE id IN (SELECT id FROM web_api_tokens WHERE expiry <= now() LIMIT $1)"
        )
        return await self._db.execute(statement, limit)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _life_s(session: Session | None) -> float:
    if session is None:
        return 0
    return min(SESSION_LIFE_S, (session.expiry - datetime.now(UTC)).total_seconds())


def _session(row: asyncpg.Record) -> Session:
    return Session(**dict(row))


__all__ = ["Session", "UserStore"]
