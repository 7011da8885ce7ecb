"""Which worker and VM thread a tenant lives in, and which tenant a gateway frame is for."""

from pytw.routing._peek import Peek, peek
from pytw.routing.place import vm_thread_of, worker_of

__all__ = ["Peek", "peek", "vm_thread_of", "worker_of"]
