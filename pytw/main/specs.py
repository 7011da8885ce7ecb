"""What configuration and flags tell every worker alike, whoever starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytw.main.options import ServeOptions
from pytw.worker.spec import WorkerSpec

if TYPE_CHECKING:
    from pytw.config import Config


def common_spec(config: Config, options: ServeOptions) -> WorkerSpec:
    """A spec without a place in the pool; whoever starts the worker adds that with `msgspec.structs.replace`."""
    return WorkerSpec(
        vm_threads=options.threads_worker,
        database_connections=options.max_db_connections,
        limits=config.limits,
        links=config.links,
        http_domains=tuple(config.templates.http_domains),
        compat_ratelimits=config.templates.compat_ratelimits,
        builtins_dir=options.builtins_dir,
        log_level=config.log.level,
        log_json=config.log.json,
        worker_debug=options.worker_debug,
    )


__all__ = ["common_spec"]
