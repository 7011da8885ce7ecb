"""Gets a database to answer: our own PostgreSQL, or the one that the configuration names."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from pytw.config import Config, without_password
from pytw.errors import DatabaseUnreachable
from pytw.storage.migrate import migrate
from pytw.storage.pool import Database, open_pool
from pytw.storage.postgres import EmbeddedPostgres

log = logging.getLogger(__name__)

#: How long a start waits for a database that does not answer yet.
REACHABLE_WITHIN_S = 10.0
RETRY_S = 0.5


def start_embedded(config: Config, data_dir: Path) -> EmbeddedPostgres | None:
    """Our own server, answering; None where the configuration names a database. From the main thread, before any loop."""
    if config.meta.postgres_url:
        return None
    environ = dict(os.environ)
    if config.pg.bin:
        environ["TW_PG_BIN"] = config.pg.bin
    if config.pg.user:
        environ["TW_PG_USER"] = config.pg.user
    postgres = EmbeddedPostgres(data_dir, environ=environ)
    try:
        postgres.start()
    except BaseException:
        postgres.stop()
        raise
    return postgres


async def open_database(url: str, max_connections: int, *, within_s: float = REACHABLE_WITHIN_S) -> Database:
    """Migrates the database and opens the pool.

    Raises:
        DatabaseUnreachable: it has not answered *within_s*.
        ConfigError: its schema and this build do not fit.
    """
    give_up_at = time.monotonic() + within_s
    told = ""
    while True:
        try:
            await migrate(url)
            return await open_pool(url, max_connections)
        except DatabaseUnreachable as e:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise
            if told != e.detail:
                told = e.detail
                where = without_password(url).partition("?")[0]
                log.warning("%s; trying for another %.0f s (%s)", told, left_s, where)
            await asyncio.sleep(RETRY_S)


def migrate_only(config: Config) -> list[str]:
    """`tw migrate`: brings the database up to date and returns the ids of what was applied. Needs nothing but a database.

    Raises: ConfigError and its kinds.
    """
    from pytw.main.claims import DataDir

    if config.meta.postgres_url:
        return asyncio.run(migrate(config.meta.postgres_url))
    data_dir = DataDir.claim(config.data_dir)
    postgres = start_embedded(config, data_dir.path)
    assert postgres is not None
    try:
        return asyncio.run(migrate(postgres.url))
    finally:
        postgres.stop()
        data_dir.release()
