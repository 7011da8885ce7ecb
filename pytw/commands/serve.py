"""`tw serve`: every flag of the documentation, turned into a Config and ServeOptions for the process mains."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
from typing import Any

import click
from click.core import ParameterSource

from pytw import observe
from pytw.commands.later import refuse
from pytw.commands.settings import configured, reading
from pytw.errors import ConfigError, SchemaOutdated
from pytw.main.options import ServeOptions

#: What is accepted -> the worker type it means. Aliases are the reference's.
WORKER_TYPES = {
    "processpool": "processpool",
    "threadpool": "threadpool",
    "hybrid": "hybrid",
    "processpoolworker": "processpoolworker",
    "register": "register",
    "migrate": "migrate",
    "shell": "shell",
    "process-pool": "processpool",
    "thread-pool": "threadpool",
    "process-pool-worker": "processpoolworker",
    "register-commands": "register",
    "apply-migration": "migrate",
    "fauxpas": "shell",
}
#: The flags that say how many workers and threads there are.
SIZES = ("process_workers", "thread_workers", "threads_master", "threads_worker")
WORKERS_MAX = 1_024
THREADS_MAX = 1_024

_COUNT = click.IntRange(1, WORKERS_MAX)
_THREADS = click.IntRange(1, THREADS_MAX)


class _WorkerType(click.ParamType[str]):
    name = "TYPE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in WORKER_TYPES:
            self.fail(f"{value!r} is not one of {', '.join(list(WORKER_TYPES)[:7])}", param, ctx)
        return WORKER_TYPES[value]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--worker-type",
    type=_WorkerType(),
    default="processpool",
    help="processpool, threadpool, hybrid, migrate; the reference's aliases work.",
)
@click.option("--process-workers", type=_COUNT, help="Worker processes. [default: the gateway's shard count]")
@click.option(
    "--thread-workers",
    type=_COUNT,
    help="In-process workers of threadpool and hybrid. [default: the shard count; 1 for hybrid]",
)
@click.option(
    "--worker-id", type=click.IntRange(0, WORKERS_MAX - 1), help="Place in the pool; only for processpoolworker."
)
@click.option("--mesophyll", metavar="ADDRESS", help="The master's Mesophyll server; only for processpoolworker.")
@click.option(
    "--tokio-threads-master",
    "--threads-master",
    "threads_master",
    type=_THREADS,
    default=10,
    help="Threads of the master for blocking work.",
)
@click.option(
    "--tokio-threads-worker",
    "--threads-worker",
    "threads_worker",
    type=_THREADS,
    default=3,
    help="VM threads of each worker.",
)
@click.option(
    "--max-db-connections",
    type=_COUNT,
    default=7,
    help="Database connections of the master, and of each worker process with --worker-db direct.",
)
@click.option(
    "--worker-db",
    type=click.Choice(["mesophyll", "direct"]),
    default="mesophyll",
    help="How worker processes reach the database: through the master, or with connections of their own.",
)
@click.option("--worker-debug", is_flag=True, help="Define the Luau global _debug.")
@click.option("--use-tokio-console", "console", is_flag=True, help="aiomonitor on 127.0.0.1:6669 (extra: debug).")
@click.option(
    "--builtins-dir",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Another tree of built-in templates.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where the API listens (key addrs.template_worker). [default: 127.0.0.1:60000]",
)
@click.option("--dev", is_flag=True, help="Dev mode: the mock Discord as upstream, open test routes, loopback only.")
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON object per line.")
@click.option(
    "--exit-on-deaf-thread", is_flag=True, help="End the process also when an in-process worker's VM thread is deaf."
)
@click.option("--abort-on-crash-loop", is_flag=True, help="End the master after ten failures of a worker in a row.")
@click.option(
    "--compat-ratelimits",
    is_flag=True,
    default=None,
    help="Rate limits of host calls as the reference has them (key templates.compat_ratelimits).",
)
@configured
def serve(
    config_file: str | None,
    data_dir: str | None,
    listen: str | None,
    log_json: bool | None,
    compat_ratelimits: bool | None,
    **flags: Any,
) -> int:
    """Run templates: master, workers, API and gateway in one command.

    With nothing configured it brings its own PostgreSQL and a mock Discord, and says what to try next.
    """
    worker_type = flags.pop("worker_type")
    if worker_type in ("register", "shell"):
        refuse(worker_type, {"register": "0.4", "shell": "0.5"}[worker_type])
    if worker_type == "migrate":
        from pytw.commands.migrate import run

        return run(config_file, data_dir)
    source = click.get_current_context().get_parameter_source
    options = ServeOptions(
        worker_type=worker_type,
        sized=any(source(name) is ParameterSource.COMMANDLINE for name in SIZES),
        **{**flags, "builtins_dir": flags["builtins_dir"] or "", "mesophyll": flags["mesophyll"] or ""},
    )
    _check(options)
    found = reading(
        config_file,
        data_dir,
        addrs__template_worker=("--listen", listen),
        log__json=("--log-json", log_json),
        templates__compat_ratelimits=("--compat-ratelimits", compat_ratelimits),
    )
    by_hand = options.worker_type == "processpoolworker"
    observe.setup_logging(
        found.config.log.level, json_lines=found.config.log.json, worker=options.worker_id if by_hand else None
    )
    log = logging.getLogger("pytw.cli")
    for warning in found.warnings:
        log.warning("%s", warning)
    for flag, used in (("--process-workers", "threadpool"), ("--thread-workers", "processpool")):
        if options.worker_type == used and getattr(options, flag[2:].replace("-", "_")) is not None:
            log.warning("%s has no effect with --worker-type %s", flag, used)
    if options.worker_type == "threadpool" and options.worker_db == "direct":
        log.warning(
            "--worker-db direct has no effect with --worker-type threadpool: its workers use the master's connections"
        )
    if by_hand:
        from pytw.main.worker import run_by_hand

        return run_by_hand(found.config, options)
    found.config.dev_mode(dev=options.dev)
    from pytw.main.forkserver import PRELOAD, PRELOAD_DIRECT, ForkServer

    # Before the master's own modules are there: every worker would carry them.
    preload = PRELOAD_DIRECT if options.worker_db == "direct" else PRELOAD
    fork_server = None if options.worker_type == "threadpool" else ForkServer.start(preload)
    from pytw.main.master import run as run_master

    try:
        return run_master(found.config, options, fork_server)
    except SchemaOutdated as error:
        same = f" --config {shlex.quote(config_file)}" if config_file else ""
        raise SchemaOutdated(error.detail, hint=f"run `tw migrate{same}`, then this again") from error


def _check(options: ServeOptions) -> None:
    """Refuses flags that contradict each other."""
    by_hand = options.worker_type == "processpoolworker"
    if not by_hand:
        for flag, value in (("--worker-id", options.worker_id), ("--mesophyll", options.mesophyll or None)):
            if value is not None:
                raise click.UsageError(f"{flag} is only for --worker-type processpoolworker")
    else:
        needed = {
            "--worker-id": options.worker_id is not None,
            "--process-workers": options.process_workers is not None,
            "--mesophyll": bool(options.mesophyll),
            "MESOPHYLL_CLIENT_TOKEN in the environment": "MESOPHYLL_CLIENT_TOKEN" in os.environ,
        }
        if missing := [name for name, there in needed.items() if not there]:
            raise click.UsageError(f"--worker-type processpoolworker needs {', '.join(missing)}")
        assert options.worker_id is not None
        assert options.process_workers is not None
        if options.worker_id >= options.process_workers:
            raise click.UsageError(
                f"--worker-id {options.worker_id} has no place among --process-workers {options.process_workers}"
            )
    if options.console and importlib.util.find_spec("aiomonitor") is None:
        raise ConfigError("--use-tokio-console needs aiomonitor", hint="pip install 'pytw[debug]'")
