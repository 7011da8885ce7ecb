"""Templates of August 2025: rows of ``guild_templates`` become a version each, deployed, and a template."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from pytw.errors import PytwError
from pytw.limits import TENANT_SOURCE_BYTES_MAX
from pytw.storage.shopversions import PREFIX, shop_ref
from pytw.storage.takeover.found import SCHEMA, Columns
from pytw.storage.takeover.left import Left
from pytw.storage.takeover.sql import is_snowflake
from pytw.storage.templatechecks import checked_files, checked_name
from pytw.storage.tenants import checked_events

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from pytw.limits import Limits

FETCH_ROWS = 64
TABLE = "guild_templates"

# Times as text: a timestamp of PostgreSQL may be one that Python has no type for.
_ROWS = f"""
SELECT guild_id, name, content::text AS content, language, events, allowed_caps, paused, error_channel,
    created_at::text AS created_at, last_updated_at::text AS last_updated_at, {is_snowflake("guild_id")} AS is_snowflake
FROM {SCHEMA}.{TABLE} ORDER BY guild_id, created_at, name"""
_SOURCES = """
INSERT INTO sources (hash, source) SELECT * FROM unnest($1::bytea[], $2::text[]) AS new (hash, source) ORDER BY 1
ON CONFLICT (hash) DO NOTHING"""
_VERSION = """
INSERT INTO template_versions (owner_type, owner_id, template, number, files, bytes, message, created_at)
VALUES ('guild', $1, $2, 1, $3::text::jsonb, $4, 'taken over from the reference', $5::text::timestamptz) RETURNING id"""
_TEMPLATE = """
INSERT INTO templates (owner_type, owner_id, name, deployed_version, events_override, allowed_caps, error_channel, paused,
    shop_ref, created_at, last_updated_at)
VALUES ('guild', $1, $2, $3, $4, $5, $6, $7, $8, $9::text::timestamptz, $10::text::timestamptz)"""
_DEPLOYMENT = """
INSERT INTO template_deployments (owner_type, owner_id, template, version_id, shop_ref, deployed_at)
VALUES ('guild', $1, $2, $3, $4, $5::text::timestamptz)"""

#: What runs is what a roll-back of the next deployment leads to.
_DEPLOYED = """
INSERT INTO template_deployments (owner_type, owner_id, template, version_id, shop_ref, deployed_at)
SELECT owner_type, owner_id, name, deployed_version, shop_ref, last_updated_at FROM templates
WHERE deployed_version IS NOT NULL OR shop_ref IS NOT NULL"""


class _Tenant(NamedTuple):
    """What the templates of one tenant that were taken have together."""

    guild_id: str
    templates: int
    source_bytes: int


class _Refused(Exception):
    """The row has no place here."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


async def take(connection: asyncpg.Connection[asyncpg.Record], there: Columns, limits: Limits) -> dict[str, int]:
    """Copies all templates; returns how many."""
    if TABLE not in there:
        return {}
    left, taken = Left(TABLE), 0
    tenant = _Tenant("", 0, 0)
    cursor = await connection.cursor(_ROWS)
    while rows := await cursor.fetch(FETCH_ROWS):
        refused: list[tuple[dict[str, Any], str, str | None]] = []
        for row in rows:
            if row["guild_id"] != tenant.guild_id:
                tenant = _Tenant(row["guild_id"], 0, 0)
            try:
                tenant = await _take(connection, row, tenant, limits)
                taken += 1
            except _Refused as error:
                identity = {"guild_id": row["guild_id"], "name": row["name"]}
                refused.append((identity, error.reason, error.detail))
        await left.add(connection, refused)
    await connection.execute(_DEPLOYED)
    return {TABLE: taken}


async def _take(
    connection: asyncpg.Connection[asyncpg.Record], row: asyncpg.Record, tenant: _Tenant, limits: Limits
) -> _Tenant:
    if not row["is_snowflake"]:
        raise _Refused("the guild is not a number")
    if row["language"] != "luau":
        raise _Refused("the language is not luau", row["language"])
    name, files = _checked(row, limits)
    source_bytes = sum(len(path.encode()) + len(source.encode()) for path, source in files.items())
    after = _Tenant(tenant.guild_id, tenant.templates + 1, tenant.source_bytes + source_bytes)
    if after.templates > limits.templates_max:
        raise _Refused("the tenant has more templates than limits.templates_max")
    if after.source_bytes > TENANT_SOURCE_BYTES_MAX:
        raise _Refused(f"the tenant's templates have more than {TENANT_SOURCE_BYTES_MAX:,} bytes of source together")
    events = _events(row["events"])
    version = await _save(connection, row, name, files, source_bytes) if files else None
    shop = None if files else name
    await connection.execute(
        _TEMPLATE,
        row["guild_id"],
        name,
        version,
        events,
        [cap for cap in row["allowed_caps"] if cap is not None],
        row["error_channel"],
        row["paused"],
        shop,
        row["created_at"],
        row["last_updated_at"],
    )
    await connection.execute(_DEPLOYMENT, row["guild_id"], name, version, shop, row["last_updated_at"])
    return after


def _checked(row: asyncpg.Record, limits: Limits) -> tuple[str, dict[str, str]]:
    """Its name and files. What comes from the shop has none of its own, whatever its row held."""
    try:
        name = checked_name(row["name"])
    except PytwError as error:
        raise _Refused("not a template name", str(error)) from error
    if name.startswith(PREFIX):
        try:
            return str(shop_ref(name)), {}
        except PytwError as error:
            raise _Refused("not a template of the shop", str(error)) from error
    content = orjson.loads(row["content"])
    if not isinstance(content, dict) or not all(isinstance(source, str) for source in content.values()):
        raise _Refused("the content is not a table of paths and sources")
    try:
        return name, checked_files(content, limits)
    except PytwError as error:
        raise _Refused("its files have no place here", str(error)) from error


def _events(events: Sequence[str | None]) -> list[str]:
    try:
        return checked_events(event for event in events if event is not None)
    except PytwError as error:
        raise _Refused("its events have no place here", str(error)) from error


async def _save(
    connection: asyncpg.Connection[asyncpg.Record],
    row: asyncpg.Record,
    name: str,
    files: dict[str, str],
    source_bytes: int,
) -> int:
    hashes = {path: hashlib.sha256(source.encode()).digest() for path, source in files.items()}
    by_hash = {hashes[path]: source for path, source in files.items()}
    await connection.execute(_SOURCES, list(by_hash), list(by_hash.values()))
    paths = orjson.dumps({path: digest.hex() for path, digest in hashes.items()}).decode()
    version: int = await connection.fetchval(
        _VERSION, row["guild_id"], name, paths, source_bytes, row["last_updated_at"]
    )
    return version


__all__ = ["take"]
