"""Mesophyll, the tissue between master and workers: the link over which they ask each other for things.

(The name is the reference's, after the inner tissue of a leaf.) `MesophyllServer` is the master's side with one `Link` for
each worker, `MesophyllClient` the worker's. `services` answers in the master what `proxies` ask in the worker.
"""

from pytw.mesophyll.channel import Call, Handler
from pytw.mesophyll.client import MesophyllClient
from pytw.mesophyll.peer import answering
from pytw.mesophyll.proxies import CursorClient, DbClient, ForwardClient, IdentifyClient
from pytw.mesophyll.records import Kind, Record, pack_event, unpack_event
from pytw.mesophyll.server import Link, LinkHandler, MesophyllServer
from pytw.mesophyll.services import Services
from pytw.mesophyll.tokens import new_token

__all__ = [
    "Call",
    "CursorClient",
    "DbClient",
    "ForwardClient",
    "Handler",
    "IdentifyClient",
    "Kind",
    "Link",
    "LinkHandler",
    "MesophyllClient",
    "MesophyllServer",
    "Record",
    "Services",
    "answering",
    "new_token",
    "pack_event",
    "unpack_event",
]
