"""The shop: templates that tenants run without having their files. A version, once published, does not change.

A tenant's template names one by ``$shop/name#version`` or ``$shop/name#latest`` (`shopversions` has the order) and runs it
while staff approves of it. ``latest`` follows approvals. Its capabilities are those of the tenant's row and never grow by
themselves; its events are the listing's where the row does not override them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import Conflict, LimitExceeded, NotFound
from pytw.limits import (
    SHOP_LIST_MAX,
    SHOP_LONG_BYTES_MAX,
    SHOP_NOTE_BYTES_MAX,
    SHOP_SHORT_BYTES_MAX,
    SHOP_SOURCE_BYTES_MAX,
    Limits,
)
from pytw.storage import locks, sources
from pytw.storage.globalkv import checked_review_state
from pytw.storage.shopversions import checked_shop_name, checked_version, position
from pytw.storage.templatechecks import checked_caps, checked_files, checked_size
from pytw.storage.templatewrites import LISTING
from pytw.storage.tenants import checked_events
from pytw.types import ENTRY, EVERY_CAPABILITY, Id, OwnerType

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

_SHOWN = """name, version, owner_type, owner_id, short, long, digest, bytes, entry, language, events, allowed_caps,
    published_by, created_at, review_state, review_note, reviewed_by, reviewed_at, withdrawn_at"""

PUBLISH = """
INSERT INTO shop_templates (name, version, position, owner_type, owner_id, short, long, files, bytes, entry, events,
    allowed_caps, published_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10, $11, $12, $13)
ON CONFLICT DO NOTHING"""
LIST = f"""
SELECT {_SHOWN} FROM shop_templates
WHERE ($1::text IS NULL OR name = $1) AND ($2::text IS NULL OR review_state = $2 AND withdrawn_at IS NULL)
AND ($3::text IS NULL OR (name, position) > ($3, $4)) ORDER BY name, position LIMIT $5"""
GET = f"SELECT {_SHOWN}, files::text AS files FROM shop_templates WHERE name = $1 AND version = $2"

REVIEW = """
UPDATE shop_templates SET review_state = $3, review_note = $4, reviewed_by = $5, reviewed_at = now()
WHERE name = $1 AND version = $2 AND withdrawn_at IS NULL RETURNING name"""
WITHDRAW = """
UPDATE shop_templates SET withdrawn_at = now(), review_note = $3, reviewed_by = $4, reviewed_at = now()
WHERE name = $1 AND version = $2 AND withdrawn_at IS NULL RETURNING name"""
#: What `latest` stands for may have changed, and with it the events of who has not said otherwise.
FOLLOW = f"""
UPDATE templates SET events = meant.events FROM (
    SELECT t.owner_id, t.owner_type, t.name, s.events FROM templates t {LISTING}
    WHERE t.shop_name = $1 AND t.shop_version = 'latest' AND s.events IS DISTINCT FROM t.events AND s.name IS NOT NULL
) AS meant
WHERE templates.owner_id = meant.owner_id AND templates.owner_type = meant.owner_type AND templates.name = meant.name"""
RUNNING = """
SELECT DISTINCT owner_id, owner_type FROM templates
WHERE shop_name = $1 AND shop_version IN ('latest', $2) AND shop_ref IS NOT NULL ORDER BY owner_id, owner_type"""


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be published. Without *owner* it is the staff's.

    Args:
        events: what the entry listens for; what tenants get that do not say otherwise.
        allowed_caps: what tenants' templates may do that do not say otherwise.
    """

    name: str
    version: str
    files: Mapping[str, str]
    events: Sequence[str]
    entry: str = ENTRY
    allowed_caps: Sequence[str] = (EVERY_CAPABILITY,)
    owner: Id | None = None
    short: str = ""
    long: str | None = None
    author: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A version that the shop has. ``files`` is None in lists."""

    name: str
    version: str
    owner_type: str
    owner_id: str
    short: str
    long: str | None
    digest: str
    bytes: int
    entry: str
    language: str
    events: list[str]
    allowed_caps: list[str]
    published_by: str | None
    created_at: datetime
    review_state: str
    review_note: str
    reviewed_by: str | None
    reviewed_at: datetime | None
    withdrawn_at: datetime | None
    files: Mapping[str, str] | None = None


#: Inside the store the name ``list`` is a method.
Listings = list[Listing]
Tenants = list[int]


class ShopStore:
    """Listings of the shop. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def publish(self, given: Publication) -> None:
        """Add a version, which waits for its review.

        Raises:
            Conflict: there is that version, be it withdrawn.
            RequestError, LimitExceeded: a bad name, version, file, event or capability; too long.
        """
        name, version = checked_shop_name(given.name), checked_version(given.version)
        files = checked_files(given.files, self._limits)
        size = checked_size(files, SHOP_SOURCE_BYTES_MAX)
        events, caps = checked_events(given.events), checked_caps(given.allowed_caps)
        _check_text("short", given.short, SHOP_SHORT_BYTES_MAX)
        _check_text("long", given.long or "", SHOP_LONG_BYTES_MAX)
        kind, owner = ("staff", given.author or "") if given.owner is None else _owner(given.owner)
        async with self._db.transaction() as connection:
            await sources.hold(connection)
            paths = orjson.dumps(await sources.save(connection, files)).decode()
            what = (name, version, position(version), kind, owner, given.short, given.long)
            done = await connection.execute(PUBLISH, *what, paths, size, given.entry, events, caps, given.author)
            if done.endswith(" 0"):
                raise Conflict(
                    f"the shop has version {version} of {name}, and versions do not change", hint="publish a new one"
                )

    async def list(
        self, name: str | None = None, *, state: str | None = None, limit: int = 100, after: str | None = None
    ) -> Listings:
        """By name, and of each the lowest version first, without files.

        Args:
            state: only those; what was withdrawn is in none.
            after: ``name#version``: go on behind it.
        Raises: RequestError: not such a place, or no such state.
        """
        if state is not None:
            checked_review_state(state)
        last, _, version = (after or "").partition("#")
        place = (last, position(version)) if after else (None, None)
        rows = await self._db.fetch(LIST, name, state, *place, min(limit, SHOP_LIST_MAX))
        return [_listing(row) for row in rows]

    async def get(self, name: str, version: str) -> Listing:
        """One version with its files.

        Raises: NotFound.
        """
        row = await self._db.fetchrow(GET, name, version)
        if row is None:
            raise NotFound(f"the shop has no version {version} of {name}")
        paths: dict[str, str] = orjson.loads(row["files"])
        texts = await sources.texts(self._db, paths.values())
        return _listing(row, {path: texts[digest] for path, digest in paths.items() if digest in texts})

    async def review(
        self, name: str, version: str, state: str, *, note: str = "", author: str | None = None
    ) -> Tenants:
        """Approve a version, deny it, or have it wait again. Returns the tenants whose program may be another now.

        Raises: NotFound. Conflict: it was withdrawn. RequestError: no such state.
        """
        return await self._change(
            name, version, REVIEW, checked_review_state(state), _check_text("note", note, SHOP_NOTE_BYTES_MAX), author
        )

    async def withdraw(self, name: str, version: str, *, note: str = "", author: str | None = None) -> Tenants:
        """Take a version away for good: nobody runs it, and its number is not given again. Returns as `review`."""
        return await self._change(name, version, WITHDRAW, _check_text("note", note, SHOP_NOTE_BYTES_MAX), author)

    async def _change(self, name: str, version: str, statement: str, *what: Any) -> Tenants:
        async with self._db.transaction() as connection:
            # Alone: whoever takes a template from the shop meanwhile sees it before or after, and is among the tenants.
            await connection.execute("SELECT pg_advisory_xact_lock($1)", locks.SHOP)
            if await connection.fetchval(statement, name, version, *what) is None:
                row = await connection.fetchrow(GET, name, version)
                if row is None:
                    raise NotFound(f"the shop has no version {version} of {name}")
                raise Conflict(f"version {version} of {name} was withdrawn")
            await connection.execute(FOLLOW, name)
            rows = await connection.fetch(RUNNING, name, version)
        return [Id(OwnerType(row["owner_type"]), int(row["owner_id"])).key for row in rows]


def _owner(owner: Id) -> tuple[str, str]:
    return owner.owner_type.value, owner.owner_id


def _check_text(what: str, text: str, most: int) -> str:
    if "\0" in text or len(text.encode(errors="replace")) > most:
        raise LimitExceeded(f"{what} is longer than {most:,} bytes, or has NUL characters in it")
    return text


def _listing(row: asyncpg.Record, files: Mapping[str, str] | None = None) -> Listing:
    fields = {field: row[field] for field in Listing.__slots__ if field not in ("digest", "files")}
    return Listing(**fields, digest=row["digest"].hex(), files=files)


__all__ = ["Listing", "Publication", "ShopStore"]
