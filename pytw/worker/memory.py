"""`MemoryDb`: a worker's database that lasts as long as its process, for `tw run` and for tests."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

from pytw.errors import Conflict, NotFound
from pytw.eventnames import DEFAULT_EVENTS
from pytw.routing import worker_of
from pytw.storage.globalkv import checked_entry, global_place
from pytw.storage.objectkeys import checked_object_data, checked_object_key, checked_object_prefix, checked_url_life
from pytw.storage.statemerge import merge
from pytw.storage.tenants import checked_events, checked_state
from pytw.types import (
    GlobalEntry,
    GlobalPage,
    GlobalRecord,
    Id,
    ObjectInfo,
    TemplateSource,
    TenantGate,
    TenantState,
)
from pytw.worker.memorykv import MemoryKv, like_expression
from pytw.worker.memorytemplates import MemoryTemplates


class MemoryDb(MemoryTemplates, MemoryKv):
    """Satisfies `workerdb.WorkerDb`, without bounds on what a tenant keeps. A claim of a key lasts as long as the process."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, TenantState] = {}
        #: By scope, key and version.
        self.published: dict[tuple[str, str, int], GlobalRecord] = {}
        self.objects: dict[tuple[int, str], tuple[bytes, datetime]] = {}
        #: Scope, key, version and who has bought it.
        self.bought: set[tuple[str, str, int, int]] = set()

    def put(self, tenant: int, *templates: TemplateSource) -> None:
        """Replace the tenant's templates."""
        self.templates[tenant] = list(templates)

    async def _work(self, operation: str, tenant: int) -> None:
        await asyncio.sleep(0)

    def _gate(self, tenant: int) -> TenantGate:
        state = self.states.get(tenant, TenantState(DEFAULT_EVENTS, {}))
        events = state.events.union(*(t.events for t in self.templates.get(tenant, ()) if not t.paused))
        return TenantGate(tenant, events, state.banned)

    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
        await self._work("gates", -1)
        known = self.templates.keys() | self.states.keys()
        return [self._gate(tenant) for tenant in sorted(known) if worker_of(tenant, workers) == worker_id]

    async def gate(self, tenant: int) -> TenantGate:
        await self._work("gate", tenant)
        return self._gate(tenant)

    async def tenant_state(self, tenant: int) -> TenantState:
        await self._work("tenant_state", tenant)
        return self.states.get(tenant, TenantState(DEFAULT_EVENTS, {}))

    async def set_tenant_state(self, tenant: int, state: TenantState) -> None:
        await self._work("set_tenant_state", tenant)
        checked_events(state.events)
        self._write_state(tenant, state)

    def _write_state(self, tenant: int, state: TenantState) -> TenantState:
        old = self.states.get(tenant, TenantState(DEFAULT_EVENTS, {}))
        self.states[tenant] = replace(state, banned=old.banned, revision=old.revision + 1)
        return self.states[tenant]

    async def update_tenant_state(self, tenant: int, base: TenantState | None, wanted: TenantState) -> TenantState:
        await self._work("update_tenant_state", tenant)
        now = self.states.get(tenant, TenantState(DEFAULT_EVENTS, {}))
        merged = wanted if base is None or base.revision == now.revision else merge(base, wanted, now)
        for state in (wanted, merged):
            checked_state(state)
        return self._write_state(tenant, merged)

    async def global_find(
        self, tenant: int, scope: str, pattern: str, *, limit: int, after: str | None = None
    ) -> GlobalPage:
        await self._work("global_find", tenant)
        like, (version, key) = like_expression(pattern), global_place(after)
        found = [r for r in self.published.values() if r.scope == scope and like.fullmatch(r.key)]
        approved = sorted((r for r in found if r.review_state == "approved"), key=lambda r: (r.key, r.version))
        behind = [replace(r, long=None, data=None) for r in approved if (r.key, r.version) > (key, version)]
        return GlobalPage(behind[:limit], behind[limit - 1].cursor if len(behind) > limit else None)

    async def global_get(self, tenant: int, scope: str, key: str, version: int) -> GlobalRecord | None:
        await self._work("global_get", tenant)
        found = self.published.get((scope, key, version))
        if found is None or found.review_state != "approved":
            return None
        bought = found.price is None or (scope, key, version, tenant) in self.bought
        return found if bought else replace(found, data=None)

    async def global_create(self, tenant: int, entry: GlobalEntry) -> None:
        await self._work("global_create", tenant)
        checked_entry(entry)
        place, owner, now = (entry.scope, entry.key, entry.version), Id.of(tenant), datetime.now(UTC)
        if place in self.published:
            raise Conflict(f"version {entry.version} of {entry.key} exists already")
        self.published[place] = GlobalRecord(
            key=entry.key,
            version=entry.version,
            scope=entry.scope,
            owner_type=owner.owner_type.value,
            owner_id=owner.owner_id,
            short=entry.short,
            long=entry.long,
            public_metadata=entry.public_metadata,
            public_data=entry.public_data,
            price=None,
            review_state="pending",
            created_at=now,
            last_updated_at=now,
            data=entry.data,
        )

    async def global_delete(self, tenant: int, scope: str, key: str, version: int) -> None:
        await self._work("global_delete", tenant)
        found, owner = self.published.get((scope, key, version)), Id.of(tenant)
        if found is None or (found.owner_type, found.owner_id) != (owner.owner_type.value, owner.owner_id):
            raise NotFound(f"you have no version {version} of {key[:80]}")
        del self.published[scope, key, version]

    async def object_list(self, tenant: int, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        await self._work("object_list", tenant)
        checked_object_prefix(prefix)
        mine = (key for owner, key in self.objects if owner == tenant)
        found = sorted(key for key in mine if key.startswith(prefix) and key > (after or ""))
        return [self._info(tenant, key) for key in found[:limit]]

    def _info(self, tenant: int, key: str) -> ObjectInfo:
        data, at = self.objects[tenant, key]
        return ObjectInfo(key, len(data), at, f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    async def object_exists(self, tenant: int, key: str) -> bool:
        await self._work("object_exists", tenant)
        return (tenant, checked_object_key(key)) in self.objects

    async def object_get(self, tenant: int, key: str) -> bytes:
        await self._work("object_get", tenant)
        if (tenant, checked_object_key(key)) not in self.objects:
            raise NotFound(f"there is no object {key[:80]!r}")
        return self.objects[tenant, key][0]

    async def object_put(self, tenant: int, key: str, data: bytes) -> None:
        await self._work("object_put", tenant)
        self.objects[tenant, checked_object_key(key)] = (checked_object_data(data), datetime.now(UTC))

    async def object_delete(self, tenant: int, key: str) -> None:
        await self._work("object_delete", tenant)
        self.objects.pop((tenant, checked_object_key(key)), None)

    async def object_url(self, tenant: int, key: str, expires_s: int) -> str:
        """An address that looks like one; nobody serves it."""
        await self._work("object_url", tenant)
        checked_url_life(expires_s)
        owner = Id.of(tenant)
        place = f"{owner.owner_type.value}s/{owner.owner_id}/{quote(checked_object_key(key))}"
        return f"memory:///objects/{place}?expires={int(datetime.now(UTC).timestamp()) + expires_s}"
