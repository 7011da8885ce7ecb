"""Templates: sources by content hash, every save a version, and a pointer to the version that runs.

Nothing that was saved is ever changed or taken away: removing a template takes its pointer away, and rolling back
moves it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from pytw.errors import LimitExceeded, NotFound, RequestError
from pytw.limits import TEMPLATE_NAME_BYTES_MAX, TEMPLATE_PATH_BYTES_MAX, TENANT_SOURCE_BYTES_MAX, Limits
from pytw.storage.tenants import checked_events
from pytw.types import BUILTINS, ENTRY, EVERY_CAPABILITY, Draft, Id, TemplateSource

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

LOG = logging.getLogger("pytw.storage.templates")

NAME = re.compile(rf"[A-Za-z0-9._$/#-]{{1,{TEMPLATE_NAME_BYTES_MAX}}}")
_OWNED = "owner_id = $1 AND owner_type = $2"
_COLUMNS = """t.name, t.deployed_version, t.events, t.events_override, t.allowed_caps, t.error_channel, t.paused, t.shop_ref,
    t.created_at, t.last_updated_at"""

LIST = f"SELECT {_COLUMNS} FROM templates t WHERE {_OWNED} ORDER BY name"
GET = f"""
SELECT {_COLUMNS}, v.files::text AS files, v.entry, v.language, v.author, v.message
FROM templates t LEFT JOIN template_versions v ON v.id = t.deployed_version
WHERE t.owner_id = $1 AND t.owner_type = $2 AND t.name = $3"""
PROGRAM = f"""
SELECT {_COLUMNS}, v.files::text AS files, v.entry
FROM templates t JOIN template_versions v ON v.id = t.deployed_version
WHERE t.owner_id = $1 AND t.owner_type = $2 ORDER BY t.created_at, t.name"""
VERSIONS = f"""
SELECT id, files::text AS files, entry, language, events, compiles, author, message, created_at
FROM template_versions WHERE {_OWNED} AND template = $3 ORDER BY id DESC LIMIT $4"""
SOURCES = "SELECT hash, source FROM sources WHERE hash = ANY($1)"

OTHERS = """
SELECT count(DISTINCT t.name) AS templates, coalesce(sum(octet_length(s.source) + octet_length(file.key)), 0) AS bytes
FROM templates t
LEFT JOIN template_versions v ON v.id = t.deployed_version
LEFT JOIN LATERAL jsonb_each_text(v.files) AS file ON true
LEFT JOIN sources s ON s.hash = decode(file.value, 'hex')
WHERE t.owner_id = $1 AND t.owner_type = $2 AND t.name <> $3"""
SAVE_SOURCES = """
INSERT INTO sources (hash, source) SELECT * FROM unnest($1::bytea[], $2::text[]) AS new (hash, source) ORDER BY 1
ON CONFLICT (hash) DO NOTHING"""
SAVE_VERSION = """
INSERT INTO template_versions (owner_id, owner_type, template, files, entry, events, compiles, author, message)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, $9) RETURNING id"""
SAVE_TEMPLATE = """
INSERT INTO templates AS old
    (owner_id, owner_type, name, deployed_version, events, events_override, allowed_caps, error_channel, paused)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9::boolean, false))
ON CONFLICT (owner_id, owner_type, name) DO UPDATE SET
    deployed_version = coalesce(excluded.deployed_version, old.deployed_version),
    events = CASE WHEN excluded.deployed_version IS NULL THEN old.events ELSE excluded.events END,
    events_override = CASE WHEN excluded.deployed_version IS NULL THEN old.events_override ELSE excluded.events_override END,
    allowed_caps = CASE WHEN excluded.deployed_version IS NULL THEN old.allowed_caps ELSE excluded.allowed_caps END,
    error_channel = CASE WHEN excluded.deployed_version IS NULL THEN old.error_channel ELSE excluded.error_channel END,
    paused = coalesce($9::boolean, old.paused),
    last_updated_at = now()"""
DEPLOY = """
INSERT INTO templates AS old (owner_id, owner_type, name, deployed_version, events)
SELECT owner_id, owner_type, template, id, coalesce(events, '{}') FROM template_versions
WHERE owner_id = $1 AND owner_type = $2 AND template = $3 AND id = $4 AND compiles
ON CONFLICT (owner_id, owner_type, name) DO UPDATE SET
    deployed_version = excluded.deployed_version, events = excluded.events, last_updated_at = now()"""


#: Inside `TemplateStore` the name ``list`` is a method.
Program = list[TemplateSource]
Versions = list["Version"]


@dataclass(frozen=True, slots=True)
class Template:
    """A template of a tenant. ``files`` is empty in lists; ``version`` is None for a draft that never ran."""

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

    @property
    def listens(self) -> list[str]:
        """The events that it gets."""
        return self.events if self.events_override is None else self.events_override


@dataclass(frozen=True, slots=True)
class Version:
    """One save of a template; ``files`` is path -> hash of the source."""

    id: int
    files: Mapping[str, str]
    entry: str
    events: list[str] | None
    compiles: bool
    author: str | None
    message: str
    created_at: datetime


def checked_name(name: str) -> str:
    """Raises: RequestError."""
    of_dots = any(not part.strip(".") for part in name.split("/"))
    if not NAME.fullmatch(name) or of_dots or name.startswith(BUILTINS):
        raise RequestError(
            f"not a template name: {name[:80]!r}",
            hint=f"1 to {TEMPLATE_NAME_BYTES_MAX} of letters, digits and . _ - $ / #, more than dots between slashes, "
            f"and not {BUILTINS}",
        )
    return name


def checked_files(files: Mapping[str, str], limits: Limits) -> dict[str, str]:
    """The files by path, without a slash in front.

    Raises:
        LimitExceeded: too many files, or one is too long.
        RequestError: none, or a path or source that cannot be.
    """
    if not files:
        raise RequestError("a template needs at least one file")
    if len(files) > limits.template_files_max:
        raise LimitExceeded(
            f"the template has {len(files):,} files, and limits.template_files_max is {limits.template_files_max:,}"
        )
    found: dict[str, str] = {}
    for given, source in files.items():
        path = given.removeprefix("/")
        parts = path.split("/")
        if not path.isprintable() or "\\" in path or any(part in ("", ".", "..") for part in parts):
            raise RequestError(f"not a path of a template's file: {given[:80]!r}")
        if len(path.encode()) > TEMPLATE_PATH_BYTES_MAX:
            raise LimitExceeded(f"the path {path[:80]}... is longer than {TEMPLATE_PATH_BYTES_MAX} bytes")
        if path in found:
            raise RequestError(f"{path} is there twice")
        if "\0" in source:
            raise RequestError(f"{path} contains a NUL character")
        try:
            size = len(source.encode())
        except UnicodeEncodeError:
            raise RequestError(f"{path} is not UTF-8 text") from None
        if size > limits.source_bytes_max:
            raise LimitExceeded(
                f"{path} has {size:,} bytes, and limits.source_bytes_max is {limits.source_bytes_max:,}",
                hint="split it into modules",
            )
        found[path] = source
    return found


class TemplateStore:
    """Templates of all tenants. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def put(self, owner: Id, draft: Draft) -> int:
        """Save a version and, unless it is a draft or broken, make it the one that runs. All or nothing. Returns the version.

        Raises:
            RequestError: a bad name, path or event name.
            LimitExceeded: too many files, events or templates, or too long a file.
        """
        name, deploy = checked_name(draft.name), draft.deploy and draft.error is None
        sources = checked_files(draft.files, self._limits)
        listens = None if draft.events is None else checked_events(draft.events)
        override = None if draft.events_override is None else checked_events(draft.events_override)
        caps = [EVERY_CAPABILITY] if draft.allowed_caps is None else list(draft.allowed_caps)
        hashes = {path: hashlib.sha256(source.encode()).digest() for path, source in sources.items()}
        by_hash = {hashes[path]: source for path, source in sources.items()}
        paths = orjson.dumps({path: digest.hex() for path, digest in hashes.items()}).decode()
        key = (owner.owner_id, owner.owner_type.value)
        async with self._db.transaction() as connection:
            # One writer per tenant, so that the count below holds.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1 || $2, 0))", *key)
            others = await connection.fetchrow(OTHERS, *key, name)
            if others["templates"] >= self._limits.templates_max:
                raise LimitExceeded(
                    f"{name} would be template number {others['templates'] + 1:,}, "
                    f"and limits.templates_max is {self._limits.templates_max:,}",
                    hint="remove one that is not needed any more",
                )
            own = sum(len(path.encode()) + len(source.encode()) for path, source in sources.items())
            if deploy and others["bytes"] + own > TENANT_SOURCE_BYTES_MAX:
                raise LimitExceeded(
                    f"the templates would have {others['bytes'] + own:,} bytes of source together, "
                    f"and {TENANT_SOURCE_BYTES_MAX:,} is the most",
                    hint="remove one that is not needed any more",
                )
            await connection.execute(SAVE_SOURCES, list(by_hash), list(by_hash.values()))
            version = await connection.fetchval(
                SAVE_VERSION, *key, name, paths, draft.entry, listens, draft.error is None, draft.author, draft.message
            )
            await connection.execute(
                SAVE_TEMPLATE,
                *key,
                name,
                version if deploy else None,
                listens or [],
                override,
                caps,
                draft.error_channel,
                draft.paused,
            )
        return int(version)

    async def deploy(self, owner: Id, name: str, version: int) -> None:
        """Make a saved version the one that runs: roll-back, or undelete.

        Raises: NotFound: no such version, or it does not compile.
        """
        if not await self._db.execute(DEPLOY, owner.owner_id, owner.owner_type.value, name, version):
            raise NotFound(f"template {name} has no version {version} that compiles")

    async def list(self, owner: Id) -> list[Template]:
        """All templates of a tenant by name, without their files."""
        rows = await self._db.fetch(LIST, owner.owner_id, owner.owner_type.value)
        return [_template(row) for row in rows]

    async def get(self, owner: Id, name: str) -> Template:
        """One template with the files of the version that runs.

        Raises: NotFound.
        """
        row = await self._db.fetchrow(GET, owner.owner_id, owner.owner_type.value, name)
        if row is None:
            raise NotFound(f"there is no template {name}")
        if row["files"] is None:
            return _template(row)
        paths: dict[str, str] = orjson.loads(row["files"])
        texts = await self._sources(set(paths.values()))
        files = {path: texts[digest] for path, digest in paths.items() if digest in texts}
        return _template(row, entry=row["entry"], files=files, author=row["author"], message=row["message"])

    async def versions(self, owner: Id, name: str, *, limit: int = 100) -> Versions:
        """The last saves of a template, newest first; also of one that was removed."""
        rows = await self._db.fetch(VERSIONS, owner.owner_id, owner.owner_type.value, name, limit)
        return [
            Version(
                row["id"],
                orjson.loads(row["files"]),
                row["entry"],
                row["events"],
                row["compiles"],
                row["author"],
                row["message"],
                row["created_at"],
            )
            for row in rows
        ]

    async def remove(self, owner: Id, name: str) -> None:
        """Take the template away; its versions stay.

        Raises: NotFound.
        """
        statement = f"DELETE FROM templates WHERE {_OWNED} AND name = $3"
        if not await self._db.execute(statement, owner.owner_id, owner.owner_type.value, name):
            raise NotFound(f"there is no template {name}")

    async def set_paused(self, owner: Id, name: str, paused: bool) -> None:
        """Stop or resume a template. Raises: NotFound."""
        statement = f"UPDATE templates SET paused = $4, last_updated_at = now() WHERE {_OWNED} AND name = $3"
        if not await self._db.execute(statement, owner.owner_id, owner.owner_type.value, name, paused):
            raise NotFound(f"there is no template {name}")

    async def program(self, tenant: int) -> Program:
        """What a tenant runs, oldest template first. Paused ones are among them, marked.

        A template that lacks a source is left out and logged; the others run.
        """
        owner = Id.of(tenant)
        rows = await self._db.fetch(PROGRAM, owner.owner_id, owner.owner_type.value)
        paths: list[dict[str, str]] = [orjson.loads(row["files"]) for row in rows]
        texts = await self._sources({digest for files in paths for digest in files.values()}) if rows else {}
        found = []
        for row, files in zip(rows, paths, strict=True):
            if missing := [path for path, digest in files.items() if digest not in texts]:
                LOG.error("template %s of %s lacks the source of %s", row["name"], owner.owner_id, missing[0])
                continue
            found.append(
                TemplateSource(
                    name=row["name"],
                    files={path: texts[digest].encode() for path, digest in files.items()},
                    events=frozenset(row["events"] if row["events_override"] is None else row["events_override"]),
                    entry=row["entry"],
                    allowed_caps=tuple(row["allowed_caps"]),
                    paused=row["paused"],
                    version=row["deployed_version"],
                )
            )
        return found

    async def _sources(self, digests: set[str]) -> dict[str, str]:
        """Texts by hash in hexadecimal digits."""
        rows = await self._db.fetch(SOURCES, [bytes.fromhex(digest) for digest in digests])
        return {row["hash"].hex(): row["source"] for row in rows}


def _template(row: asyncpg.Record, **more: Any) -> Template:
    return Template(
        name=row["name"],
        version=row["deployed_version"],
        events=row["events"],
        events_override=row["events_override"],
        allowed_caps=row["allowed_caps"],
        error_channel=row["error_channel"],
        paused=row["paused"],
        shop_ref=row["shop_ref"],
        created_at=row["created_at"],
        last_updated_at=row["last_updated_at"],
        **more,
    )


__all__ = ["Template", "TemplateStore", "Version", "checked_files", "checked_name"]
