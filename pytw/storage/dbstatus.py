"""What a database holds, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytw.storage.takeover.found import SCHEMA

if TYPE_CHECKING:
    import asyncpg

#: Larger tables are not counted: what the database last estimated has to do.
COUNTED_BYTES_MAX = 8 << 20

_TABLES = """
SELECT CASE WHEN nspname = current_schema() THEN relname::text ELSE nspname || '.' || relname END AS name,
    format('%I.%I', nspname, relname) AS quoted, pg_relation_size(c.oid) AS own_bytes, pg_total_relation_size(c.oid) AS bytes,
    reltuples::bigint AS estimate
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND (nspname = current_schema() OR nspname = $1) ORDER BY nspname <> current_schema(), relname"""


async def facts(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, Any]:
    """Keys ``version``, ``bytes``, and ``tables`` with ``name, rows, estimated, bytes`` of each."""
    tables = []
    for row in await connection.fetch(_TABLES, SCHEMA):
        estimated = row["own_bytes"] > COUNTED_BYTES_MAX and row["estimate"] >= 0
        rows = row["estimate"] if estimated else await connection.fetchval(f"SELECT count(*) FROM {row['quoted']}")
        tables.append({"name": row["name"], "rows": rows, "estimated": estimated, "bytes": row["bytes"]})
    return {
        "version": (await connection.fetchval("SHOW server_version")).split()[0],
        "bytes": await connection.fetchval("SELECT pg_database_size(current_database())"),
        "tables": tables,
    }


__all__ = ["facts"]
