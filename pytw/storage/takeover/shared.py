"""Tenants' states and the global key-value store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytw.limits import GLOBAL_KV_LONG_BYTES_MAX, GLOBAL_KV_SCOPE_BYTES_MAX, GLOBAL_KV_SHORT_BYTES_MAX
from pytw.storage.takeover.found import SCHEMA, Columns
from pytw.storage.takeover.left import Left
from pytw.storage.takeover.sql import as_set, count, is_snowflake

if TYPE_CHECKING:
    import asyncpg

    from pytw.limits import Limits

_BAD_STATE = f"""CASE
    WHEN owner_type NOT IN ('guild', 'user') THEN 'the owner is neither a guild nor a user'
    WHEN NOT {is_snowflake("owner_id")} THEN 'the owner is not a number' END"""
STATES = f"""
INSERT INTO tenant_state (owner_type, owner_id, events, banned, data)
SELECT owner_type, owner_id, {as_set("events")}, coalesce(banned, false),
    CASE WHEN jsonb_typeof({{data}}) = 'object' THEN {{data}} ELSE '{{{{}}}}' END
FROM {SCHEMA}.tenant_state WHERE ({_BAD_STATE}) IS NULL"""

_BAD_GLOBAL = f"""CASE
    WHEN key !~ '^[A-Za-z0-9_-][A-Za-z0-9._-]{{1,62}}[A-Za-z0-9_-]$' THEN 'not a key of the global store'
    WHEN version <= 0 THEN 'the version is not positive'
    WHEN octet_length(scope) NOT BETWEEN 1 AND {GLOBAL_KV_SCOPE_BYTES_MAX}
        THEN 'the scope is empty or longer than {GLOBAL_KV_SCOPE_BYTES_MAX} bytes'
    WHEN owner_type NOT IN ('guild', 'user', 'staff') THEN 'the owner is neither a guild, a user nor staff'
    WHEN octet_length(short) > {GLOBAL_KV_SHORT_BYTES_MAX} THEN 'short is longer than {GLOBAL_KV_SHORT_BYTES_MAX} bytes'
    WHEN octet_length(long) > {GLOBAL_KV_LONG_BYTES_MAX} THEN 'long is longer than {GLOBAL_KV_LONG_BYTES_MAX} bytes'
    WHEN price < 0 THEN 'the price is negative'
    WHEN price IS NOT NULL AND owner_type <> 'staff' THEN 'only staff may ask a price'
    WHEN review_state NOT IN ('pending', 'approved', 'denied') THEN 'the review state is not known' END"""
GLOBALS = f"""
INSERT INTO global_kv (key, version, scope, owner_type, owner_id, short, long, public_metadata, data, public_data, price,
    review_state, created_at, last_updated_at, approved_at)
SELECT key, version, scope, owner_type, owner_id, short, long, public_metadata, data, public_data, price::bigint,
    review_state, created_at, last_updated_at, CASE WHEN review_state = 'approved' THEN last_updated_at END
FROM {SCHEMA}.global_kv WHERE ({_BAD_GLOBAL}) IS NULL"""


async def take(connection: asyncpg.Connection[asyncpg.Record], there: Columns, _: Limits) -> dict[str, int]:
    """Copies both tables; returns how many rows of each."""
    taken: dict[str, int] = {}
    if "tenant_state" in there:
        has = there["tenant_state"]
        data = "data" if "data" in has else "'{}'::jsonb"
        taken["tenant_state"] = count(await connection.execute(STATES.format(data=data)))
        left, identity = Left("tenant_state"), "jsonb_build_object('owner_type', owner_type, 'owner_id', owner_id)"
        rows = f"FROM {SCHEMA}.tenant_state WHERE ({_BAD_STATE})"
        await connection.execute(left.insert(identity, _BAD_STATE, f"{rows} IS NOT NULL"))
        changed = [(f"jsonb_typeof({data}) IS DISTINCT FROM 'object'", "data is not an object, and is empty now")]
        if "flags" in has:
            changed.append(("flags <> 0", "nothing here has flags"))
        for test, reason in changed:
            await connection.execute(left.insert(identity, f"'{reason}'", f"{rows} IS NULL AND {test}", taken=True))
    if "global_kv" in there:
        taken["global_kv"] = count(await connection.execute(GLOBALS))
        identity = "jsonb_build_object('scope', scope, 'key', key, 'version', version)"
        rest = f"FROM {SCHEMA}.global_kv WHERE ({_BAD_GLOBAL}) IS NOT NULL"
        await connection.execute(Left("global_kv").insert(identity, _BAD_GLOBAL, rest))
    return taken


__all__ = ["take"]
