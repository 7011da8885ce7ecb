"""Programs: what each tenant runs, as workers ask for it. One bad row is left out with its reason and hurts no other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from pytw.limits import TENANT_SOURCE_BYTES_MAX
from pytw.storage import sources
from pytw.storage.templatewrites import LISTING, key_of
from pytw.types import Id, TemplateSource

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

LOG = logging.getLogger("pytw.storage.programs")

LANGUAGE = "luau"

#: Files of a paused template stay where they are: nothing of it runs.
PROGRAM = f"""
SELECT t.name, t.shop_ref, t.paused, coalesce(t.events_override, t.events) AS events, t.allowed_caps, v.number,
    coalesce(v.entry, s.entry) AS entry, coalesce(v.language, s.language) AS language,
    CASE WHEN NOT t.paused THEN coalesce(v.files, s.files)::text END AS files
FROM templates t LEFT JOIN template_versions v ON v.id = t.deployed_version {LISTING}
WHERE t.owner_id = $1 AND t.owner_type = $2 AND (t.deployed_version IS NOT NULL OR t.shop_ref IS NOT NULL)
ORDER BY t.created_at, t.name"""


class ProgramStore:
    """Programs of all tenants, in two queries each. Methods raise what `Database` raises."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def program(self, tenant: int) -> list[TemplateSource]:
        """What a tenant runs, oldest template first. Paused ones are among them, marked and without files.

        A template that cannot be run is among them too, with ``left_out`` saying why: its source or listing is missing or
        not what it should be, or all together are more than a worker takes.
        """
        owner = Id.of(tenant)
        rows = await self._db.fetch(PROGRAM, *key_of(owner))
        if not rows:
            return []
        files = [_paths(row["files"]) for row in rows]
        texts = await sources.texts(self._db, (digest for paths in files for digest in (paths or {}).values()))
        found, size = [], 0
        for row, paths in zip(rows, files, strict=True):
            source = _source(row, paths, texts)
            size += sum(len(path.encode()) + len(text) for path, text in source.files.items())
            if size > TENANT_SOURCE_BYTES_MAX and source.files:
                # A listing of the shop may have grown since the row was made.
                size -= sum(len(path.encode()) + len(text) for path, text in source.files.items())
                why = f"with it the templates would have more than {TENANT_SOURCE_BYTES_MAX:,} bytes of source"
                source = _left_out(row, why)
            if source.left_out:
                LOG.warning("template %s of %s is left out: %s", row["name"], owner.owner_id, source.left_out)
            found.append(source)
        return found


def _source(row: asyncpg.Record, paths: Mapping[str, str] | None, texts: Mapping[str, str]) -> TemplateSource:
    if row["paused"]:
        return _made(row, paused=True)
    if row["language"] is None:
        return _left_out(row, f"the shop has no approved version for {row['shop_ref']}")
    if row["language"] != LANGUAGE:
        return _left_out(row, f"its language is {row['language']!r}")
    if not paths:
        return _left_out(row, "its list of files is damaged")
    if missing := [path for path, digest in paths.items() if digest not in texts]:
        return _left_out(row, f"the source of {missing[0]} is missing")
    return _made(row, files={path: texts[digest].encode() for path, digest in paths.items()})


def _made(row: asyncpg.Record, **more: Any) -> TemplateSource:
    return TemplateSource(
        name=row["name"],
        events=frozenset(row["events"]),
        entry=row["entry"] or "",
        allowed_caps=tuple(row["allowed_caps"]),
        version=row["number"] or 0,
        **{"files": {}, **more},
    )


def _left_out(row: asyncpg.Record, why: str) -> TemplateSource:
    return _made(row, left_out=why)


def _paths(text: str | None) -> dict[str, str] | None:
    """Path -> hash; None for what is something else."""
    try:
        found = orjson.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        return None
    return found


__all__ = ["ProgramStore"]
