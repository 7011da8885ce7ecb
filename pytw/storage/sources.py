"""Source texts by content hash, kept once whoever refers to them, and collected when nobody does.

A saver holds the lock `locks.SOURCES` shared from before it writes sources until its references are committed; the
collector holds it alone. So a source is either referred to by what the collector sees, or not yet looked for by any saver.
What loses a reference is noted in ``loose_sources`` in the same transaction: a collector that never came is made up for by
the next one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytw.errors import PytwError
from pytw.storage import locks

if TYPE_CHECKING:
    from pytw.storage.pool import Database

LOG = logging.getLogger("pytw.storage.sources")

COLLECT_MAX = 1_000

HOLD = "SELECT pg_advisory_xact_lock_shared($1)"
SAVE = """
INSERT INTO sources (hash, source) SELECT * FROM unnest($1::bytea[], $2::text[]) AS new (hash, source) ORDER BY 1
ON CONFLICT (hash) DO NOTHING"""
TEXTS = "SELECT hash, source FROM sources WHERE hash = ANY($1)"
LOSE = """
INSERT INTO loose_sources SELECT DISTINCT hash FROM unnest($1::bytea[]) AS lost (hash) ORDER BY 1
ON CONFLICT (hash) DO NOTHING"""
ALONE = "SELECT pg_advisory_xact_lock($1)"
TAKE = """
DELETE FROM loose_sources WHERE hash = ANY(ARRAY(SELECT hash FROM loose_sources ORDER BY hash LIMIT $1)) RETURNING hash"""
COLLECT = """
DELETE FROM sources s WHERE s.hash = ANY($1)
AND NOT EXISTS (SELECT FROM template_versions v WHERE v.hashes @> ARRAY[s.hash])
AND NOT EXISTS (SELECT FROM shop_templates v WHERE v.hashes @> ARRAY[s.hash])"""


async def hold(connection: Any) -> None:
    """Nothing that is saved from here on is collected before the transaction ends."""
    await connection.execute(HOLD, locks.SOURCES)


async def save(connection: Any, files: Mapping[str, str]) -> dict[str, str]:
    """Keep the sources; path -> hash in hexadecimal digits. After `hold`."""
    hashes = {path: hashlib.sha256(source.encode()).digest() for path, source in files.items()}
    by_hash = {hashes[path]: source for path, source in files.items()}
    await connection.execute(SAVE, list(by_hash), list(by_hash.values()))
    return {path: digest.hex() for path, digest in hashes.items()}


async def texts(db: Database, digests: Iterable[str]) -> dict[str, str]:
    """Texts by hash in hexadecimal digits; what is missing, or no hash, is not among them."""
    wanted = []
    for digest in set(digests):
        try:
            wanted.append(bytes.fromhex(digest))
        except ValueError:
            continue
    if not wanted:
        return {}
    return {row["hash"].hex(): row["source"] for row in await db.fetch(TEXTS, wanted)}


async def lose(connection: Any, hashes: Iterable[bytes]) -> bool:
    """Note what lost a reference; `collect` after the transaction. Returns whether there is anything."""
    lost = list(set(hashes))
    if lost:
        await connection.execute(LOSE, lost)
    return bool(lost)


async def collect(db: Database) -> None:
    """Take away what nobody refers to. A failure is logged: the next collector does it."""
    try:
        taken = COLLECT_MAX
        while taken == COLLECT_MAX:
            async with db.transaction() as connection:
                await connection.execute(ALONE, locks.SOURCES)
                hashes = [row["hash"] for row in await connection.fetch(TAKE, COLLECT_MAX)]
                taken = len(hashes)
                if hashes:
                    await connection.execute(COLLECT, hashes)
    except PytwError as error:
        LOG.warning("sources that nobody needs stay for now: %s", error)


__all__ = ["collect", "hold", "lose", "save", "texts"]
