"""What a worker is told at its birth, and by which name it tells its mode.

The spec crosses to the fork server as msgpack; the token travels beside it.
"""

from __future__ import annotations

from msgspec import Struct

from pytw.limits import DB_CONNECTIONS, HTTP_DOMAINS, Limits

#: What READY says besides what is up: whether the built-in template is a loop. Only a VM can tell.
LOOP_MODE = "mode.loop"


class DiscordSpec(Struct, frozen=True, kw_only=True):
    """How to reach Discord, or the mock that stands for it."""

    token: str
    api_base: str
    gateway_url: str
    shards: int
    intents: int
    max_concurrency: int = 1
    #: 0: learned from READY.
    application_id: int = 0


class WorkerSpec(Struct, frozen=True, kw_only=True):
    """One worker of a pool, process or thread."""

    worker_id: int = 0
    workers: int = 1
    #: Grows with each spawn of this place in the pool.
    epoch: int = 0
    #: ``ws://127.0.0.1:PORT/``; empty in the master's own process.
    mesophyll: str = ""
    #: Address of the database where the worker asks it itself (`--worker-db direct`). Told over the fork server's socket
    #: pair and nowhere else: it may hold a password.
    database: str = ""
    #: The group that may enter the embedded database's socket directory; 0: none is needed.
    database_group: int = 0
    database_connections: int = DB_CONNECTIONS
    vm_threads: int = 3
    limits: Limits = Limits()
    #: What ``ctx.Runtime:links`` tells.
    links: dict[str, str] = {}
    #: Rate limits of host calls as the reference has them.
    compat_ratelimits: bool = False
    #: Where templates' HTTP requests may go.
    http_domains: tuple[str, ...] = HTTP_DOMAINS
    #: None: no gateway.
    discord: DiscordSpec | None = None
    #: Empty: the tree inside the package.
    builtins_dir: str = ""
    log_level: str = "INFO"
    log_json: bool = False
    worker_debug: bool = False
    #: 0: no aiomonitor.
    console_port: int = 0
    #: First 16-byte slot of this worker in the shared blame memory.
    blame_slot: int = 0
    exit_on_deaf: bool = True
    drop_rights: bool = False
