"""Which of the two template stores is meant: what the built-in template's entry returns decides (DESIGN 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pytw.errors import NotReady
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.templates import Template, TemplateStore
from pytw.types import ENTRY, EVERY_CAPABILITY, Id

#: Inside the class the name ``list`` is a method.
Templates = list[Template]


class TemplateChoice:
    """The store of the mode that the workers are in. Methods raise what the stores raise, and NotReady.

    Args:
        loop_mode: None while no worker has said yet; only a VM can tell.
    """

    def __init__(self, plain: TemplateStore, loop: LoopTemplateStore, loop_mode: Callable[[], bool | None]) -> None:
        self._plain = plain
        self._loop = loop
        self._loop_mode = loop_mode

    def _store(self) -> TemplateStore | LoopTemplateStore:
        mode = self._loop_mode()
        if mode is None:
            raise NotReady("no worker has told what the built-in template is", hint="try again in some seconds")
        return self._loop if mode else self._plain

    async def put(
        self,
        owner: Id,
        name: str,
        files: Mapping[str, str],
        entry: str = ENTRY,
        events: Sequence[str] | None = None,
        *,
        events_override: Sequence[str] | None = None,
        allowed_caps: Sequence[str] = (EVERY_CAPABILITY,),
        error_channel: str | None = None,
        author: str | None = None,
        message: str = "",
        paused: bool | None = None,
    ) -> int:
        return await self._store().put(
            owner,
            name,
            files,
            entry,
            events,
            events_override=events_override,
            allowed_caps=allowed_caps,
            error_channel=error_channel,
            author=author,
            message=message,
            paused=paused,
        )

    async def list(self, owner: Id) -> Templates:
        return await self._store().list(owner)

    async def get(self, owner: Id, name: str) -> Template:
        return await self._store().get(owner, name)

    async def remove(self, owner: Id, name: str) -> None:
        await self._store().remove(owner, name)

    async def set_paused(self, owner: Id, name: str, paused: bool) -> None:
        await self._store().set_paused(owner, name, paused)


__all__ = ["TemplateChoice"]
