"""Saved versions of templates: what there are, which of them runs, and what ran before.

``template_deployments`` has what ran, in order. A roll-back undoes the newest entries, so that rolling back again leads
further back, and what a roll-back leads to is exactly what ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import NotFound, RequestError
from pytw.limits import TEMPLATE_VERSIONS_MAX, Limits
from pytw.storage import sources
from pytw.storage.shopversions import shop_ref
from pytw.storage.templatewrites import begin, key_of, listing, require_room, run
from pytw.storage.tenants import checked_events
from pytw.types import Id

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

_MINE = "v.owner_id = $1 AND v.owner_type = $2 AND v.template = $3"
_SHOWN = """v.number, v.digest, v.files::text AS files, v.entry, v.language, v.events, v.error, v.author, v.message,
    v.bytes, v.created_at, t.name IS NOT NULL AS runs,
    (SELECT max(d.deployed_at) FROM template_deployments d WHERE d.version_id = v.id) AS deployed_at"""
_FROM = "template_versions v LEFT JOIN templates t ON t.deployed_version = v.id"

LIST = f"""
SELECT {_SHOWN} FROM {_FROM} WHERE {_MINE} AND ($4::bigint IS NULL OR v.number < $4) ORDER BY v.number DESC LIMIT $5"""
GET = f"SELECT {_SHOWN} FROM {_FROM} WHERE {_MINE} AND v.number = $4"

FIND = f"SELECT v.id, v.events, v.error, v.bytes FROM template_versions v WHERE {_MINE} AND v.number = $4"
LAST = f"SELECT max(v.number) FROM template_versions v WHERE {_MINE}"
OF_ID = "SELECT number, bytes FROM template_versions WHERE id = $1"
MENDED = "UPDATE template_versions SET events = $2, compiles = true, error = NULL WHERE id = $1"

ROW = "SELECT deployed_version, shop_ref FROM templates WHERE owner_id = $1 AND owner_type = $2 AND name = $3"
HISTORY = """
SELECT d.id, d.version_id, d.shop_ref, v.number, v.events, v.bytes
FROM template_deployments d LEFT JOIN template_versions v ON v.id = d.version_id
WHERE d.owner_id = $1 AND d.owner_type = $2 AND d.template = $3 AND d.undone_at IS NULL ORDER BY d.id DESC"""
UNDO = """
UPDATE template_deployments SET undone_at = now()
WHERE owner_id = $1 AND owner_type = $2 AND template = $3 AND undone_at IS NULL AND id >= $4"""

REVIVE = """
WITH back AS (
    DELETE FROM removed_templates WHERE owner_id = $1 AND owner_type = $2 AND name = $3 RETURNING settings
), old AS (
    SELECT (jsonb_populate_record(NULL::templates, settings)).* FROM back
)
INSERT INTO templates (owner_id, owner_type, name, deployed_version, events, events_override, allowed_caps, error_channel,
    paused, shop_ref, created_at)
SELECT owner_id, owner_type, name, (SELECT v.id FROM template_versions v WHERE v.id = deployed_version), events,
    events_override, allowed_caps, error_channel, paused, shop_ref, created_at FROM old
ON CONFLICT (owner_id, owner_type, name) DO NOTHING
RETURNING deployed_version, shop_ref"""

#: Inside the store the name ``list`` is a method.
Versions = list["Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """One save of a template; ``files`` is path -> hash of the source in hexadecimal digits.

    ``events`` is None where the entry was not evaluated, ``error`` says why it cannot run. ``deployed_at`` is when it was
    last made the one that runs, None if it never was.
    """

    number: int
    digest: str
    files: Mapping[str, str]
    entry: str
    events: list[str] | None
    error: str | None
    author: str | None
    message: str
    bytes: int
    created_at: datetime
    runs: bool
    deployed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Deployed:
    """What runs after a change: a version of the template's own, or one of the shop, or nothing (a draft came back)."""

    version: int | None = None
    shop_ref: str | None = None


class VersionStore:
    """Versions of all templates. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def list(self, owner: Id, name: str, *, limit: int = 100, before: int | None = None) -> Versions:
        """The last saves of a template, newest first; also of one that was removed.

        Raises: NotFound: nothing was ever saved under that name, or nothing is left.
        """
        limit = min(limit, TEMPLATE_VERSIONS_MAX)
        rows = await self._db.fetch(LIST, *key_of(owner), name, before, limit)
        if not rows and before is None:
            raise NotFound(f"there is no version of a template {name}")
        return [_version(row) for row in rows]

    async def get(self, owner: Id, name: str, number: int) -> tuple[Version, dict[str, str]]:
        """One version with its files.

        Raises: NotFound.
        """
        row = await self._db.fetchrow(GET, *key_of(owner), name, number)
        if row is None:
            raise await self._missing(self._db, owner, name, number)
        found = _version(row)
        texts = await sources.texts(self._db, found.files.values())
        return found, {path: texts[digest] for path, digest in found.files.items() if digest in texts}

    async def deploy(
        self, owner: Id, name: str, number: int, *, events: Sequence[str] | None = None, author: str | None = None
    ) -> None:
        """Make a saved version the one that runs, with its entry and its own events.

        What the template's row says stays: an override of its events, its capabilities, whether it is paused. A template
        that was removed comes back with them.

        Args:
            events: what the entry listens for, where it has just been evaluated. It must have been for a version that was
                not evaluated before, or that failed.
        Raises:
            NotFound: no such version. RequestError: it is broken. LimitExceeded: it would be too much.
        """
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            row = await connection.fetchrow(FIND, *key_of(owner), name, number)
            if row is None:
                raise await self._missing(connection, owner, name, number)
            if events is not None:
                listens = checked_events(events)
                await connection.execute(MENDED, row["id"], listens)
            elif row["error"] is not None:
                raise RequestError(f"version {number} of {name} is broken: {row['error']}")
            else:
                listens = row["events"] or []
            await require_room(connection, owner, name, row["bytes"], self._limits)
            await connection.fetch(REVIVE, *key_of(owner), name)
            await run(connection, owner, name, version_id=row["id"], events=listens, author=author)

    async def rollback(self, owner: Id, name: str, *, author: str | None = None) -> Deployed:
        """Have what ran before run again. Again and again it leads further back.

        Raises: NotFound: no such template, or nothing ran before. RequestError: the shop has it no longer.
        """
        key = key_of(owner)
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            now = await connection.fetchrow(ROW, *key, name)
            if now is None:
                raise NotFound(
                    f"there is no template {name}",
                    hint=f"`tw template undelete GUILD {name}` brings back one that was removed",
                )
            runs = (now["deployed_version"], now["shop_ref"])
            history = await connection.fetch(HISTORY, *key, name)
            target = next((row for row in history if (row["version_id"], row["shop_ref"]) != runs), None)
            if target is None:
                raise NotFound(
                    f"nothing ran before what {name} runs now", hint=f"`tw template versions GUILD {name}` lists them"
                )
            # The target's own entry is undone too, since a new one is written: what is newest is what runs.
            await connection.execute(UNDO, *key, name, target["id"])
            if target["shop_ref"] is not None:
                ref = shop_ref(target["shop_ref"])
                meant = await listing(connection, ref)
                await require_room(connection, owner, name, meant["bytes"], self._limits)
                await run(connection, owner, name, shop=ref, events=meant["events"], author=author)
            else:
                await require_room(connection, owner, name, target["bytes"], self._limits)
                version_id, events = target["version_id"], target["events"] or ()
                await run(connection, owner, name, version_id=version_id, events=events, author=author)
        return Deployed(target["number"], target["shop_ref"])

    async def undelete(self, owner: Id, name: str) -> Deployed:
        """Bring a removed template back as it was, with its settings and what it ran.

        Raises: NotFound: none of that name was removed lately. RequestError: there is one. LimitExceeded: it would be too
            much.
        """
        key = key_of(owner)
        async with self._db.transaction() as connection:
            await begin(connection, owner)
            if await connection.fetchrow(ROW, *key, name) is not None:
                raise RequestError(f"there is a template {name}", hint="it does not have to be brought back")
            row = await connection.fetchrow(REVIVE, *key, name)
            if row is None:
                raise NotFound(
                    f"no template {name} was removed lately",
                    hint=f"`tw template versions GUILD {name}` says what is left",
                )
            size, number = 0, None
            if row["shop_ref"] is not None:
                size = (await listing(connection, shop_ref(row["shop_ref"])))["bytes"]
            elif row["deployed_version"] is not None:
                version = await connection.fetchrow(OF_ID, row["deployed_version"])
                size, number = version["bytes"], version["number"]
            await require_room(connection, owner, name, size, self._limits)
        return Deployed(number, row["shop_ref"])

    async def _missing(self, connection: Any, owner: Id, name: str, number: int) -> NotFound:
        last = await connection.fetchval(LAST, *key_of(owner), name)
        hint = None if last is None else f"the last one is {last}; old ones that ran long ago are not kept for ever"
        return NotFound(f"template {name} has no version {number}", hint=hint)


def _version(row: asyncpg.Record) -> Version:
    return Version(
        number=row["number"],
        digest=row["digest"].hex(),
        files=orjson.loads(row["files"]),
        entry=row["entry"],
        events=row["events"],
        error=row["error"],
        author=row["author"],
        message=row["message"],
        bytes=row["bytes"],
        created_at=row["created_at"],
        runs=row["runs"],
        deployed_at=row["deployed_at"],
    )


__all__ = ["Deployed", "Version", "VersionStore"]
