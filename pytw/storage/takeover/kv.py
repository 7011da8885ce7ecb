"""The key-value store of tenants: the one table that is large.

Rows of the final form are copied by the database itself; only values with parts are read here, to see that they can be
read. Values of the old form are converted here, a bounded number of bytes at a time.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import orjson

from pytw import values
from pytw.limits import KV_KEY_BYTES_MAX
from pytw.storage.takeover import valuesv1
from pytw.storage.takeover.found import SCHEMA, Columns
from pytw.storage.takeover.left import Left
from pytw.storage.takeover.sql import as_set, count, is_snowflake

if TYPE_CHECKING:
    import asyncpg

    from pytw.limits import Limits

FETCH_ROWS = 256  # of up to a quarter of a MiB each
BATCH_ROWS_MAX = 5_000
BATCH_BYTES_MAX = 4 << 20
DETAIL_LENGTH_MAX = 200
MALFORMED = "the value is malformed"
SEEMS_CONVERTED = "the value looks converted already, and was not converted again"

#: Takes the place of no scope, which keys of August 2025 may have; here each has one.
UNSCOPED = "unscoped"
#: The rows of the reference's table under our names. ``scopes`` as we keep them; ``reason`` why a row has no place.
_VIEW = f"""
CREATE TEMP VIEW takeover_kv AS
SELECT id, owner_type, owner_id, key, scopes, value, expires_at, resume, created_at, last_updated_at, reason, unscoped FROM (
    SELECT id, {{owner_type}} AS owner_type, {{owner_id}} AS owner_id, key, value, {{expires_at}} AS expires_at,
        {{resume}} AS resume, created_at, last_updated_at,
        CASE
            WHEN cardinality(scopes) = 0 THEN '{{{{{UNSCOPED}}}}}'::text[]
            WHEN cardinality(scopes) = 1 AND array_lower(scopes, 1) = 1 THEN scopes
            ELSE {as_set("scopes")}
        END AS scopes, cardinality(scopes) = 0 AS unscoped,
        CASE
            WHEN {{owner_type}} NOT IN ('guild', 'user') THEN 'the owner is neither a guild nor a user'
            WHEN NOT {is_snowflake("{owner_id}")} THEN 'the owner is not a number'
            WHEN key = '' THEN 'the key is empty'
            WHEN octet_length(key) > {KV_KEY_BYTES_MAX} THEN 'the key is longer than {KV_KEY_BYTES_MAX} bytes'
            WHEN array_ndims(scopes) = 1 AND array_position(scopes, NULL) IS NOT NULL THEN 'a scope is null'
        END AS reason
    FROM {SCHEMA}.{{table}}
) AS source"""

# Scopes that are the same set were only kept apart by their order, or by one that is there twice.
_OUT = f"""
CREATE TEMP TABLE takeover_out ON COMMIT DROP AS
SELECT id, 'the same key and scopes were written later' AS reason, NULL::text AS detail FROM (
    SELECT id, row_number() OVER (
        PARTITION BY owner_type, owner_id, key, scopes ORDER BY last_updated_at DESC, created_at DESC, id) AS place
    FROM takeover_kv
    WHERE reason IS NULL AND (owner_id, key) IN (
        SELECT {{owner_id}}, key FROM {SCHEMA}.{{table}} GROUP BY 1, 2
        HAVING count(*) > 1 AND (max(cardinality(scopes)) > 1 OR min(cardinality(scopes)) = 0))
) AS ranked WHERE place > 1"""

_WANTED = (
    "FROM takeover_kv AS source WHERE reason IS NULL AND NOT EXISTS (SELECT FROM takeover_out o WHERE o.id = source.id)"
)
_COLUMNS = "id, owner_type, owner_id, key, scopes, value, expires_at, resume, created_at, last_updated_at"

#: Values that need no second look: "Null", and a text, boolean or small integer.
_PLAIN = r"""(CASE
    WHEN value IS NULL OR value = '"Null"' THEN true
    WHEN jsonb_typeof(value -> 'Text') = 'string' THEN value = jsonb_build_object('Text', value -> 'Text')
    WHEN jsonb_typeof(value -> 'Boolean') = 'boolean' THEN value = jsonb_build_object('Boolean', value -> 'Boolean')
    WHEN value ->> 'Integer' ~ '^-?[0-9]{1,18}$' AND jsonb_typeof(value -> 'Integer') = 'number'
        THEN value = jsonb_build_object('Integer', value -> 'Integer')
    ELSE false END)"""
_COMPOUND = f"SELECT id, value::text AS value {_WANTED} AND NOT {_PLAIN}"
# In the order of our indexes, so that rows that follow each other change the same pages of them.
_ORDER = "ORDER BY owner_id, owner_type, key, id"
_ALL = f"SELECT id, value::text AS value {_WANTED} {_ORDER}"
_NULL = "'\"Null\"'::jsonb"
_COPY = f"""
INSERT INTO tenant_kv ({_COLUMNS})
SELECT {_COLUMNS.replace("value", f"coalesce(value, {_NULL})")} {_WANTED} {_ORDER}"""
_COPY_BATCH = f"""
INSERT INTO tenant_kv ({_COLUMNS})
SELECT {_COLUMNS.replace("value", "new.value::jsonb").replace("id,", "source.id,", 1)}
FROM unnest($1::text[], $2::text[]) AS new (id, value) JOIN takeover_kv AS source ON source.id = new.id"""

_LEAVE = "INSERT INTO takeover_out (id, reason, detail) VALUES ($1, $2, $3)"

_LOOKS_TAGGED = f"""(jsonb_typeof(value) = 'object' AND value ?| '{{{",".join(sorted(valuesv1.TAGS))}}}'
    AND (SELECT count(*) FROM jsonb_object_keys(value)) = 1)"""
_FORMS = f"""
SELECT count(*) FILTER (WHERE {_LOOKS_TAGGED}) AS tagged,
    count(*) FILTER (WHERE NOT {_LOOKS_TAGGED} AND value <> '"Null"') AS plain
FROM {SCHEMA}.guild_templates_kv"""
_RECORDED = f"SELECT EXISTS (SELECT FROM {SCHEMA}._migrations_applied WHERE id = 'khronosvalue_v2')"

_IDENTITY = "jsonb_build_object('id', source.id, 'owner_id', owner_id, 'key', left(key, 100))"


class Form(enum.Enum):
    """How the values of a table are written."""

    OLD = "plain JSON"
    TAGGED = "tagged"
    MIXED = "converted in part: the reference's migration was interrupted, and did not note how far it had come"


async def take(connection: asyncpg.Connection[asyncpg.Record], there: Columns, _: Limits) -> dict[str, int]:
    """Copies all rows; returns how many."""
    table = "tenant_kv" if "tenant_kv" in there else "guild_templates_kv"
    if table not in there:
        return {}
    has = there[table]
    optional = {
        "owner_type": "owner_type" if "owner_type" in has else "'guild'::text",
        "owner_id": "owner_id" if "owner_id" in has else "guild_id",
        "expires_at": "expires_at" if "expires_at" in has else "NULL::timestamptz",
        "resume": "resume" if "resume" in has else "false",
    }
    await connection.execute(f"ANALYZE {SCHEMA}.{table}")
    await connection.execute(_VIEW.format(table=table, **optional))
    await connection.execute(_OUT.format(table=table, **optional))
    await connection.execute("CREATE INDEX ON takeover_out (id)")
    left = Left(table)
    form = await _form(connection, there, table)
    if form is Form.TAGGED:
        await _look(connection)
        taken = count(await connection.execute(_COPY))
    else:
        taken = await _convert(connection, left, form)
    await connection.execute(left.insert(_IDENTITY, "reason", "FROM takeover_kv AS source WHERE reason IS NOT NULL"))
    await connection.execute(
        "INSERT INTO takeover_left (source, identity, reason, detail) "
        f"SELECT '{table}', {_IDENTITY}, o.reason, o.detail FROM takeover_out o JOIN takeover_kv AS source USING (id)"
    )
    reason = f"'it had no scope, and is under the scope {UNSCOPED} now'"
    await connection.execute(left.insert(_IDENTITY, reason, f"{_WANTED} AND unscoped", taken=True))
    await connection.execute("DROP VIEW takeover_kv")
    return {table: taken}


async def _form(connection: asyncpg.Connection[asyncpg.Record], there: Columns, table: str) -> Form:
    """By the reference's own record, where there is one; else by the values.

    Its migrations ran in order, so that the table's later name says as much as the record.
    """
    if table == "tenant_kv" or ("_migrations_applied" in there and await connection.fetchval(_RECORDED)):
        return Form.TAGGED
    counts = await connection.fetchrow(_FORMS)
    assert counts is not None
    if not counts["tagged"]:
        return Form.OLD
    return Form.MIXED if counts["plain"] else Form.TAGGED


async def _look(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Rows whose tagged values cannot be read go to ``takeover_out``."""
    cursor = await connection.cursor(_COMPOUND)
    while rows := await cursor.fetch(FETCH_ROWS):
        bad: list[tuple[str, str, str]] = []
        for row in rows:
            try:
                values.from_tagged_json(orjson.loads(row["value"]))
            except ValueError as error:
                bad.append((row["id"], MALFORMED, str(error)[:DETAIL_LENGTH_MAX]))
        if bad:
            await connection.executemany(_LEAVE, bad)


async def _convert(connection: asyncpg.Connection[asyncpg.Record], left: Left, form: Form) -> int:
    """Copies rows with values of the old form, converted; returns how many."""
    taken = size = 0
    batch: list[tuple[str, str]] = []
    bad: list[tuple[str, str, str]] = []
    noted: list[tuple[dict[str, Any], str, str | None]] = []

    async def write() -> None:
        nonlocal taken, size
        if batch:
            ids, texts = zip(*batch, strict=True)
            taken += count(await connection.execute(_COPY_BATCH, ids, texts))
        if bad:
            await connection.executemany(_LEAVE, bad)
        await left.add(connection, noted, taken=True)
        for written in (batch, bad, noted):
            written.clear()
        size = 0

    cursor = await connection.cursor(_ALL)
    while rows := await cursor.fetch(FETCH_ROWS):
        for row in rows:
            try:
                value = None if row["value"] is None else orjson.loads(row["value"])
                if form is Form.MIXED and value is not None and valuesv1.is_tagged(value):
                    noted.append(({"id": row["id"]}, SEEMS_CONVERTED, None))
                    text = row["value"]
                else:
                    text = orjson.dumps(valuesv1.to_tagged(value)).decode()
            except ValueError as error:
                bad.append((row["id"], MALFORMED, str(error)[:DETAIL_LENGTH_MAX]))
                continue
            batch.append((row["id"], text))
            size += len(text)
            if size >= BATCH_BYTES_MAX:
                await write()
        if max(len(batch), len(bad)) + FETCH_ROWS > BATCH_ROWS_MAX:
            await write()
    await write()
    return taken


__all__ = ["take"]
