"""The main of the master: claims, database, upstream, workers, API, in this order, and all of it back again.

It wires and decides nothing: each part stands in its own module. Only the order is known here. What must be forked is
forked first, what others need is opened before and closed after them, and PostgreSQL ends last.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from pytw.api import ApiContext, ApiServer
from pytw.config import Config, control_socket, without_password
from pytw.errors import ConfigError, DatabaseUnreachable, PytwError
from pytw.main import banner
from pytw.main.claims import DataDir, bind, mesophyll_address
from pytw.main.console import PORT as CONSOLE_PORT
from pytw.main.console import console
from pytw.main.database import open_database, start_embedded
from pytw.main.direct import complete, connections_warning
from pytw.main.forkserver import ForkServer
from pytw.main.health import Health
from pytw.main.loop import new_event_loop
from pytw.main.objects import open_blobs, open_reference
from pytw.main.options import ServeOptions
from pytw.main.reaper import reap_strangers
from pytw.main.rights import DATABASE_GID
from pytw.main.secrets import open_secrets
from pytw.main.signals import Signals
from pytw.main.topology import Topology
from pytw.main.upstream import open_discord, open_mock
from pytw.main.workers import Surroundings, Workers
from pytw.storage import pgguests
from pytw.storage.objectadopt import ReferenceObjects
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import Database
from pytw.storage.postgres import EmbeddedPostgres
from pytw.storage.serverclaim import ServerClaim
from pytw.storage.stores import Stores
from pytw.storage.templatechoice import choose, choose_versions

log = logging.getLogger(__name__)

#: How long the banner waits for the gateway; a Discord that is away must not hold up the API.
GATEWAY_WAIT_S = 5.0
GATEWAY_LOOK_S = 0.02


def run(config: Config, options: ServeOptions, fork_server: ForkServer | None) -> int:
    """`tw serve` of every type but the internal one; returns the exit code.

    Args:
        fork_server: makes worker processes; None where there are none. It ends with this run.
    Raises:
        ConfigError and its kinds: what the operator must change; each has its own exit code.
    """
    postgres: EmbeddedPostgres | None = None
    try:
        data_dir = DataDir.claim(config.data_dir)
        listener = bind(config.addrs.template_worker, key="addrs.template_worker", flag="--listen")
        # Only where the master is root have workers accounts of their own, by which the server knows them.
        guests = DATABASE_GID if options.worker_db == "direct" and os.geteuid() == 0 else 0
        postgres = start_embedded(config, data_dir.path, guests=guests)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_Master(config, options, data_dir.path, listener, postgres, fork_server).serve())
    finally:
        if postgres is not None:
            postgres.stop()
        if fork_server is not None:
            fork_server.close()


class _Master:
    """One run of the master."""

    def __init__(
        self,
        config: Config,
        options: ServeOptions,
        data_dir: Path,
        listener: socket.socket,
        postgres: EmbeddedPostgres | None,
        fork_server: ForkServer | None,
    ) -> None:
        self._config = config
        self._options = options
        self._data_dir = data_dir
        self._listener = listener
        self._postgres = postgres
        self._fork_server = fork_server
        self._workers: Workers | None = None
        self._api: ApiServer | None = None
        self._health: Health | None = None
        self._failure: ConfigError | None = None

    async def serve(self) -> int:
        """Up, until a signal or a failure that nobody here can mend; then down in order."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(self._options.threads_master, "tw-blocking"))
        self._signals = Signals(at_once=self._kill, replace=self._replace)
        async with AsyncExitStack() as stack:
            starting = loop.create_task(self._start(stack))
            ending = loop.create_task(self._signals.ending.wait())
            try:
                await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await ending
                    await self._drain()
            finally:
                for task in (starting, ending):
                    task.cancel()
                await asyncio.gather(starting, ending, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        return 0

    # ---- up ------------------------------------------------------------------------------------

    async def _start(self, stack: AsyncExitStack) -> None:
        config, options = self._config, self._options
        dev = config.dev_mode(dev=options.dev)
        if self._fork_server is not None:
            self._fork_server.attach(asyncio.get_running_loop())
        stack.enter_context(console(CONSOLE_PORT if options.console else 0))
        self._background(stack, reap_strangers())
        url = self._postgres.url if self._postgres is not None else config.meta.postgres_url
        blobs = open_blobs(config, self._data_dir, f"http://{self._address}")
        own = self._postgres is not None
        database = await open_database(url, options.max_db_connections, own=own, limits=config.limits)
        objects = ObjectStore(database, blobs, config.limits)
        stores = Stores(database, config.limits, objects, open_secrets(config, self._data_dir))
        stack.push_async_callback(stores.close)
        if not own:
            claim = await ServerClaim.take(url)
            stack.push_async_callback(claim.release)
            self._background(stack, claim.keep())
        await stores.secrets.warn_of_other_keys()
        if taken_over := await stores.user_tokens.seal_all():
            log.info("%d access tokens of users stood in clear, and are encrypted now", taken_over)
        if self._postgres is not None:
            self._postgres.on_return = database.breaker.try_now
            self._background(stack, self._postgres.supervise())
        upstream = await (open_mock() if dev else open_discord(config))
        stack.push_async_callback(upstream.close)
        if dev:
            await stores.cursors.forget_mocks()
        mock_url = f"http://{upstream.mock.host}:{upstream.mock.port}" if upstream.mock is not None else None
        topology = Topology.choose(options, upstream.recommended_shards)
        if warning := options.thread_warning(topology.workers):
            log.warning("%s", warning)
        if warning := await connections_warning(database, options.connections(topology.processes)):
            log.warning("%s", warning)
        self._workers = workers = Workers(
            Surroundings(
                config,
                options,
                topology,
                upstream,
                stores,
                self._fork_server,
                config.addrs.mesophyll_server or mesophyll_address(self._data_dir),
                self._crash_loop,
                self._refused,
                **await self._asked_by_workers(url, database),
            )
        )
        stack.push_async_callback(workers.close)
        self._health = health = Health(
            workers,
            database,
            mock_url=mock_url,
            caches={"sessions": stores.users.kept},
            worker_db=options.worker_db,
            connections_max=options.connections(topology.processes),
        )
        self._api = api = ApiServer(
            ApiContext(
                workers=workers.pool,
                templates=lambda: choose(stores, loop_mode=workers.loop_mode),
                versions=lambda: choose_versions(stores, loop_mode=workers.loop_mode),
                shop=stores.shop,
                health=health,
                dev=dev,
                limits=config.limits,
                session=stores.users.user_of,
                root_users=frozenset(str(user) for user in config.discord_auth.root_users),
                mock=upstream.mock.say if upstream.mock is not None else None,
                objects=objects,
                reference_objects=ReferenceObjects(objects, partial(open_reference, config, self._data_dir)),
                kv=stores.kv,
                secrets=stores.secrets,
                global_kv=stores.global_kv,
                global_staff=stores.global_staff,
                frontend_url=config.sites.frontend,
                tenants=stores.tenants,
            )
        )
        stack.push_async_callback(api.close)
        await api.start(self._listener, Path(control_socket(str(self._data_dir))))
        await workers.start()
        await workers.wait_ready()
        await _gateway(workers)
        health.started = True
        self._show(topology, mock_url=mock_url, url=url)

    async def _asked_by_workers(self, url: str, database: Database) -> dict[str, Any]:
        """How worker processes reach the database themselves, where they are to; others are told of none."""
        if self._options.worker_db != "direct":
            return {}
        if self._postgres is None or os.geteuid() != 0:
            # Of one account with its server, or as the address says.
            return {"database": complete(url, os.environ)}
        await pgguests.admit(database)
        return {"database": self._postgres.guest_url, "database_group": DATABASE_GID}

    @property
    def _address(self) -> str:
        """Where the API listens, fit for a URL."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _show(self, topology: Topology, *, mock_url: str | None, url: str) -> None:
        database = "embedded PostgreSQL" if self._postgres is not None else without_password(url).partition("?")[0]
        if self._options.worker_db == "direct" and topology.processes:
            database += f", direct: {self._options.connections(topology.processes)} connections at most"
        print(  # noqa: T201 - the banner is what the command prints
            banner.text(
                self._config,
                topology,
                address=self._address,
                mock_url=mock_url,
                database=database,
                console_port=CONSOLE_PORT if self._options.console else 0,
                builtins_dir=self._options.builtins_dir,
                loop_mode=bool(self._workers is not None and self._workers.loop_mode),
            ),
            flush=True,
        )

    def _background(self, stack: AsyncExitStack, work: object) -> None:
        """Runs *work* beside everything else; if it fails, the master ends with its reason."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        task.add_done_callback(self._background_ended)
        stack.callback(task.cancel)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.critical("cannot go on: %s", error, exc_info=None if isinstance(error, PytwError) else error)
        known = DatabaseUnreachable(str(error)) if isinstance(error, PytwError) else ConfigError(str(error))
        self._fail(error if isinstance(error, ConfigError) else known)

    def _crash_loop(self, worker_id: int) -> None:
        if self._options.abort_on_crash_loop:
            self._fail(
                ConfigError(f"worker {worker_id} failed ten times in a row", hint="--abort-on-crash-loop is set")
            )

    def _refused(self, error: ConfigError) -> None:
        # What has served before is tried again: the others serve, and whoever broke the tree may mend it.
        if self._failure is None and not (self._health is not None and self._health.started):
            self._fail(error)

    def _fail(self, error: ConfigError) -> None:
        self._failure = error
        self._signals.ending.set()

    # ---- down ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        assert self._health is not None
        assert self._workers is not None
        assert self._api is not None
        self._health.ending = True
        self._api.stop_intake()
        in_time = await self._workers.drain()
        log.info("all workers have ended" if in_time else "what still ran was cut off")

    def _kill(self) -> None:
        if self._workers is not None:
            self._workers.kill()

    def _replace(self) -> None:
        if self._workers is not None:
            self._workers.replace_all()


async def _gateway(workers: Workers) -> None:
    """Waits a little for the shards, so that what the banner suggests works at once."""
    try:
        async with asyncio.timeout(GATEWAY_WAIT_S):
            while not workers.gateway_ready:  # noqa: ASYNC110 - shards of two kinds of workers report on their own
                await asyncio.sleep(GATEWAY_LOOK_S)
    except TimeoutError:
        log.warning("the gateway is not connected yet; the API serves meanwhile")
