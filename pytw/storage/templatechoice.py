"""Which of the two template stores is meant: what the built-in template's entry returns decides (DESIGN 6)."""

from __future__ import annotations

from pytw.errors import NotReady, RequestError
from pytw.storage.looptemplates import NO_VERSIONS, LoopTemplateStore
from pytw.storage.stores import Stores
from pytw.storage.templates import TemplateStore
from pytw.storage.templateversions import VersionStore


def choose(stores: Stores, *, loop_mode: bool | None) -> TemplateStore | LoopTemplateStore:
    """The store of the mode that the workers are in.

    Args:
        loop_mode: None while no worker has said yet; only a VM can tell.
    Raises: NotReady.
    """
    if loop_mode is None:
        raise NotReady("no worker has told what the built-in template is", hint="try again in some seconds")
    return stores.loop_templates if loop_mode else stores.templates


def choose_versions(stores: Stores, *, loop_mode: bool | None) -> VersionStore:
    """The versions of the templates that `choose` gives.

    Raises: NotReady. RequestError: in loop mode there are none.
    """
    if not choose(stores, loop_mode=loop_mode).keeps_versions:
        raise RequestError(NO_VERSIONS)
    return stores.versions


__all__ = ["choose", "choose_versions"]
