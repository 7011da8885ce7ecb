"""Databases of the reference for tests: its tables, its migrations step by step, and rows in them (spec/http-schema-systems.md 3)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from pytw import values

SEED = """
CREATE TYPE guild_channel_type AS ENUM ('audit_logs');
CREATE FUNCTION is_sorted_set(text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT $1 = ARRAY(SELECT DISTINCT unnest($1) ORDER BY 1)';
CREATE TABLE users (
    user_id varchar(255) PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now(), state text NOT NULL DEFAULT 'normal',
    updated_at timestamptz NOT NULL DEFAULT now(), vote_banned boolean NOT NULL DEFAULT false, guilds_cache jsonb,
    access_token text);
CREATE TABLE web_api_tokens (
    user_id text NOT NULL REFERENCES users (user_id), created_at timestamptz NOT NULL DEFAULT now(), type text NOT NULL,
    expiry timestamptz NOT NULL, token text PRIMARY KEY, id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), name text);
CREATE TABLE guild_templates_kv (
    guild_id text NOT NULL, key text NOT NULL, value jsonb, created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now(), scopes text[] NOT NULL DEFAULT '{}', id text PRIMARY KEY,
    expires_at timestamptz, expiry_event_call_attempts integer NOT NULL DEFAULT 0, resume boolean NOT NULL DEFAULT false,
    CONSTRAINT kv_unique_entry UNIQUE (guild_id, key, scopes));
CREATE INDEX idx_kv_scopes_gin ON guild_templates_kv USING gin (scopes);
CREATE TABLE global_kv (
    key text NOT NULL, version integer NOT NULL, owner_id text NOT NULL, owner_type text NOT NULL, public_metadata jsonb NOT NULL,
    data jsonb NOT NULL, public_data boolean NOT NULL DEFAULT false, scope text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), last_updated_at timestamptz NOT NULL DEFAULT now(), price integer,
    review_state text NOT NULL DEFAULT 'pending', short text NOT NULL, long text, PRIMARY KEY (key, version, scope),
    CHECK (price IS NULL OR owner_type = 'staff'));
CREATE TABLE tenant_state (
    owner_id text PRIMARY KEY, owner_type text NOT NULL, events text[] NOT NULL, banned boolean NOT NULL DEFAULT false,
    flags integer NOT NULL DEFAULT 0);
CREATE TABLE guild_templates (
    name text NOT NULL, guild_id text NOT NULL, last_updated_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(), events text[] NOT NULL, error_channel text,
    language text NOT NULL DEFAULT 'luau', allowed_caps text[] NOT NULL DEFAULT '{}', paused boolean NOT NULL DEFAULT false,
    content jsonb NOT NULL, PRIMARY KEY (name, guild_id));
CREATE TABLE template_shop_listings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, short text NOT NULL,
    review_state text NOT NULL DEFAULT 'pending', default_events text[], default_allowed_caps text[],
    language text NOT NULL DEFAULT 'luau', content jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    last_updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE attached_templates (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_type text NOT NULL, owner_id text NOT NULL, source text NOT NULL,
    name text, language text, content jsonb, shop_ref uuid REFERENCES template_shop_listings ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(), last_updated_at timestamptz NOT NULL DEFAULT now(),
    allowed_caps text[] NOT NULL DEFAULT '{}', state text NOT NULL DEFAULT 'active');
CREATE TABLE shop_listings_v2 (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
CREATE TABLE jobs (id uuid CONSTRAINT tasks_pkey PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
CREATE TABLE ongoing_jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), data jsonb);
CREATE TABLE cmd_usage_stats (command_name text PRIMARY KEY, uses integer);
CREATE TABLE a (); CREATE TABLE test (n integer);
"""
APPLIED = "CREATE TABLE IF NOT EXISTS _migrations_applied (id text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
#: The reference's migrations but the first, which is code.
STEPS = {
    "khronosvalue_v2": "",
    "kv_generic": """
        ALTER TABLE guild_templates_kv RENAME TO tenant_kv;
        ALTER TABLE tenant_kv RENAME COLUMN guild_id TO owner_id;
        ALTER TABLE tenant_kv ADD COLUMN owner_type text NOT NULL DEFAULT 'guild';
        ALTER TABLE tenant_kv DROP CONSTRAINT kv_unique_entry;
        ALTER TABLE tenant_kv ADD CONSTRAINT kv_unique_entry UNIQUE (owner_id, owner_type, key, scopes)""",
    "tenantstate": """
        DROP TABLE tenant_state;
        CREATE TABLE tenant_state (owner_id text NOT NULL, owner_type text NOT NULL, events text[] NOT NULL DEFAULT '{}',
            banned boolean NOT NULL DEFAULT false, data jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (owner_id, owner_type))""",
    "cleanup_v8": """
        DROP TABLE guild_templates, attached_templates, template_shop_listings, jobs, ongoing_jobs;
        ALTER TABLE tenant_kv DROP COLUMN resume, DROP COLUMN expiry_event_call_attempts""",
    "drop_tenant_kv_expires_at": "ALTER TABLE tenant_kv DROP COLUMN expires_at",
}
#: Where a run of the reference's migrations may have ended: how many are done, and whether the last one is recorded.
STATES = [(0, True)] + [(done, recorded) for done in range(1, len(STEPS) + 1) for recorded in (False, True)]

START = datetime(2025, 8, 24, 12, tzinfo=UTC)


@dataclass
class Row:
    """A row of the key-value store by its value."""

    id: str
    owner: str
    key: str
    scopes: list[str]
    value: Any
    updated: datetime = START
    expires_at: datetime | None = None
    resume: bool = False
    #: Written as it is, in place of the value.
    raw: str | None = field(default=None)


def v1(value: Any) -> Any:
    """The form before the reference's first migration."""
    special = None
    match value:
        case None | bool() | float():
            return value
        case values.TimeZone():
            special = ("timezone", str(value))
        case str() | int():
            return value
        case values.Buffer():
            special = ("buffer", list(value))
        case values.Vector():
            special = ("vector", list(value))
        case values.Interval():
            special = ("interval", list(value))
        case datetime():
            special = ("timestamptz", value.astimezone(UTC).isoformat().replace("+00:00", "Z"))
        case list():
            return [v1(item) for item in value]
        case dict():
            return {key: v1(item) for key, item in value.items()}
    assert special is not None
    return {"___khronosValType___": special[0], "value": special[1]}


def v1_base64(value: values.Buffer) -> Any:
    return {"___khronosValType___": "buffer", "value": base64.b64encode(value).decode()}


def written(row: Row, *, tagged: bool) -> str | None:
    if row.raw is not None:
        return None if row.raw == "NULL" else row.raw
    return json.dumps(values.to_tagged_json(row.value) if tagged else v1(row.value))


async def seed(connection: asyncpg.Connection, rows: list[Row]) -> None:
    """The database of August 2025 with these rows, values in the old form."""
    await connection.execute(SEED)
    await connection.executemany(
        "INSERT INTO guild_templates_kv (guild_id, key, value, created_at, last_updated_at, scopes, id, expires_at, resume) "
        "VALUES ($1, $2, $3::text::jsonb, $4, $4, $5, $6, $7, $8)",
        [(r.owner, r.key, written(r, tagged=False), r.updated, r.scopes, r.id, r.expires_at, r.resume) for r in rows],
    )


async def convert(connection: asyncpg.Connection, rows: list[Row]) -> None:
    """The reference's first migration, as far as *rows* go."""
    await connection.executemany(
        "UPDATE guild_templates_kv SET value = $2::text::jsonb WHERE id = $1",
        [(row.id, written(row, tagged=True)) for row in rows],
    )


async def advance(connection: asyncpg.Connection, rows: list[Row], done: int, *, recorded: bool) -> None:
    """Its migrations up to number *done*, the last of them recorded or not."""
    if done:
        await connection.execute(APPLIED)
    for number, (name, sql) in enumerate(list(STEPS.items())[:done], 1):
        await (convert(connection, rows) if not sql else connection.execute(sql))
        if number < done or recorded:
            await connection.execute("INSERT INTO _migrations_applied (id) VALUES ($1)", name)


def some_rows() -> list[Row]:
    """One of each kind of value, and scopes in several orders."""
    later = START + timedelta(days=365)
    kinds: list[Any] = [
        None,
        True,
        -5,
        2**60,
        2**63 + 5,
        1.5,
        -0.25,
        "text",
        "",
        "Null",
        values.Buffer(b"\0\1\xff"),
        values.Vector(1.0, 2.5, -3.0),
        values.Interval(-2, 500_000_000),
        values.TimeZone("Europe/London"),
        datetime(2026, 2, 27, 6, 7, 33, 123456, tzinfo=UTC),
        [],
        [1, "two", [3.5, None]],
        {},
        {"a": 1, "b": {"c": [True, "x"]}, "when": datetime(2025, 1, 1, tzinfo=UTC)},
    ]
    rows = [Row(f"id{n}", str(10**17 + n % 3), f"key{n}", ["s", "t"], value) for n, value in enumerate(kinds)]
    rows.append(Row("expires", "100000000000000001", "expires", ["s"], 1, expires_at=later))
    rows.append(Row("resumes", "100000000000000001", "resumes", ["s"], "again", resume=True))
    rows.append(Row("unsorted", "100000000000000001", "unsorted", ["t", "s"], "x"))
    return rows
