"""The Python side of ``ctx.*``: one boundary for all host calls, and a handler file per plugin."""

from pytw.worker.context.boundary import VMContext
from pytw.worker.context.rates import RateLimits

__all__ = ["RateLimits", "VMContext"]
