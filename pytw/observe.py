"""What pytw tells of itself: log lines on stderr and metrics.

A line reads `[Worker 0] (target) LEVEL - message`, without the first part in the master, or is one JSON object. Lines of a
dispatch name their tenant and request: pass `extra={"tenant": ..., "request": ...}`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from pytw.types import USER_BIT

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
#: The reference's spelling.
_LEVEL_NAMES = {"WARNING": "WARN", "CRITICAL": "ERROR"}
_FIELDS = ("tenant", "request", "template", "event")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if code not in (0x09, 0x0A)}


def tenant_name(tenant: int | str) -> str:
    """A tenant as people read it: the guild's id, or `user:` and the user's."""
    if isinstance(tenant, int) and tenant & USER_BIT:
        return f"user:{tenant ^ USER_BIT}"
    return str(tenant)


class _Line(logging.Formatter):
    """Text. Control characters of a message are escaped and its further lines indented: no message can forge a line."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._prefix = "" if worker is None else f"[Worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        level = _LEVEL_NAMES.get(record.levelname, record.levelname)
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        text = (text + fields).translate(_ESCAPES).replace("\n", "\n    ")
        return f"{self._prefix}({record.name}) {level} - {text}"


class _Json(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "timestamp": f"{moment}.{int(record.msecs):03d}Z",
            "level": _LEVEL_NAMES.get(record.levelname, record.levelname),
            "target": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        line |= _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: record.__dict__[name] for name in _FIELDS if record.__dict__.get(name) is not None}
    if "tenant" in found:
        found["tenant"] = tenant_name(found["tenant"])
    return found


def setup_logging(
    level: str = "info", *, json_lines: bool = False, worker: int | None = None, stream: TextIO | None = None
) -> None:
    """Send every log line of this process to stderr, in place of what was set up before.

    Args:
        level: debug, info, warning or error (the key `log.level`).
        worker: this process's place in the pool; None in the master. In-process workers share the master's lines.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(worker) if json_lines else _Line(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level.lower()])
    # One line per request or per selector is for those who ask for it.
    for chatty in ("aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


class Metrics:
    """A process's own metrics. Rooms declare theirs once and keep the child they count on; asking again gives the same.

    prometheus-client is imported with the first metric, so that the command line does not pay for it.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._registry: CollectorRegistry | None = None

    @property
    def registry(self) -> CollectorRegistry:
        if self._registry is None:
            from prometheus_client import CollectorRegistry, disable_created_metrics

            disable_created_metrics()  # type: ignore[no-untyped-call]
            self._registry = CollectorRegistry(auto_describe=True)
        return self._registry

    def _make(self, kind: str, name: str, help_text: str, labels: tuple[str, ...], **options: Any) -> Any:
        if name not in self._made:
            import prometheus_client

            make = getattr(prometheus_client, kind)
            self._made[name] = make(name, help_text, labels, registry=self.registry, **options)
        return self._made[name]

    def counter(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Counter:
        return self._make("Counter", name, help_text, labels)  # type: ignore[no-any-return]

    def gauge(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return self._make("Gauge", name, help_text, labels)  # type: ignore[no-any-return]

    def histogram(
        self, name: str, help_text: str, labels: tuple[str, ...] = (), *, buckets: tuple[float, ...]
    ) -> Histogram:
        return self._make("Histogram", name, help_text, labels, buckets=buckets)  # type: ignore[no-any-return]

    def exposition(self) -> str:
        """The metrics as Prometheus text. Rendering 2,000 series takes 23 ms: call it off the loop."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry).decode()


#: This process's metrics.
metrics = Metrics()
