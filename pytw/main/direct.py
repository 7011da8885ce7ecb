"""`--worker-db direct`: a worker process that asks the database itself, and what the master does for that.

The worker finds the database before its rights go, and keeps what it then cannot find any more: the directory of a UNIX
socket, as a descriptor, because what is above it may be closed to the worker's uid. It gets no other right than to reach
this one address.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

from pytw.errors import ConfigError, NotReady
from pytw.storage.pool import Database, make_pool
from pytw.storage.stores import Stores
from pytw.worker.db import direct
from pytw.worker.spec import WorkerSpec
from pytw.workerdb import WorkerDb

PORT = 5432
#: Files that a TLS connection reads each time it is made.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


class DirectDb:
    """A worker's own pool. `operations` are the stores', and the master's where only the master can answer."""

    def __init__(self, spec: WorkerSpec, master: WorkerDb) -> None:
        self._spec = spec
        self._url = spec.database
        self._database: Database | None = None
        self._stores: Stores | None = None
        self.operations = direct(self._opened, master, spec.worker_id, spec.workers)

    def _opened(self) -> WorkerDb:
        if self._stores is None:
            raise NotReady("the worker has not opened its database yet")
        return self._stores

    def find(self) -> None:
        """Before rights go: keeps hold of what leads to the database."""
        if os.geteuid() == 0:
            self._url = held(self._url)
        # asyncpg looks for files of TLS and passwords at home, and a home that it may not enter is an error to it.
        os.environ["HOME"] = "/"

    async def open(self) -> None:
        """Makes the pool, which connects when it is first asked. Raises: ConfigError: the address is none."""
        try:
            self._database = await make_pool(self._url, self._spec.database_connections)
        except ValueError as error:
            raise ConfigError(f"the address of the database cannot be used: {error}") from None
        self._stores = Stores(self._database, self._spec.limits)

    @property
    def ports(self) -> set[int]:
        """The TCP ports that lead to the database."""
        return ports_of(self._spec.database)

    @property
    def files(self) -> list[str]:
        """What must stay readable to connect."""
        return files_of(self._spec.database)

    def counts(self) -> dict[str, float]:
        """Numbers for heartbeats."""
        if self._database is None:
            return {}
        found = {f"db_{name}": number for name, number in self._database.breaker.counts().items()}
        return {**found, "db_connections": float(self._database.pool.get_size())}

    async def close(self) -> None:
        if self._stores is not None:
            await self._stores.close()


def hosts_of(url: str) -> tuple[str, ...]:
    """Names, addresses or socket directories that an address names."""
    parts = urlsplit(url)
    named = [unquote(part.rpartition(":")[0] or part) for part in parts.netloc.rpartition("@")[2].split(",") if part]
    return tuple(named + [host for value in parse_qs(parts.query).get("host", []) for host in value.split(",")])


def ports_of(url: str) -> set[int]:
    """The TCP ports of an address; none where all its hosts are socket directories."""
    if all(host.startswith("/") for host in hosts_of(url)):
        return set()
    parts = urlsplit(url)
    found = [port for value in parse_qs(parts.query).get("port", []) for port in value.split(",")]
    found += [part.rpartition(":")[2] for part in parts.netloc.rpartition("@")[2].split(",") if ":" in part]
    return {int(port) for port in found if port.isdigit()} or {PORT}


def files_of(url: str) -> list[str]:
    """The files that an address names."""
    query = parse_qs(urlsplit(url).query)
    return [path for name in _FILES for path in query.get(name, [])]


def held(url: str) -> str:
    """The same address by a descriptor of its socket directory, which leads there whatever is above; stays open for good."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    directory = query.get("host", [""])[0]
    if not directory.startswith("/") or "," in directory:
        return url
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"the socket directory of the database is not there: {directory}: {error.strerror}") from None
    query["host"] = [f"/proc/self/fd/{descriptor}"]
    return urlunsplit(parts._replace(query=urlencode(query, doseq=True, safe="/", quote_via=quote)))


def complete(url: str, environ: Mapping[str, str]) -> str:
    """The address with the password that the master finds in its environment, of which workers see nothing."""
    parts = urlsplit(url)
    password = environ.get("PGPASSWORD")
    if not password or parts.password is not None or "password" in parse_qs(parts.query):
        return url
    extra = urlencode({"password": password}, quote_via=quote)
    return urlunsplit(parts._replace(query=f"{parts.query}&{extra}" if parts.query else extra))


async def connections_warning(database: Database, wanted: int) -> str | None:
    """A line for the log where the server takes fewer connections than master and workers may open together."""
    most = await database.fetchval(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    if wanted <= most:
        return None
    return (
        f"master and workers may open {wanted} database connections together, and the server takes {most}: "
        "set --max-db-connections lower, or max_connections of the server higher"
    )


__all__ = ["DirectDb", "complete", "connections_warning", "files_of", "held", "ports_of"]
