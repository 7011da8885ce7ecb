"""PostgreSQL as our own child: made, started, watched, restarted and ended by us.

The server program itself is the child, not ``pg_ctl``: we are its parent, so we reap it, and no zombie is mistaken for
a server. It gets SIGQUIT from the kernel when the thread that started it ends, so it must be started, and started
again, from the main thread. SIGQUIT, because nobody is left to bound an orderly end, whose checkpoint takes as long as
the disk does: the next start reads the write-ahead log instead.

Where we are root it runs as another account, which may not be able to enter the directories above its data. It gets
its two directories as open descriptors and names them ``/proc/self/fd/N``; no directory above has to be opened up.

Layout of the data directory: ``pgNN/`` the cluster of one major version, ``run/`` the socket (mode 0700), ``log/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pytw.config.addresses import SOCKET_PATH_BYTES_MAX
from pytw.errors import AlreadyRunning, ConfigError, PytwError, StorageRefused, StorageUnavailable
from pytw.storage import pgfiles, pgguests, pgprocesses

LOG = logging.getLogger("pytw.storage.postgres")

DATABASE = USER = "pytw"
PORT = 5432  # only a part of the socket's name
READY_S_MAX = 300.0  # crash recovery of a large write-ahead log takes its time
INITDB_S_MAX = 120.0
OLD_SERVER_S_MAX = 10.0  # how long an old server on the same data may take to end
STOP_S = 8.0
POLL_S = 0.01
LOG_BYTES_MAX = 8 << 20
HEALTHY_AFTER_S = 60.0
RESTARTS_MAX = 10  # without a healthy minute between them
RESTART_STEP_S = 0.25
RESTART_WAIT_S_MAX = 10.0

#: Small memory, few processes, nothing but the socket.
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "huge_pages": "off",
    "jit": "off",
    # Errors of statements are told to who made them; scripts could fill the disk with their text.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
#: The same for programs from a major version on. Recovery syncs all files of the cluster first, about a thousand: one by
#: one that took seconds on a busy machine, the file system at once a third of a second.
SETTINGS_SINCE: Mapping[int, Mapping[str, str]] = {
    14: {"recovery_init_sync_method": "syncfs"},
    18: {"io_method": "sync"},
}
#: For databases that nobody will miss.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_prctl = ctypes.CDLL(None, use_errno=True).prctl
_PR_SET_PDEATHSIG = 1


class EmbeddedPostgres:
    """A PostgreSQL server of our own in *data_dir*.

    `start` before any loop; then run `supervise` as a task of the main thread's loop; `stop` or `close` at the end.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        environ: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        durable: bool = True,
        guests: int = 0,
    ) -> None:
        """Starts nothing.

        Args:
            environ: where TW_PG_BIN and TW_PG_USER are looked up; None is ours.
            settings: server settings over `SETTINGS`.
            durable: False trades safety against power failure for speed (tests).
            guests: the group that may come to the socket as guests (`pgguests`); only where we are root. 0: none.
        """
        self._data_dir = data_dir.absolute()
        self._environ = os.environ if environ is None else environ
        self._settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._durable = durable
        self._guests = guests
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._log_start = 0
        self._temporary_run: Path | None = None
        self.restarts = 0
        #: Called by `supervise` each time that a server which had ended answers again.
        self.on_return: Callable[[], object] = lambda: None

    # ---- what callers need ---------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the server, 0 if none runs."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    @property
    def connect_kwargs(self) -> dict[str, Any]:
        """Arguments of `asyncpg.connect`."""
        return {"host": str(self._run), "port": PORT, "user": USER, "database": DATABASE}

    @property
    def url(self) -> str:
        """The same as an address."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._run))}&port={PORT}"

    @property
    def guest_url(self) -> str:
        """The address for guests."""
        return self.url.replace(f"//{USER}@", f"//{pgguests.ROLE}@", 1)

    def start(self) -> None:
        """Return when the server answers; makes the cluster first where there is none.

        From the main thread only. Waits for an old server on the same data to end.

        Raises:
            ConfigError: no programs, no account, another major version's data, or the server's own words.
            StorageRefused: no space left, or no right to write.
            AlreadyRunning: another server keeps running on the data.
        """
        self._prepare()
        for _ in self._starting():
            time.sleep(POLL_S)

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """End the server in an orderly way; forced after *timeout_s*. Any thread; idempotent."""
        self._closing.set()
        process = self._process
        if process is None:
            return
        for number, patience_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience_s)
        if self._temporary_run:
            shutil.rmtree(self._temporary_run, ignore_errors=True)
            self._temporary_run = None

    async def close(self, *, timeout_s: float = STOP_S) -> None:
        """`stop` without holding the loop."""
        self._closing.set()
        await asyncio.to_thread(self.stop, timeout_s=timeout_s)

    async def supervise(self) -> None:
        """Start the server again whenever it ends, until `stop` or `close`. Run it in the main thread's loop.

        The first restart is immediate, later ones wait a little longer each time.

        Raises:
            StorageUnavailable: it ended `RESTARTS_MAX` times without a healthy minute between.
        """
        failures = 0
        while not self._closing.is_set():
            process, since = self._process, time.monotonic()
            if process is None:
                return
            await pgprocesses.ended(process)
            if self._closing.is_set():
                return
            failures = 1 if time.monotonic() - since > HEALTHY_AFTER_S else failures + 1
            LOG.error("PostgreSQL ended with status %s; starting it again", process.returncode)
            while True:
                if failures > RESTARTS_MAX:
                    raise StorageUnavailable(f"PostgreSQL ended {failures} times in a row", hint=f"see {self._log}")
                await asyncio.sleep(min((failures - 1) * RESTART_STEP_S, RESTART_WAIT_S_MAX))
                if self._closing.is_set():
                    return
                try:
                    for _ in self._starting():
                        await asyncio.sleep(POLL_S)
                except PytwError as error:
                    failures += 1
                    LOG.error("PostgreSQL does not start: %s", error)
                    continue
                if self._closing.is_set():
                    return
                self.restarts += 1
                LOG.warning("PostgreSQL answers again")
                self.on_return()
                break

    # ---- before the first start ----------------------------------------------------------------------

    def _prepare(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("PostgreSQL ends with the thread that starts it: start it from the main thread")
        try:
            self._data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            clusters = sorted(self._data_dir.glob("pg[0-9]*/PG_VERSION"))
            self._account = pgfiles.account(self._environ, clusters[-1].parent if clusters else None)
            self._files = pgfiles.find(self._environ, self._account, self._data_dir)
            self._cluster = self._data_dir / f"pg{self._files.major}"
            others = [path.parent.name for path in clusters if path.parent != self._cluster]
            if others and not (self._cluster / "PG_VERSION").exists():
                raise ConfigError(
                    f"{self._data_dir} holds data of PostgreSQL {others[-1][2:]}, but these programs are {self._files.major}",
                    hint="dump it with the old programs and restore it, or set TW_PG_BIN to them",
                )
            self._log = self._data_dir / "log" / "postgres.log"
            self._log.parent.mkdir(mode=0o755, exist_ok=True)
            if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
                self._log.rename(self._log.with_suffix(".log.1"))
            self._run = self._make_run()
            for major, settings in SETTINGS_SINCE.items():
                if self._files.major >= major:
                    self._settings = {**settings, **self._settings}
            if not (self._cluster / "PG_VERSION").exists():
                self._make_cluster()
            elif self._cluster.stat().st_uid != self._account.uid:
                raise StorageRefused(f"{self._cluster} does not belong to {self._account.name}, who runs PostgreSQL")
            if self._guests:
                pgguests.write_rules(self._cluster, self._account, USER)
        except OSError as error:
            raise StorageRefused(f"cannot write {error.filename or self._data_dir}: {error.strerror}") from error

    def _make_run(self) -> Path:
        run = self._data_dir / "run"
        if len(os.fsencode(run / f".s.PGSQL.{PORT}")) > SOCKET_PATH_BYTES_MAX:
            run = self._temporary_run = Path(tempfile.mkdtemp(prefix="pytw-", dir="/tmp"))
        self._own(run)
        if self._guests:
            os.chown(run, -1, self._guests)
            run.chmod(0o710)
        return run

    def _own(self, directory: Path) -> None:
        """A directory of ours that only the account enters."""
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        if self._account.switch:
            os.chown(directory, self._account.uid, self._account.gid)

    def _make_cluster(self) -> None:
        """initdb beside the final place, which the finished cluster takes in one step."""
        part = self._data_dir / f".{self._cluster.name}-new"
        shutil.rmtree(part, ignore_errors=True)
        self._own(part)
        options = ["-U", USER, "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"]
        options += ["--auth-local=trust", "--auth-host=reject"]  # who enters the socket's directory is us
        if self._files.major >= 17:
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--sync-method=syncfs"]
        if not self._durable:
            options += ["--no-sync"]
        # Renamed, not made anew: each database is three hundred files more to write, and to sync in recovery.
        rename = f"ALTER DATABASE postgres RENAME TO {DATABASE}\n"
        try:
            with self._directories(part) as (data, _, passed):
                self._tool(["initdb", "-D", data, *options], passed)
                self._tool(["postgres", "--single", "-D", data, "template1"], passed, rename)
            part.rename(self._cluster)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _tool(self, arguments: list[str], passed: tuple[int, ...], text: str = "") -> None:
        try:
            done = subprocess.run(
                [str(self._files.bin / arguments[0]), *arguments[1:]],
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=INITDB_S_MAX,
                cwd="/",
                env=pgfiles.environment(),
                umask=0o077,
                check=False,
                pass_fds=passed,
                **self._account.popen(),
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{arguments[0]} took longer than {INITDB_S_MAX:.0f} s") from None
        if done.returncode or "FATAL" in done.stderr or "ERROR" in done.stderr:
            raise explain(
                done.stderr or done.stdout, f"{arguments[0]} failed with status {done.returncode}", self._data_dir
            )

    @contextlib.contextmanager
    def _directories(self, cluster: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """How a child names the cluster and the socket directory, and the descriptors it needs for that."""
        if not self._account.switch:
            yield str(cluster), str(self._run), ()
            return
        opened = tuple(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in (cluster, self._run))
        try:
            yield f"/proc/self/fd/{opened[0]}", f"/proc/self/fd/{opened[1]}", opened
        finally:
            for descriptor in opened:
                os.close(descriptor)

    # ---- each start ----------------------------------------------------------------------------------

    def _starting(self) -> Iterator[None]:
        """Start the server; yields whenever there is nothing to do but wait, ends when it answers."""
        began = time.monotonic()
        told_s = 10.0
        while True:
            while pgprocesses.clear(self._cluster) and not self._closing.is_set():
                if time.monotonic() - began > OLD_SERVER_S_MAX:
                    raise AlreadyRunning(f"another PostgreSQL server runs on {self._cluster}")
                yield
            if self._closing.is_set():
                return
            self._launch()
            process = self._process
            assert process is not None
            while process.poll() is None:
                if self._closing.is_set() or self._ready(process.pid):
                    return
                waited_s = time.monotonic() - began
                if waited_s > READY_S_MAX:
                    process.kill()
                    process.wait()
                    raise ConfigError(f"PostgreSQL did not answer within {READY_S_MAX:.0f} s", hint=f"see {self._log}")
                if waited_s > told_s:
                    LOG.warning("PostgreSQL is still recovering after %.0f s", waited_s)
                    told_s *= 2
                yield
            words = self._words()
            draining = ("shared memory" in words and "in use" in words) or "lock file" in words
            if not draining or time.monotonic() - began > OLD_SERVER_S_MAX:
                raise explain(words, f"PostgreSQL ended with status {process.returncode}", self._data_dir)
            yield

    def _launch(self) -> None:
        parent = os.getpid()

        def end_with_us() -> None:
            # After the change of account, which would clear it. The parent may have ended before this line.
            if _prctl(_PR_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0) or os.getppid() != parent:
                os._exit(1)

        try:
            with self._directories(self._cluster) as (data, run, passed), open(self._log, "ab") as log:
                self._log_start = log.tell()
                settings = {**self._settings, "unix_socket_directories": run}
                if self._guests:
                    settings |= {"hba_file": f"{data}/{pgguests.RULES}", "ident_file": f"{data}/{pgguests.NAMES}"}
                options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
                self._process = subprocess.Popen(
                    [str(self._files.bin / "postgres"), "-D", data, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=pgfiles.environment(),
                    umask=0o077,
                    start_new_session=True,  # a Ctrl-C at the terminal is for us, not for the database
                    pass_fds=passed,
                    preexec_fn=end_with_us,
                    **self._account.popen(),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(f"cannot run {self._files.bin / 'postgres'}: {error}") from error

    def _ready(self, pid: int) -> bool:
        """Whether the server says so in its pid file, as ``pg_ctl`` asks it."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _words(self) -> str:
        """What the server wrote since it was started."""
        with open(self._log, "rb") as log:
            log.seek(self._log_start)
            return log.read(65_536).decode(errors="replace")


def explain(words: str, otherwise: str, data_dir: Path) -> ConfigError:
    """One line out of what a PostgreSQL program wrote."""
    for sign in ("No space left on device", "Disk quota exceeded", "Permission denied", "Read-only file system"):
        if sign in words:
            return StorageRefused(f"PostgreSQL cannot write {data_dir}: {sign}")
    for line in words.splitlines():
        for mark in ("FATAL:", "PANIC:", "error:", "ERROR:"):
            if mark in line:
                return ConfigError(f"PostgreSQL does not start: {line.partition(mark)[2].strip()[:300]}")
    lines = words.strip().splitlines()
    return ConfigError(f"{otherwise}: {lines[-1].strip()[:300]}" if lines else otherwise)


__all__ = ["EmbeddedPostgres", "explain"]
