"""Takes over a database of the reference, in its final form (spec/http-schema-systems.md 3.4) or that of August 2025 (3.2).

Three stages, all below the lock of migrations; each is done wholly or not at all, and known by a row of
``takeover_stages``, so that whoever comes after a crash goes on where it ended:

1. ``moved``: every table of the reference goes into the schema ``reference``, as it is. Nothing there is ever changed.
2. Our migrations, as for an empty database.
3. ``copied``: every row is copied into our tables, converted where it has to be.

A row that has no place in our tables stays where it is and is listed in ``takeover_left`` with the reason. So is one
that was taken with a part of it changed (column ``taken``).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from pytw.errors import ConfigError
from pytw.storage.takeover.accounts import take as take_accounts
from pytw.storage.takeover.found import KNOWN, SCHEMA, Kind, columns, look, stage
from pytw.storage.takeover.kv import take as take_kv
from pytw.storage.takeover.left import Left, report
from pytw.storage.takeover.shared import take as take_shared
from pytw.storage.takeover.templates import take as take_templates

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg

    from pytw.limits import Limits

LOG = logging.getLogger("pytw.storage.takeover")

#: A program of the reference that still has its tables open would be waited for.
TABLE_LOCK_S_MAX = 10
TABLES = """
CREATE TABLE takeover_stages (
    stage text PRIMARY KEY, rows jsonb NOT NULL DEFAULT '{}', at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE takeover_left (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    -- which row of that table in the schema reference; null for all of them
    identity jsonb,
    reason text NOT NULL,
    detail text,
    -- whether the row is in our tables nevertheless
    taken boolean NOT NULL DEFAULT false
);
CREATE INDEX takeover_left_by_reason ON takeover_left (source, reason, id);"""


async def move(connection: asyncpg.Connection[asyncpg.Record], names: Collection[str]) -> None:
    """The first stage.

    Args:
        names: what our migrations create; whatever else has one of these names makes room too.
    Raises:
        ConfigError: there is a schema of that name.
    """
    if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", SCHEMA):
        raise ConfigError(
            f"the database has a schema named {SCHEMA}, where the reference's tables would be kept",
            hint="rename it: ALTER SCHEMA ... RENAME TO ...",
        )
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{TABLE_LOCK_S_MAX}s'")
        await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        for statement in await connection.fetch(_MOVES, list(KNOWN), list(names)):
            await connection.execute(statement[0])
        await connection.execute(TABLES)
        await connection.execute("INSERT INTO takeover_stages (stage) VALUES ('moved')")


async def copy(connection: asyncpg.Connection[asyncpg.Record], limits: Limits) -> None:
    """The third stage."""
    async with connection.transaction():
        await connection.execute("SET LOCAL work_mem = '64MB'")
        await connection.execute("SET LOCAL maintenance_work_mem = '128MB'")
        await connection.execute("SET LOCAL synchronous_commit = on")
        there = await columns(connection, SCHEMA)
        counts: dict[str, int] = {}
        for part in (take_accounts, take_shared, take_kv, take_templates):
            counts |= await part(connection, there, limits)
        for table in sorted(there.keys() - counts.keys() - {"_migrations_applied"}):
            rows = await connection.fetchval(f'SELECT count(*) FROM {SCHEMA}."{table}"')
            if rows:
                await Left(table).whole(connection, f"all {rows:,} rows: this version has nothing like them")
        await connection.execute(
            "INSERT INTO takeover_stages (stage, rows) VALUES ('copied', $1::text::jsonb)", json.dumps(counts)
        )
    await connection.execute("ANALYZE")


_MOVES = f"""
SELECT format('ALTER %s %I.%I SET SCHEMA {SCHEMA}',
    CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE'
        ELSE 'TABLE' END, current_schema(), relname)
FROM pg_class c
WHERE relnamespace = current_schema()::regnamespace AND relkind = ANY ('{{r,p,v,m,S,f}}')
    AND (relname = ANY ($1) OR relname = ANY ($2))
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.deptype IN ('e', 'a', 'i'))
UNION ALL
SELECT format('ALTER FUNCTION %s SET SCHEMA {SCHEMA}', p.oid::regprocedure)
FROM pg_proc p
WHERE pronamespace = current_schema()::regnamespace AND (proname = 'is_sorted_set' OR proname = ANY ($2))
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT format('ALTER TYPE %s SET SCHEMA {SCHEMA}', t.oid::regtype)
FROM pg_type t
WHERE typnamespace = current_schema()::regnamespace AND typtype IN ('e', 'd')
    AND (typname = 'guild_channel_type' OR typname = ANY ($2))
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')"""


__all__ = ["Kind", "copy", "look", "move", "report", "stage"]
