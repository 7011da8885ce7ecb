"""Users and their tokens, which become hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytw.limits import API_TOKEN_S_MAX
from pytw.storage.takeover.found import SCHEMA, Columns
from pytw.storage.takeover.left import Left
from pytw.storage.takeover.sql import count, is_snowflake

if TYPE_CHECKING:
    import asyncpg

    from pytw.limits import Limits

NAME_BYTES_MAX = 256
NAME_LENGTH = NAME_BYTES_MAX // 4

_BAD_USER = f"CASE WHEN NOT {is_snowflake('user_id')} THEN 'the user id is not a number' END"
USERS = f"""
INSERT INTO users (user_id, state, vote_banned, guilds_cache, access_token, created_at, last_updated_at)
SELECT user_id, state, {{vote_banned}}, {{guilds_cache}}, {{access_token}}, created_at, {{updated_at}}
FROM {SCHEMA}.users WHERE ({_BAD_USER}) IS NULL"""

_BAD_TOKEN = """CASE
    WHEN type NOT IN ('login', 'app_login', 'api') THEN 'the type of the session is not known'
    WHEN NOT EXISTS (SELECT FROM users u WHERE u.user_id = s.user_id) THEN 'its user was left out' END"""
_EXPIRY_MAX = f"now() + interval '{API_TOKEN_S_MAX} s'"
TOKENS = f"""
INSERT INTO web_api_tokens (id, user_id, type, name, token_hash, expiry, created_at)
SELECT id, user_id, type, CASE WHEN octet_length(name) > {NAME_BYTES_MAX} THEN left(name, {NAME_LENGTH}) ELSE name END,
    sha256(convert_to(token, 'UTF8')), least(expiry, {_EXPIRY_MAX}), created_at
FROM {SCHEMA}.web_api_tokens s WHERE ({_BAD_TOKEN}) IS NULL"""


async def take(connection: asyncpg.Connection[asyncpg.Record], there: Columns, _: Limits) -> dict[str, int]:
    """Copies both tables; returns how many rows of each."""
    taken: dict[str, int] = {}
    if "users" not in there:
        return taken
    has = there["users"]
    optional = {
        "vote_banned": "vote_banned" if "vote_banned" in has else "false",
        "guilds_cache": "guilds_cache" if "guilds_cache" in has else "NULL",
        "access_token": "access_token" if "access_token" in has else "NULL",
        "updated_at": "updated_at" if "updated_at" in has else "created_at",
    }
    taken["users"] = count(await connection.execute(USERS.format(**optional)))
    left = Left("users")
    rest = f"FROM {SCHEMA}.users WHERE ({_BAD_USER}) IS NOT NULL"
    await connection.execute(left.insert("jsonb_build_object('user_id', user_id)", _BAD_USER, rest))
    if "web_api_tokens" not in there:
        return taken
    taken["web_api_tokens"] = count(await connection.execute(TOKENS))
    left, rows = Left("web_api_tokens"), f"FROM {SCHEMA}.web_api_tokens s WHERE ({_BAD_TOKEN})"
    identity = "jsonb_build_object('id', id, 'user_id', user_id)"
    await connection.execute(left.insert(identity, _BAD_TOKEN, f"{rows} IS NOT NULL"))
    for test, reason in (
        (f"expiry > {_EXPIRY_MAX}", f"it lives for {API_TOKEN_S_MAX // 86_400} days from now, no longer"),
        (f"octet_length(name) > {NAME_BYTES_MAX}", "the name is cut"),
    ):
        await connection.execute(left.insert(identity, f"'{reason}'", f"{rows} IS NULL AND {test}", taken=True))
    return taken


__all__ = ["take"]
