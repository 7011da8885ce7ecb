"""Templates: every save a version, and a pointer to what runs, a version of its own or one of the shop.

Nothing that was saved is ever changed. Removing a template takes its pointer away, rolling back moves it
(`templateversions`); what workers run stands in `programs`, the steps of each change in `templatewrites`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import NotFound
from pytw.limits import TEMPLATE_ERROR_BYTES_MAX, TEMPLATES_REMOVED_MAX, Limits
from pytw.storage import sources
from pytw.storage.shopversions import ShopRef
from pytw.storage.templatechecks import (
    Settings,
    checked_files,
    checked_message,
    checked_name,
    checked_settings,
    checked_size,
    wanted_of_shop,
)
from pytw.storage.templatewrites import LISTING, begin, key_of, listing, prune, require_room, run
from pytw.storage.tenants import checked_events
from pytw.types import ENTRY, Draft, Id

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

_OWNED = "owner_id = $1 AND owner_type = $2"
_COLUMNS = """t.name, v.number AS version, t.events, t.events_override, t.allowed_caps, t.error_channel, t.paused,
    t.shop_ref, s.version AS shop_version, t.created_at, t.last_updated_at"""
_RUNS = f"templates t LEFT JOIN template_versions v ON v.id = t.deployed_version {LISTING}"

LIST = f"SELECT {_COLUMNS} FROM {_RUNS} WHERE t.owner_id = $1 AND t.owner_type = $2 ORDER BY t.name"
GET = f"""
SELECT {_COLUMNS}, coalesce(v.files, s.files)::text AS files, coalesce(v.entry, s.entry, '{ENTRY}') AS entry, v.author,
    coalesce(v.message, '') AS message
FROM {_RUNS} WHERE t.owner_id = $1 AND t.owner_type = $2 AND t.name = $3"""

SAVE_VERSION = f"""
INSERT INTO template_versions
    (owner_id, owner_type, template, number, files, entry, events, compiles, error, author, message, bytes)
SELECT $1::text, $2::text, $3::text, coalesce(max(number), 0) + 1, $4::text::jsonb, $5::text, $6::text[], $7::text IS NULL,
    $7, $8::text, $9::text, $10::bigint
FROM template_versions WHERE {_OWNED} AND template = $3
RETURNING id, number"""
#: A template that was only drafted: a name with settings, and nothing that runs.
DRAFTED = """
INSERT INTO templates (owner_id, owner_type, name, events_override, allowed_caps, error_channel, paused)
VALUES ($1, $2, $3, $4, $5, $6, coalesce($7::boolean, false)) ON CONFLICT (owner_id, owner_type, name) DO NOTHING"""

REMOVE = f"""
WITH gone AS (DELETE FROM templates WHERE {_OWNED} AND name = $3 RETURNING *)
INSERT INTO removed_templates (owner_id, owner_type, name, settings)
SELECT owner_id, owner_type, name, to_jsonb(gone) FROM gone
ON CONFLICT (owner_id, owner_type, name) DO UPDATE SET settings = excluded.settings, removed_at = now()"""
#: Those removed longest ago cannot come back any more, so nothing of them stays.
FORGET_REMOVED = f"""
DELETE FROM removed_templates WHERE {_OWNED} AND name IN (
    SELECT name FROM removed_templates WHERE {_OWNED} ORDER BY removed_at DESC, name OFFSET $3) RETURNING name"""
FORGET_VERSIONS = f"DELETE FROM template_versions WHERE {_OWNED} AND template = ANY($3) RETURNING hashes"
FORGET_DEPLOYMENTS = f"DELETE FROM template_deployments WHERE {_OWNED} AND template = ANY($3)"


#: Called inside the transaction of a change, before it; what it raises is raised, and nothing is changed.
Guard = Callable[[Any], Awaitable[None]]


async def unguarded(_inside: Any) -> None:
    """Nothing stands in the way."""


@dataclass(frozen=True, slots=True)
class Template:
    """A template of a tenant. ``files`` is None in lists; ``version`` is None for a draft that never ran and for one of
    the shop, whose ``shop_version`` is what ``shop_ref`` stands for now, None if there is nothing approved."""

    name: str
    version: int | None
    events: list[str]
    events_override: list[str] | None
    allowed_caps: list[str]
    error_channel: str | None
    paused: bool
    shop_ref: str | None
    created_at: datetime
    last_updated_at: datetime
    entry: str = ENTRY
    files: Mapping[str, str] | None = None
    author: str | None = None
    message: str = ""
    shop_version: str | None = None

    @property
    def listens(self) -> list[str]:
        """The events that it gets."""
        return self.events if self.events_override is None else self.events_override


class TemplateStore:
    """Templates of all tenants. Methods raise what `Database` raises, besides their own."""

    #: Drafts and broken ones are saved too, and the shop's run.
    keeps_versions = True

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def put(self, owner: Id, draft: Draft, guard: Guard = unguarded) -> int:
        """Save a version and, unless it is a draft or broken, make it the one that runs. All or nothing.

        The oldest versions go where the tenant's would take too much room, or the template's be too many; never what
        runs, nor what ran before it.

        Returns: the version's number; 0 for one of the shop, whose versions are the shop's.
        Raises:
            RequestError: a bad name, path or event name; the shop has no such version that is approved.
            LimitExceeded: too many files, events or templates, or too long a file.
        """
        name = checked_name(draft.name)
        settings = checked_settings(draft)
        shop = wanted_of_shop(draft)
        if shop is not None:
            await self._run_shop(owner, name, shop, settings, draft.author, guard)
            return 0
        files = checked_files(draft.files, self._limits)
        size = checked_size(files)
        events = None if draft.events is None else checked_events(draft.events)
        error = None if draft.error is None else _cut(draft.error)
        message = checked_message(draft.message)
        runs = draft.deploy and error is None
        key = key_of(owner)
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            await guard(connection)
            await require_room(connection, owner, name, size if runs else 0, self._limits)
            paths = orjson.dumps(await sources.save(connection, files)).decode()
            saved = await connection.fetchrow(
                SAVE_VERSION, *key, name, paths, draft.entry, events, error, draft.author, message, size
            )
            if runs:
                await run(
                    connection,
                    owner,
                    name,
                    version_id=saved["id"],
                    events=events or (),
                    settings=settings,
                    author=draft.author,
                )
            else:
                override, channel = settings.override, settings.error_channel
                await connection.execute(DRAFTED, *key, name, override, settings.caps_or_all, channel, settings.paused)
            loose = await prune(connection, owner, name, saved["id"])
        if loose:
            await sources.collect(self._db)
        return int(saved["number"])

    async def _run_shop(
        self, owner: Id, name: str, ref: ShopRef, settings: Settings, author: str | None, guard: Guard
    ) -> None:
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            await guard(connection)
            meant = await listing(connection, ref)
            await require_room(connection, owner, name, meant["bytes"], self._limits)
            caps = list(meant["allowed_caps"]) if settings.caps is None else settings.caps
            said = Settings(settings.override, caps, settings.error_channel, settings.paused)
            await run(connection, owner, name, shop=ref, events=meant["events"], settings=said, author=author)

    async def list(self, owner: Id) -> list[Template]:
        """All templates of a tenant by name, without their files."""
        return [_template(row) for row in await self._db.fetch(LIST, *key_of(owner))]

    async def get(self, owner: Id, name: str) -> Template:
        """One template with the files of what runs.

        Raises: NotFound.
        """
        row = await self._db.fetchrow(GET, *key_of(owner), name)
        if row is None:
            raise NotFound(f"there is no template {name}")
        if row["files"] is None:
            return _template(row)
        files = await self.texts(orjson.loads(row["files"]))
        return _template(row, entry=row["entry"], files=files, author=row["author"], message=row["message"])

    async def texts(self, paths: Mapping[str, str]) -> dict[str, str]:
        """Path -> source, of path -> hash; what is missing is left out."""
        found = await sources.texts(self._db, paths.values())
        return {path: found[digest] for path, digest in paths.items() if digest in found}

    async def remove(self, owner: Id, name: str, guard: Guard = unguarded) -> None:
        """Take the template away; its versions and settings stay for the last `TEMPLATES_REMOVED_MAX` of a tenant.

        Raises: NotFound.
        """
        key = key_of(owner)
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            await guard(connection)
            if (await connection.execute(REMOVE, *key, name)).endswith(" 0"):
                raise NotFound(f"there is no template {name}")
            forgotten = [row["name"] for row in await connection.fetch(FORGET_REMOVED, *key, TEMPLATES_REMOVED_MAX)]
            await connection.execute(FORGET_DEPLOYMENTS, *key, forgotten)
            gone = await connection.fetch(FORGET_VERSIONS, *key, forgotten)
            loose = await sources.lose(connection, (digest for row in gone for digest in row["hashes"]))
        if loose:
            await sources.collect(self._db)

    async def set_paused(self, owner: Id, name: str, paused: bool) -> None:
        """Stop or resume a template. Raises: NotFound."""
        statement = f"UPDATE templates SET paused = $4, last_updated_at = now() WHERE {_OWNED} AND name = $3"
        if not await self._db.execute(statement, *key_of(owner), name, paused):
            raise NotFound(f"there is no template {name}")


def _cut(error: str) -> str:
    return error.encode(errors="replace").replace(b"\0", b"")[:TEMPLATE_ERROR_BYTES_MAX].decode(errors="ignore")


def _template(row: asyncpg.Record, **more: Any) -> Template:
    return Template(
        name=row["name"],
        version=row["version"],
        events=row["events"],
        events_override=row["events_override"],
        allowed_caps=row["allowed_caps"],
        error_channel=row["error_channel"],
        paused=row["paused"],
        shop_ref=row["shop_ref"],
        shop_version=row["shop_version"],
        created_at=row["created_at"],
        last_updated_at=row["last_updated_at"],
        **more,
    )


__all__ = ["Guard", "Template", "TemplateStore", "unguarded"]
