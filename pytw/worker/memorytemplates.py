"""`MemoryTemplates`: the templates and secrets of `MemoryDb`. A loop's templates are records of its key-value store."""

from __future__ import annotations

from datetime import UTC, datetime

from pytw.errors import NotFound
from pytw.storage.scripttemplates import decided, info, require_rights
from pytw.storage.templates import Template
from pytw.types import ENTRY, EVERY_CAPABILITY, Draft, ScriptCaller, TemplateInfo, TemplateSource

#: Nobody has noted when a template was made.
_SINCE = datetime.now(UTC)


def _shown(source: TemplateSource) -> Template:
    events, caps = sorted(source.events), list(source.allowed_caps)
    files = {path: text.decode() for path, text in source.files.items()}
    version = source.version or None
    return Template(
        source.name, version, events, None, caps, None, source.paused, None, _SINCE, _SINCE, source.entry, files
    )


class MemoryTemplates:
    """Part of `MemoryDb`."""

    def __init__(self) -> None:
        super().__init__()
        self.templates: dict[int, list[TemplateSource]] = {}
        #: By tenant, template and name.
        self.secrets: dict[tuple[int, str, str], str] = {}

    async def _work(self, operation: str, tenant: int) -> None:
        """What each operation begins with."""

    async def program(self, tenant: int) -> list[TemplateSource]:
        await self._work("program", tenant)
        return list(self.templates.get(tenant, ()))

    async def secret_get(self, tenant: int, template: str, name: str) -> str | None:
        await self._work("secret_get", tenant)
        return self.secrets.get((tenant, template, name))

    def _find(self, tenant: int, name: str) -> Template | None:
        return next((_shown(one) for one in self.templates.get(tenant, ()) if one.name == name), None)

    def _require(self, tenant: int, caller: ScriptCaller, name: str) -> Template | None:
        old = self._find(tenant, name)
        has_secrets = any(key[:2] == (tenant, name) for key in self.secrets)
        require_rights(caller, old, name, has_secrets=has_secrets)
        return old

    async def template_list(self, tenant: int, loop: bool) -> list[TemplateInfo]:
        await self._work("template_list", tenant)
        return sorted((info(_shown(one)) for one in self.templates.get(tenant, ())), key=lambda one: one.name)

    async def template_get(self, tenant: int, name: str, loop: bool) -> TemplateInfo | None:
        await self._work("template_get", tenant)
        found = self._find(tenant, name)
        return None if found is None else info(found, content=True)

    async def template_save(self, tenant: int, caller: ScriptCaller, draft: Draft, new: bool) -> None:
        await self._work("template_save", tenant)
        old = self._require(tenant, caller, draft.name)
        wanted = decided(caller, draft, old, new=new)
        kept = old is not None and old.paused
        made = TemplateSource(
            name=wanted.name,
            files={path: text.encode() for path, text in wanted.files.items()},
            events=frozenset((wanted.events if wanted.events_override is None else wanted.events_override) or ()),
            entry=wanted.entry or ENTRY,
            allowed_caps=[EVERY_CAPABILITY] if wanted.allowed_caps is None else list(wanted.allowed_caps),
            paused=kept if wanted.paused is None else wanted.paused,
            version=1 + ((old.version or 0) if old is not None else 0),
        )
        others = [one for one in self.templates.get(tenant, ()) if one.name != made.name]
        self.templates[tenant] = [*others, made]

    async def template_delete(self, tenant: int, caller: ScriptCaller, name: str) -> None:
        await self._work("template_delete", tenant)
        if self._require(tenant, caller, name) is None:
            raise NotFound(f"there is no template {name}")
        self.templates[tenant] = [one for one in self.templates[tenant] if one.name != name]
        self.secrets = {key: value for key, value in self.secrets.items() if key[:2] != (tenant, name)}


__all__ = ["MemoryTemplates"]
