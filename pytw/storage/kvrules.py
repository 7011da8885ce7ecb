"""What a key, a scope, a pattern and a value of the key-value store may be, and how rows become records."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import orjson

from pytw import values
from pytw.errors import InternalError, LimitExceeded, RequestError
from pytw.limits import (
    KV_CONVERTERS_MAX,
    KV_KEY_BYTES_MAX,
    KV_LOOP_BYTES_MAX,
    KV_SCOPE_BYTES_MAX,
    KV_SCOPES_MAX,
    KV_VALUE_BYTES_MAX,
)
from pytw.types import Id, KvRecord, OwnerType

if TYPE_CHECKING:
    import asyncpg

LOG = logging.getLogger("pytw.storage.kv")

A = TypeVar("A")
R = TypeVar("R")

#: Threads of their own, and few: they take turns with the loop, and each more of them would take one more from it.
_converters = ThreadPoolExecutor(KV_CONVERTERS_MAX, "kv-values")
#: How much longer a value of many small parts is as tagged JSON than packed, about.
JSON_OF_A_BYTE = 8

#: The columns that `from_row` reads.
COLUMNS = "id, key, scopes, value::text AS value, version, created_at, last_updated_at, expires_at, resume"
OWNED = "owner_id = $1 AND owner_type = $2"
#: The same as no index knows it, for rows that are found by id: without statistics a planner would look through all that the
#: tenant has.
OWNS = "owner_id IS NOT DISTINCT FROM $1 AND owner_type IS NOT DISTINCT FROM $2"
#: Before a transaction makes, resizes or deletes keys of a tenant: in this order two of them never wait for each other.
LOCK_ROOM = f"SELECT FROM tenant_kv_usage WHERE {OWNED} FOR UPDATE"
#: One row, which comes once that lock is held: for a statement that deletes.
ROOM = f"room AS (SELECT count(*) FROM ({LOCK_ROOM}) AS used)"
#: A NUL in JSON text, after an even number of backslashes.
NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
#: Behind every key: keys are compared by their bytes, and this is longer than any.
LAST_KEY = "\U0010ffff" * (KV_KEY_BYTES_MAX // 4 + 1)


def checked_scopes(scopes: Sequence[str], *, writes: bool = False) -> list[str]:
    """Sorted, each once.

    Raises:
        RequestError: none, too many, or not storable text.
        LimitExceeded: one is too long.
    """
    if not scopes:
        raise RequestError(
            "Setting keys without a scope is not allowed" if writes else "Unscoped operations are not allowed"
        )
    if len(scopes) > KV_SCOPES_MAX:
        raise RequestError(f"Scopes length may be at most {KV_SCOPES_MAX} long ({len(scopes)} given)")
    for scope in scopes:
        checked_text(scope, "Scope", KV_SCOPE_BYTES_MAX)
    return sorted(set(scopes))


def checked_text(text: str, what: str, bytes_max: int) -> str:
    """Raises: RequestError, LimitExceeded."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not text") from None
    if size > bytes_max:
        raise LimitExceeded(f"{what} length too long ({size:,} bytes, at most {bytes_max:,})")
    if "\0" in text:
        raise RequestError(f"{what} contains a NUL character, which cannot be stored")
    return text


def checked_key(key: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    if not key:
        raise RequestError("Key is empty")
    return checked_text(key, "Key", KV_KEY_BYTES_MAX)


def checked_id(record_id: str) -> str:
    """Raises: RequestError, LimitExceeded."""
    return checked_text(record_id, "Id", KV_KEY_BYTES_MAX)


def checked_cursor(after: str | None) -> tuple[str, str]:
    """Key and id of a `KvRecord.cursor`; empty texts at the beginning. Raises: RequestError, LimitExceeded."""
    checked_text(after or "", "Cursor", 2 * KV_KEY_BYTES_MAX + 1)
    record_id, _, key = (after or "").partition(":")
    return key, record_id


def checked_moment(at: datetime | None) -> datetime | None:
    """In UTC; one without a zone is meant so. Raises: RequestError: it has no year there."""
    try:
        return None if at is None else in_utc(at).astimezone(UTC)
    except OverflowError:
        raise RequestError("the moment is before the year 1 or after 9999") from None


def in_utc(at: datetime) -> datetime:
    """The first and the last moment there are PostgreSQL takes for infinite, and they come back without a zone."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def like_pattern(pattern: str) -> str | None:
    """*pattern* as PostgreSQL takes it: None for everything, and a lone backslash at the end stands for itself."""
    checked_text(pattern, "Query", KV_KEY_BYTES_MAX)
    if pattern in ("%%", "%"):
        return None
    backslashes = len(pattern) - len(pattern.rstrip("\\"))
    return pattern + "\\" if backslashes % 2 else pattern


def key_range(like: str | None) -> tuple[str, str]:
    """The first key that may match, and the first behind all that may: of the text before the first wildcard."""
    literal = re.match(r"(?:\\.|[^%_\\])*", like or "", re.DOTALL)
    prefix = re.sub(r"\\(.)", r"\1", literal[0] if literal else "", flags=re.DOTALL)
    for end in range(len(prefix), 0, -1):
        last = ord(prefix[end - 1])
        if last < 0x10FFFF:
            # Surrogates are no characters of a text.
            return prefix, prefix[: end - 1] + chr(0xE000 if last == 0xD7FF else last + 1)
    return prefix, LAST_KEY


def to_row(value: bytes) -> str:
    """The text of the jsonb column for a msgpack KhronosValue.

    Raises: RequestError, LimitExceeded.
    """
    try:
        text = orjson.dumps(values.to_tagged_json(values.unpack(value)))
    except (ValueError, TypeError) as error:
        raise RequestError(f"Value cannot be stored: {error}") from None
    if len(text) > KV_VALUE_BYTES_MAX:
        raise LimitExceeded(f"Value length too long ({len(text):,} bytes of JSON, at most {KV_VALUE_BYTES_MAX:,})")
    if NUL.search(text):
        raise RequestError("Value contains a NUL character, which cannot be stored")
    return text.decode()


def from_row(row: asyncpg.Record) -> KvRecord:
    """The record of a row of `COLUMNS`. Raises: InternalError: somebody else wrote what is no value."""
    try:
        value = values.pack(values.from_tagged_json(orjson.loads(row["value"])))
    except ValueError as error:
        raise InternalError(f"the stored value of key {row['key']!r} cannot be read: {error}") from error
    return KvRecord(
        id=row["id"],
        key=row["key"],
        scopes=list(row["scopes"]),
        value=value,
        version=row["version"],
        created_at=row["created_at"],
        last_updated_at=row["last_updated_at"],
        expires_at=None if row["expires_at"] is None else in_utc(row["expires_at"]),
        resume=row["resume"],
    )


def readable(rows: Iterable[asyncpg.Record]) -> list[tuple[asyncpg.Record, KvRecord]]:
    """Rows with their records; what cannot be read is logged and left out, so that it stops no other."""
    found = []
    for row in rows:
        try:
            found.append((row, from_row(row)))
        except InternalError as error:
            LOG.error("row %s: %s", row["id"], error)
    return found


async def beside(value_bytes: int, convert: Callable[[A], R], what: A) -> R:
    """Convert at once what is small, the rest in a thread. *value_bytes* as tagged JSON, about."""
    if value_bytes <= KV_LOOP_BYTES_MAX:
        return convert(what)
    return await asyncio.get_running_loop().run_in_executor(_converters, convert, what)


def value_bytes(rows: Iterable[asyncpg.Record]) -> int:
    return sum(len(row["value"]) for row in rows)


def owner_of(tenant: int) -> tuple[str, str]:
    """The columns owner_id and owner_type."""
    owner = Id.of(tenant)
    return owner.owner_id, owner.owner_type.value


def tenant_of(row: asyncpg.Record) -> int:
    return Id(OwnerType(row["owner_type"]), int(row["owner_id"])).key


def new_id() -> str:
    """An identifier that nobody guesses and that nothing else has."""
    return uuid.uuid4().hex
