"""Templates as scripts may change them: never more than the script itself holds, and nothing of which it holds less.

What a script writes is decided over what is stored, and is stored only if that has not changed meanwhile; otherwise it is
decided anew. Templates that were given secrets are changed by themselves and by operators only: whoever writes a template's
code reads its secrets.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytw.errors import Conflict, Forbidden, NotFound
from pytw.limits import SCRIPT_TEMPLATE_TRIES_MAX, Limits
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.secrets import SecretStore
from pytw.storage.templatechecks import checked_name
from pytw.storage.templates import Guard, Template, TemplateStore
from pytw.types import EVERY_CAPABILITY, Draft, Id, ScriptCaller, TemplateInfo

if TYPE_CHECKING:
    from pytw.storage.pool import Database

CHANGED_AT = "SELECT last_updated_at FROM templates WHERE owner_id = $1 AND owner_type = $2 AND name = $3"

#: Inside the store the name ``list`` is a method.
Infos = list[TemplateInfo]


def info(template: Template, *, content: bool = False) -> TemplateInfo:
    """A template as scripts see it."""
    return TemplateInfo(
        name=template.name,
        events=list(template.listens),
        error_channel=template.error_channel,
        allowed_caps=list(template.allowed_caps),
        paused=template.paused,
        version=template.version,
        created_at=template.created_at,
        last_updated_at=template.last_updated_at,
        content=dict(template.files or {}) if content else None,
    )


def require_rights(caller: ScriptCaller, old: Template | None, name: str, *, has_secrets: bool) -> None:
    """Raises: Forbidden: the template is not the caller's to change."""
    if has_secrets and name != caller.template:
        raise Forbidden(f"template {name} has secrets: only itself and an operator may change it")
    if old is not None and (more := _missing(caller, old.allowed_caps)):
        raise Forbidden(f"template {name} holds {more}, which this one does not: it cannot change it")


def decided(caller: ScriptCaller, draft: Draft, old: Template | None, *, new: bool) -> Draft:
    """The draft with all that the script left out: as it is, or for a new template nothing.

    Raises: Conflict, NotFound: there is one already, or none. Forbidden: it would hold more than the caller.
    """
    if (old is not None) is new:
        if new:
            raise Conflict(f"there is a template {draft.name} already; update_template changes it")
        raise NotFound(f"there is no template {draft.name}; create_template makes it")
    caps = draft.allowed_caps if draft.allowed_caps is not None else old.allowed_caps if old is not None else []
    if missing := _missing(caller, caps):
        raise Forbidden(f"Missing capability: {missing}. A template can only be given what this one holds itself")
    draft = replace(draft, allowed_caps=list(caps), author=f"template {caller.template}")
    if old is None:
        return draft
    same_events = old.events_override is None and sorted(draft.events_override or ()) == sorted(old.events)
    if draft.events_override is None or same_events:
        draft = replace(draft, events_override=old.events_override)
    if draft.error_channel is None:
        draft = replace(draft, error_channel=old.error_channel)
    if not draft.files:
        if old.shop_ref is not None:
            return replace(draft, shop=old.shop_ref)
        return replace(draft, files=dict(old.files or {}), entry=old.entry, events=old.events)
    return draft


def _missing(caller: ScriptCaller, caps: Collection[str]) -> str | None:
    """The first of *caps* that the caller does not hold."""
    held = set(caller.held)
    return None if EVERY_CAPABILITY in held else next((cap for cap in caps if cap not in held), None)


class ScriptTemplates:
    """Satisfies the ``template_*`` operations of `WorkerDb`. Methods raise what the template stores raise, besides their own."""

    def __init__(self, db: Database, secrets: SecretStore, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()
        self._secrets = secrets

    def _store(self, db: Database, *, loop: bool) -> TemplateStore | LoopTemplateStore:
        return LoopTemplateStore(db, self._limits) if loop else TemplateStore(db, self._limits)

    async def template_list(self, tenant: int, loop: bool) -> Infos:
        """By name, without content."""
        return [info(template) for template in await self._store(self._db, loop=loop).list(Id.of(tenant))]

    async def template_get(self, tenant: int, name: str, loop: bool) -> TemplateInfo | None:
        found = await self._find(Id.of(tenant), checked_name(name), loop=loop)
        return None if found is None else info(found, content=True)

    async def template_save(self, tenant: int, caller: ScriptCaller, draft: Draft, new: bool) -> None:
        """Make or change a template for a script; what the draft leaves out stays as it is.

        Raises: Forbidden, NotFound, Conflict: see `require_rights` and `decided`.
        """
        owner, name = Id.of(tenant), checked_name(draft.name)

        async def change(old: Template | None, guard: Guard) -> None:
            wanted = decided(caller, draft, old, new=new)
            await self._store(self._db, loop=caller.loop).put(owner, wanted, guard)

        await self._changing(owner, name, caller, change)

    async def template_delete(self, tenant: int, caller: ScriptCaller, name: str) -> None:
        """Take a template away for a script, and its own secrets with it. Raises: Forbidden, NotFound."""
        owner = Id.of(tenant)

        async def change(_old: Template | None, guard: Guard) -> None:
            await self._store(self._db, loop=caller.loop).remove(owner, name, guard)

        await self._changing(owner, checked_name(name), caller, change)
        await self._secrets.remove_all(owner, name)

    async def _changing(
        self,
        owner: Id,
        name: str,
        caller: ScriptCaller,
        change: Callable[[Template | None, Guard], Awaitable[None]],
    ) -> None:
        for _ in range(SCRIPT_TEMPLATE_TRIES_MAX):
            old = await self._find(owner, name, loop=caller.loop)
            require_rights(caller, old, name, has_secrets=await self._secrets.has_any(owner, name))
            with suppress(_Changed):
                await change(old, self._guard(owner, name, old, loop=caller.loop))
                return
        raise Conflict(f"template {name} is being changed by others", hint="try again")

    def _guard(self, owner: Id, name: str, old: Template | None, *, loop: bool) -> Guard:
        """Raises, inside the transaction of the change, if what it was decided over is not what is stored."""
        before = None if old is None else old.last_updated_at

        async def guard(inside: Any) -> None:
            if loop:
                found = await self._find(owner, name, loop=True, db=inside)
                now = None if found is None else found.last_updated_at
            else:
                now = await inside.fetchval(CHANGED_AT, owner.owner_id, owner.owner_type.value, name)
            if now != before:
                raise _Changed

        return guard

    async def _find(self, owner: Id, name: str, *, loop: bool, db: Database | None = None) -> Template | None:
        try:
            return await self._store(db or self._db, loop=loop).get(owner, name)
        except NotFound:
            return None


class _Changed(Exception):
    """What a change was decided over is not what is stored any more."""


__all__ = ["ScriptTemplates", "decided", "info", "require_rights"]
