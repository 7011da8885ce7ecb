"""The HTTP API: events by hand, the template store, health; for people by TCP, for the command line by control socket."""

from pytw.api.context import ApiContext, Principal
from pytw.api.server import ApiServer

__all__ = ["ApiContext", "ApiServer", "Principal"]
