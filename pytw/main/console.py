"""aiomonitor, the counterpart of the reference's tokio console: a look into the live loop (`--use-tokio-console`).

On loopback only: whoever reaches it runs code in this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

#: Terminal, web page and Python console of the master; a worker process has its own, further up.
PORT = 6669
PORTS_PER_PROCESS = 3


def port_of(worker_id: int) -> int:
    """The first of a worker process's three ports."""
    return PORT + PORTS_PER_PROCESS * (worker_id + 1)


@contextmanager
def console(port: int) -> Iterator[None]:
    """Serves the console of the running loop on *port* and the two above it. 0: none.

    Raises:
        AddressInUse: one of the ports is taken.
    """
    if not port:
        yield
        return
    # A process without a console does not pay for these.
    import aiomonitor

    from pytw.main.claims import bind

    for number in range(port, port + PORTS_PER_PROCESS):
        bind(f"127.0.0.1:{number}", key="use_tokio_console").close()
    # Without the task factory hook, which makes each task forty times as dear.
    with aiomonitor.start_monitor(
        asyncio.get_running_loop(),
        host="127.0.0.1",
        port=port,
        webui_port=port + 1,
        console_port=port + 2,
        hook_task_factory=False,
    ):
        log.info("console on 127.0.0.1:%d, page on http://127.0.0.1:%d", port, port + 1)
        yield
