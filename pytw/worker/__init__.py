"""Runs tenants' templates: from an event, by gate, load and VM thread, to its outcome; and the workers' common face."""

from pytw.worker.like import Poolable, WorkerLike

__all__ = ["Poolable", "WorkerLike"]
