"""Which of the two template stores is meant: what the built-in template's entry returns decides (DESIGN 6)."""

from __future__ import annotations

from pytw.errors import NotReady
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.templates import TemplateStore


def choose(
    plain: TemplateStore, loop: LoopTemplateStore, *, loop_mode: bool | None
) -> TemplateStore | LoopTemplateStore:
    """The store of the mode that the workers are in.

    Args:
        loop_mode: None while no worker has said yet; only a VM can tell.
    Raises: NotReady.
    """
    if loop_mode is None:
        raise NotReady("no worker has told what the built-in template is", hint="try again in some seconds")
    return loop if loop_mode else plain


__all__ = ["choose"]
