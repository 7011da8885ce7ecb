"""The steps that changes of templates are made of, each inside the transaction of its caller.

`begin` comes first, whatever the change is: with it a tenant's changes follow each other, so that counts and histories hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import (
    TEMPLATE_DEPLOYMENTS_MAX,
    TEMPLATE_VERSIONS_MAX,
    TENANT_SOURCE_BYTES_MAX,
    TENANT_VERSIONS_BYTES_MAX,
    VERSION_OVERHEAD_BYTES,
    Limits,
)
from pytw.storage import locks, sources
from pytw.storage.shopversions import PREFIX, ShopRef
from pytw.storage.templatechecks import Settings
from pytw.types import Id

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE = "SELECT pg_advisory_xact_lock(hashtextextended($1 || $2, $3))"

#: The listing that a template's row ``t`` runs, as ``s``: nothing where there is none that is approved.
LISTING = """
LEFT JOIN LATERAL (
    SELECT * FROM shop_templates shop
    WHERE shop.name = t.shop_name AND (t.shop_version = 'latest' OR shop.version = t.shop_version)
    AND shop.review_state = 'approved' AND shop.withdrawn_at IS NULL
    ORDER BY shop.position DESC LIMIT 1
) s ON t.shop_ref IS NOT NULL"""

ROOM = f"""
SELECT count(*) AS templates, coalesce(sum(coalesce(v.bytes, s.bytes)), 0)::bigint AS bytes
FROM templates t LEFT JOIN template_versions v ON v.id = t.deployed_version {LISTING}
WHERE t.owner_id = $1 AND t.owner_type = $2 AND t.name <> $3"""

RUN = """
INSERT INTO templates AS old
    (owner_id, owner_type, name, deployed_version, shop_ref, events, events_override, allowed_caps, error_channel, paused)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce($10::boolean, false))
ON CONFLICT (owner_id, owner_type, name) DO UPDATE SET
    deployed_version = excluded.deployed_version, shop_ref = excluded.shop_ref, events = excluded.events,
    events_override = excluded.events_override, allowed_caps = excluded.allowed_caps,
    error_channel = excluded.error_channel, paused = coalesce($10::boolean, old.paused), last_updated_at = now()"""
#: What runs changes, and what the row says of it stays.
POINT = """
INSERT INTO templates (owner_id, owner_type, name, deployed_version, shop_ref, events) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (owner_id, owner_type, name) DO UPDATE SET
    deployed_version = excluded.deployed_version, shop_ref = excluded.shop_ref, events = excluded.events,
    last_updated_at = now()"""
NOTE = """
INSERT INTO template_deployments (owner_id, owner_type, template, version_id, shop_ref, author)
VALUES ($1, $2, $3, $4, $5, $6)"""
FORGET_DEPLOYMENTS = """
DELETE FROM template_deployments WHERE owner_id = $1 AND owner_type = $2 AND template = $3 AND id <= (
    SELECT id FROM template_deployments WHERE owner_id = $1 AND owner_type = $2 AND template = $3
    ORDER BY id DESC OFFSET $4 LIMIT 1)"""

LISTED = """
SELECT version, events, allowed_caps, bytes, review_state, withdrawn_at FROM shop_templates WHERE name = $1
ORDER BY position DESC"""

# What stays of a tenant's versions: those that run, and for each template the one that a roll-back leads to. Of the rest
# the oldest go first, and what a removed template ran goes last.
PRUNE = """
WITH owned AS MATERIALIZED (
    SELECT id, template, bytes + $3 AS bytes FROM template_versions WHERE owner_id = $1 AND owner_type = $2
), kept AS MATERIALIZED (
    SELECT deployed_version AS id FROM templates
    WHERE owner_id = $1 AND owner_type = $2 AND deployed_version IS NOT NULL
    UNION SELECT id FROM (
        SELECT DISTINCT ON (d.template) d.version_id AS id
        FROM template_deployments d JOIN templates t
        ON t.owner_id = d.owner_id AND t.owner_type = d.owner_type AND t.name = d.template
        WHERE d.owner_id = $1 AND d.owner_type = $2 AND d.undone_at IS NULL
        AND (d.version_id, d.shop_ref) IS DISTINCT FROM (t.deployed_version, t.shop_ref)
        ORDER BY d.template, d.id DESC
    ) AS before WHERE id IS NOT NULL
    UNION SELECT $6::bigint
), removed AS MATERIALIZED (
    SELECT (settings ->> 'deployed_version')::bigint AS id FROM removed_templates
    WHERE owner_id = $1 AND owner_type = $2
), loose AS (
    SELECT id, template, bytes,
        sum(bytes) OVER (ORDER BY id IN (SELECT id FROM removed), id) - bytes AS before_it,
        row_number() OVER (PARTITION BY template ORDER BY id IN (SELECT id FROM removed), id) AS place
    FROM owned WHERE id NOT IN (SELECT id FROM kept)
), over AS (
    SELECT template, count(*) - $5 AS versions FROM owned GROUP BY template
)
DELETE FROM template_versions WHERE id IN (
    SELECT loose.id FROM loose JOIN over USING (template)
    WHERE before_it < (SELECT sum(bytes) FROM owned) - $4 OR place <= over.versions
) RETURNING hashes"""
SAVED = """
SELECT coalesce(sum(bytes + $3), 0)::bigint AS bytes, count(*) FILTER (WHERE template = $4) AS versions
FROM template_versions WHERE owner_id = $1 AND owner_type = $2"""


def key_of(owner: Id) -> tuple[str, str]:
    return owner.owner_id, owner.owner_type.value


async def begin(connection: Any, owner: Id) -> None:
    """One change of a tenant's templates at a time, and none of the shop or of what is collected meanwhile."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared($1)", locks.SHOP)
    await sources.hold(connection)
    await alone(connection, owner)


async def alone(connection: Any, owner: Id) -> None:
    """One change of a tenant's templates at a time, whichever store has them."""
    await connection.execute(ALONE, *key_of(owner), locks.TEMPLATES)


async def require_room(connection: Any, owner: Id, name: str, size: int, limits: Limits) -> None:
    """Raises: LimitExceeded: *name* would be one template too many, or *size* bytes of it too much source."""
    others = await connection.fetchrow(ROOM, *key_of(owner), name)
    if others["templates"] >= limits.templates_max:
        raise LimitExceeded(
            f"{name} would be template number {others['templates'] + 1:,}, "
            f"and limits.templates_max is {limits.templates_max:,}",
            hint="remove one that is not needed any more",
        )
    if size and others["bytes"] + size > TENANT_SOURCE_BYTES_MAX:
        raise LimitExceeded(
            f"the templates would have {others['bytes'] + size:,} bytes of source together, "
            f"and {TENANT_SOURCE_BYTES_MAX:,} is the most",
            hint="remove one that is not needed any more",
        )


async def run(
    connection: Any,
    owner: Id,
    name: str,
    *,
    version_id: int | None = None,
    shop: ShopRef | None = None,
    events: Sequence[str],
    settings: Settings | None = None,
    author: str | None = None,
) -> None:
    """Have the template run a version of its own or one of the shop, and note it.

    Args:
        settings: None leaves what the row says.
    """
    what = (*key_of(owner), name, version_id, None if shop is None else str(shop))
    if settings is None:
        await connection.execute(POINT, *what, list(events))
    else:
        more = (settings.override, settings.caps_or_all, settings.error_channel, settings.paused)
        await connection.execute(RUN, *what, list(events), *more)
        await connection.execute(
            "DELETE FROM removed_templates WHERE owner_id = $1 AND owner_type = $2 AND name = $3", *what[:3]
        )
    await connection.execute(NOTE, *what, author)
    await connection.execute(FORGET_DEPLOYMENTS, *what[:3], TEMPLATE_DEPLOYMENTS_MAX)


async def listing(connection: Any, ref: ShopRef) -> Any:
    """The row of the shop that *ref* means now: ``version, events, allowed_caps, bytes``.

    Raises:
        NotFound: there is none; says what there is.
        RequestError: it is not approved.
    """
    rows = await connection.fetch(LISTED, ref.name)
    approved = [row for row in rows if row["review_state"] == "approved" and row["withdrawn_at"] is None]
    meant = next((row for row in approved if ref.version in ("latest", row["version"])), None)
    if meant is not None:
        return meant
    there = [f"{PREFIX}{ref.name}#{row['version']}" for row in approved[:10]]
    others = [f"version {row['version']} is {_state(row)}" for row in rows[:10]]
    hint = f"there is {', '.join(there)}" if there else ", ".join(others) or None
    known = next((row for row in rows if row["version"] == ref.version), None)
    if known is None:
        raise NotFound(f"the shop has no {ref}", hint=hint)
    raise RequestError(f"{ref} is not approved: it is {_state(known)}", hint=hint)


def _state(row: Any) -> str:
    return "withdrawn" if row["withdrawn_at"] is not None else str(row["review_state"])


async def prune(connection: Any, owner: Id, name: str, saved: int) -> bool:
    """Keep the tenant's versions within their bounds, after *saved* of template *name*.

    Returns: whether sources may have become loose.
    Raises: LimitExceeded: what has to stay takes all the room.
    """
    key = key_of(owner)
    used = await connection.fetchrow(SAVED, *key, VERSION_OVERHEAD_BYTES, name)
    if used["bytes"] <= TENANT_VERSIONS_BYTES_MAX and used["versions"] <= TEMPLATE_VERSIONS_MAX:
        return False
    bounds = (VERSION_OVERHEAD_BYTES, TENANT_VERSIONS_BYTES_MAX, TEMPLATE_VERSIONS_MAX)
    gone = await connection.fetch(PRUNE, *key, *bounds, saved)
    left = await connection.fetchrow(SAVED, *key, VERSION_OVERHEAD_BYTES, name)
    if left["bytes"] > TENANT_VERSIONS_BYTES_MAX:
        raise LimitExceeded(
            f"the versions that run, and those before them, take the {TENANT_VERSIONS_BYTES_MAX:,} bytes there are",
            hint="remove a template that is not needed any more",
        )
    return await sources.lose(connection, (digest for row in gone for digest in row["hashes"]))


__all__ = ["LISTING", "alone", "begin", "key_of", "listing", "prune", "require_room", "run"]
