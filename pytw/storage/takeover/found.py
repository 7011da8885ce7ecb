"""Whose database it is: ours, one of the reference, empty, or somebody else's. Tables are known by their columns."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

#: Where the tables of the reference are kept.
SCHEMA = "reference"

#: Tables that the reference had at any time (spec/http-schema-systems.md 3.2 and 5.6).
KNOWN = (
    "_migrations_applied",
    "a",
    "attached_templates",
    "cmd_usage_stats",
    "global_kv",
    "guild_templates",
    "guild_templates_kv",
    "jobs",
    "ongoing_jobs",
    "shop_listings_v2",
    "template_shop",
    "template_shop_listings",
    "templates",
    "tenant_kv",
    "tenant_state",
    "test",
    "users",
    "web_api_tokens",
)
#: What nobody else's table of that name is likely to have, and what ours has in addition.
_SHAPES = {
    "tenant_kv": ({"id", "owner_id", "key", "scopes", "value"}, {"identity"}),
    "guild_templates_kv": ({"id", "guild_id", "key", "scopes", "value"}, set()),
    "guild_templates": ({"guild_id", "name", "content", "allowed_caps"}, set()),
    "tenant_state": ({"owner_id", "owner_type", "events"}, {"revision"}),
    "web_api_tokens": ({"token", "user_id", "type", "expiry"}, {"token_hash"}),
}
_COLUMNS = """
SELECT c.relname AS name, array_agg(a.attname::text) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
GROUP BY c.relname"""


class Kind(enum.Enum):
    """What a database holds."""

    EMPTY = "empty"
    OURS = "ours"
    REFERENCE = "a database of the reference"
    FOREIGN = "foreign"


Columns = dict[str, set[str]]


async def columns(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> Columns:
    """The tables of a schema, extensions' own left out, and the columns of each."""
    return {row["name"]: set(row["columns"] or ()) for row in await connection.fetch(_COLUMNS, schema)}


def kind(tables: Mapping[str, set[str]]) -> Kind:
    """Whose tables these are."""
    if not tables:
        return Kind.EMPTY
    if "takeover_stages" in tables or "sha256" in tables.get("_migrations_applied", ()):
        return Kind.OURS
    for name, (has, lacks) in _SHAPES.items():
        if has <= tables.get(name, set()) and not lacks & tables.get(name, set()):
            return Kind.REFERENCE
    return Kind.FOREIGN


async def look(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[Kind, list[str]]:
    """Whose database it is, and the names of its tables."""
    tables = await columns(connection, await connection.fetchval("SELECT current_schema()") or "")
    return kind(tables), sorted(tables)


async def stage(connection: asyncpg.Connection[asyncpg.Record]) -> str:
    """How far a take-over has come: "" where none was begun, else ``moved`` or ``copied``."""
    if await connection.fetchval("SELECT to_regclass('takeover_stages')") is None:
        return ""
    done = {row["stage"] for row in await connection.fetch("SELECT stage FROM takeover_stages")}
    return "copied" if "copied" in done else "moved"


__all__ = ["KNOWN", "SCHEMA", "Columns", "Kind", "columns", "kind", "look", "stage"]
