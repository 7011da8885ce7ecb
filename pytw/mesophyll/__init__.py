"""Mesophyll, the tissue between master and workers: the link over which they ask each other for things.

(The name is the reference's, after the inner tissue of a leaf.) `MesophyllServer` is the master's side with one `Link` for
each worker, `MesophyllClient` the worker's. `services` answers in the master what `proxies` ask in the worker.
"""

from typing import TYPE_CHECKING, Any

from pytw.mesophyll.channel import Call, Handler
from pytw.mesophyll.client import MesophyllClient
from pytw.mesophyll.peer import answering
from pytw.mesophyll.proxies import CursorClient, ForwardClient, IdentifyClient, db_client
from pytw.mesophyll.records import Kind, pack_event, unpack_event
from pytw.mesophyll.tokens import new_token

if TYPE_CHECKING:
    from pytw.mesophyll.server import Link, LinkHandler, MesophyllServer
    from pytw.mesophyll.services import Services

#: The master's side, imported at first use: it brings an HTTP server, 2 MB that no worker needs.
_MASTERS = {"Link": "server", "LinkHandler": "server", "MesophyllServer": "server", "Services": "services"}


def __getattr__(name: str) -> Any:
    if name in _MASTERS:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MASTERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Call",
    "CursorClient",
    "ForwardClient",
    "Handler",
    "IdentifyClient",
    "Kind",
    "Link",
    "LinkHandler",
    "MesophyllClient",
    "MesophyllServer",
    "Services",
    "answering",
    "db_client",
    "new_token",
    "pack_event",
    "unpack_event",
]
