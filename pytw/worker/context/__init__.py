"""The Python side of ``ctx.*``: one boundary for all host calls, and a handler file per plugin."""

from pytw.worker.context.boundary import VMContext

__all__ = ["VMContext"]
