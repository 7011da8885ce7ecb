"""The form of templates in loop mode, and how the tenant's state speaks of them. `looptemplates` keeps them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from pytw import values
from pytw.storage.templates import Template
from pytw.types import ENTRY, LOOP_PAUSED_SCOPE, LOOP_SCOPE, KvRecord, TenantState

LOG = logging.getLogger("pytw.storage.looprecords")

#: Tenant data: for each event, who asked for it.
EVENT_REFS = "builtins_eventrefs"


@dataclass(slots=True)
class StoredTemplate:
    """A template as it lies in the store."""

    record: KvRecord
    value: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.value["name"])

    @property
    def away(self) -> bool:
        """Whether it lies where no loop looks."""
        return LOOP_PAUSED_SCOPE in self.record.scopes

    def texts(self, field: str) -> list[str]:
        found = self.value.get(field)
        return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []

    def shown(self, *, files: bool = False) -> Template:
        value, record = self.value, self.record
        content = value.get("content")
        version, channel = value.get("version"), value.get("error_channel")
        return Template(
            name=self.name,
            version=version if isinstance(version, int) else record.version,
            events=self.texts("events"),
            events_override=self.texts("events_override") if "events_override" in value else None,
            allowed_caps=self.texts("allowed_caps"),
            error_channel=channel if isinstance(channel, str) else None,
            paused=self.away,
            shop_ref=None,
            created_at=record.created_at,
            last_updated_at=record.last_updated_at,
            entry=ENTRY,
            files={path: str(text) for path, text in content.items()} if files and isinstance(content, dict) else None,
            author=value.get("author"),
            message=str(value.get("message") or ""),
        )


def stored(record: KvRecord) -> StoredTemplate | None:
    """None for what is no template; whoever wrote it, it stops no other."""
    try:
        value = values.unpack(record.value)
    except ValueError as error:
        LOG.error("record %s of scope %s is no value: %s", record.id, LOOP_SCOPE, error)
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        LOG.warning("record %r of scope %s is no template", record.key, LOOP_SCOPE)
        return None
    return StoredTemplate(record, value)


def asked(state: TenantState, key: str, wanted: set[str]) -> tuple[frozenset[str], dict[str, Any]]:
    """The tenant's events and who asked for them, when the template with *key* asks for *wanted*.

    An event without a reference is somebody else's: it stays when templates go.
    """
    events = set(state.events)
    before = state.data.get(EVENT_REFS)
    refs: dict[str, Any] = dict(before) if isinstance(before, dict) else {}
    for event, askers in list(refs.items()):
        if isinstance(askers, dict) and key in askers and event not in wanted:
            refs[event] = {asker: yes for asker, yes in askers.items() if asker != key}
            if not refs[event]:
                del refs[event]
                events.discard(event)
    for event in wanted:
        askers = refs.get(event)
        if event not in events or askers is not None:
            refs[event] = {**(askers if isinstance(askers, dict) else {}), key: True}
            events.add(event)
    return frozenset(events), refs


__all__ = ["EVENT_REFS", "StoredTemplate", "asked", "stored"]
