"""Which worker and VM thread a tenant lives in, and which tenant a gateway frame is for."""

from pytw.routing._peek import Peek, peek
from pytw.routing.place import owns_part, vm_thread_of, worker_of

__all__ = ["Peek", "owns_part", "peek", "vm_thread_of", "worker_of"]
