"""Gets a database to answer: our own PostgreSQL, or the one that the configuration names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pytw.config import Config, without_password
from pytw.errors import AlreadyRunning, ConfigError, DatabaseUnreachable
from pytw.limits import Limits
from pytw.main.claims import DataDir
from pytw.storage.migrate import migrate, require_current
from pytw.storage.pool import Database, open_pool
from pytw.storage.postgres import DATABASE, PORT, USER, EmbeddedPostgres

log = logging.getLogger(__name__)

#: How long a start waits for a database that does not answer yet.
REACHABLE_WITHIN_S = 10.0
RETRY_S = 0.5


def start_embedded(config: Config, data_dir: Path, *, guests: int = 0) -> EmbeddedPostgres | None:
    """Our own server, answering; None where the configuration names a database. From the main thread, before any loop.

    Args:
        guests: the group of workers that ask it themselves.
    """
    if config.meta.postgres_url:
        return None
    environ = dict(os.environ)
    if config.pg.bin:
        environ["TW_PG_BIN"] = config.pg.bin
    if config.pg.user:
        environ["TW_PG_USER"] = config.pg.user
    postgres = EmbeddedPostgres(data_dir, environ=environ, guests=guests)
    try:
        postgres.start()
    except BaseException:
        postgres.stop()
        raise
    return postgres


async def open_database(
    url: str, max_connections: int, *, own: bool, limits: Limits | None = None, within_s: float = REACHABLE_WITHIN_S
) -> Database:
    """Opens the pool of a database that is up to date.

    Args:
        own: our own server's, which is migrated first. Another one may serve others too, and has backups to make before:
            it is migrated by who operates it.
    Raises:
        DatabaseUnreachable: it has not answered *within_s*.
        SchemaOutdated: it is not our own, and lacks migrations.
        ConfigError: its schema and this build do not fit.
    """
    give_up_at = time.monotonic() + within_s
    told = ""
    while True:
        try:
            if own:
                await migrate(url, limits=limits)
            else:
                await require_current(url)
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


@dataclass(frozen=True, slots=True)
class Reached:
    """A database for a command that is no server."""

    url: str
    #: The folder of our own PostgreSQL; None for one that the configuration names.
    data_dir: Path | None = None
    #: Its server, if this command started it; None if a running `tw serve` has it.
    postgres: EmbeddedPostgres | None = None

    @property
    def in_use(self) -> bool:
        """Whether `tw serve` runs on it, as far as the data folder tells."""
        return self.data_dir is not None and self.postgres is None


def _has_cluster(data_dir: Path) -> bool:
    """Raises: PermissionError: it cannot be told, as under another account than the server's."""
    try:
        names = os.listdir(data_dir)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name[:2] == "pg" and name[2:].isdigit() and (data_dir / name / "PG_VERSION").exists() for name in names)


@contextlib.contextmanager
def reached(config: Config, *, alone: bool = False, make: bool = False) -> Iterator[Reached]:
    """The configured database, else the embedded one: that of the running server, or started for the time being.

    From the main thread, before any loop.

    Args:
        alone: not while a server runs on it.
        make: make an embedded one where there is none.
    Raises:
        AlreadyRunning: a server runs on it, and *alone* was asked for.
        ConfigError: there is none; or as `start_embedded`.
        PermissionError: it is another account's.
    """
    if config.meta.postgres_url:
        yield Reached(config.meta.postgres_url)
        return
    path = Path(os.path.expanduser(config.data_dir)).absolute()
    if not make and not _has_cluster(path):
        raise ConfigError(f"there is no database in {path} yet", hint="`tw serve` and `tw migrate` make one")
    try:
        data_dir = DataDir.claim(config.data_dir)
    except AlreadyRunning:
        if alone or not (path / "run" / f".s.PGSQL.{PORT}").exists():
            raise
        yield Reached(f"postgresql://{USER}@/{DATABASE}?host={quote(str(path / 'run'))}&port={PORT}", path)
        return
    try:
        postgres = start_embedded(config, data_dir.path)
        assert postgres is not None
        try:
            yield Reached(postgres.url, path, postgres)
        finally:
            postgres.stop()
    finally:
        data_dir.release()


__all__ = ["Reached", "open_database", "reached", "start_embedded"]
