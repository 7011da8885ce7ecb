"""Tenants' own settings, and the gate that follows from them.

A tenant listens for an event if its state or one of its deployed, unpaused templates names it. A tenant without a row
has the reference's default set. Source: reference `WorkerState` (spec/http-schema-systems.md 5.8).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson

from pytw.errors import Conflict, LimitExceeded, RequestError
from pytw.eventnames import DEFAULT_EVENTS
from pytw.limits import TENANT_DATA_BYTES_MAX, TENANT_EVENT_BYTES_MAX, TENANT_EVENTS_MAX
from pytw.storage.statemerge import merge
from pytw.types import Id, OwnerType, TenantGate, TenantState

if TYPE_CHECKING:
    import asyncpg

    from pytw.storage.pool import Database

# A row for each tenant's state and for each template that runs; of_state tells them apart.
_PARTS = """
SELECT owner_type, owner_id, events, banned, true AS of_state FROM tenant_state WHERE {0}
UNION ALL
SELECT owner_type, owner_id, coalesce(events_override, events), false, false FROM templates
WHERE (deployed_version IS NOT NULL OR shop_ref IS NOT NULL) AND NOT paused AND {0}"""

GATES = _PARTS.format("(owner_id::bigint >> 22) % $2 = $1")
GATE = _PARTS.format("owner_id = $1 AND owner_type = $2")

STATE = "SELECT events, data::text AS data, banned, revision FROM tenant_state WHERE owner_id = $1 AND owner_type = $2"

SET_STATE = """
INSERT INTO tenant_state AS old (owner_id, owner_type, events, data) VALUES ($1, $2, $3, $4::text::jsonb)
ON CONFLICT (owner_id, owner_type) DO UPDATE SET
    events = excluded.events, data = excluded.data, revision = old.revision + 1, last_updated_at = now()
WHERE $5::bigint IS NULL OR old.revision = $5"""

# A tenant without a row gets one, so that two first writers wait for each other, too.
MAKE_STATE = """
INSERT INTO tenant_state (owner_id, owner_type, events, revision) VALUES ($1, $2, $3, 0)
ON CONFLICT (owner_id, owner_type) DO NOTHING"""
LOCK_STATE = STATE + " FOR UPDATE"

SET_BANNED = """
INSERT INTO tenant_state AS old (owner_id, owner_type, events, banned) VALUES ($1, $2, $3, $4)
ON CONFLICT (owner_id, owner_type) DO UPDATE SET
    banned = excluded.banned, revision = old.revision + 1, last_updated_at = now()"""


def checked_events(events: Iterable[str]) -> list[str]:
    """Sorted, each once.

    Raises:
        LimitExceeded: too many.
        RequestError: a name that is empty, too long or not text.
    """
    found = sorted(set(events))
    if len(found) > TENANT_EVENTS_MAX:
        raise LimitExceeded(f"too many events: {len(found)}", hint=f"{TENANT_EVENTS_MAX} at most")
    for name in found:
        if not name or not name.isprintable() or len(name.encode()) > TENANT_EVENT_BYTES_MAX:
            raise RequestError(
                f"not an event name: {name[:40]!r}", hint=f"1 to {TENANT_EVENT_BYTES_MAX} printable bytes"
            )
    return found


def checked_state(state: TenantState) -> tuple[list[str], str]:
    """Its events, sorted, and its data as JSON.

    Raises:
        LimitExceeded: more than `TENANT_EVENTS_MAX` events or `TENANT_DATA_BYTES_MAX` bytes of data.
        RequestError: data is not a JSON object, or no event name.
    """
    events = checked_events(state.events)
    try:
        data = orjson.dumps(dict(state.data))
    except (TypeError, ValueError) as error:
        raise RequestError(f"tenant data is not a JSON object: {error}") from None
    if len(data) > TENANT_DATA_BYTES_MAX:
        raise LimitExceeded("tenant data too long", hint=f"{TENANT_DATA_BYTES_MAX} bytes of JSON at most")
    return events, data.decode()


def _state(row: asyncpg.Record) -> TenantState:
    return TenantState(frozenset(row["events"]), orjson.loads(row["data"]), row["banned"], row["revision"])


class TenantStore:
    """State of all tenants. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]:
        """Of every tenant of that worker that has a state or a template."""
        parts: dict[Id, tuple[set[str], bool, bool]] = {}
        for row in await self._db.fetch(GATES, worker_id, workers):
            owner = Id(OwnerType(row["owner_type"]), int(row["owner_id"]))
            events, banned, has_state = parts.setdefault(owner, (set(), False, False))
            events.update(row["events"])
            parts[owner] = (events, banned or row["banned"], has_state or row["of_state"])
        return [
            TenantGate(owner.key, frozenset(events if has_state else events | DEFAULT_EVENTS), banned)
            for owner, (events, banned, has_state) in parts.items()
        ]

    async def gate(self, tenant: int) -> TenantGate:
        """Of one tenant; unknown ones have the default set."""
        owner = Id.of(tenant)
        rows = await self._db.fetch(GATE, owner.owner_id, owner.owner_type.value)
        events = {name for row in rows for name in row["events"]}
        if not any(row["of_state"] for row in rows):
            events |= DEFAULT_EVENTS
        return TenantGate(tenant, frozenset(events), any(row["banned"] for row in rows))

    async def tenant_state(self, tenant: int) -> TenantState:
        """The tenant's settings; unknown tenants have the default events, no data and revision 0."""
        owner = Id.of(tenant)
        row = await self._db.fetchrow(STATE, owner.owner_id, owner.owner_type.value)
        if row is None:
            return TenantState(DEFAULT_EVENTS, {})
        return _state(row)

    async def set_tenant_state(self, tenant: int, state: TenantState, *, if_revision: int | None = None) -> None:
        """Replace events and data. Never the ban: that is not the tenant's to lift; see `set_banned`.

        Args:
            if_revision: write only if the row still has this revision.
        Raises:
            LimitExceeded: more than `TENANT_EVENTS_MAX` events or `TENANT_DATA_BYTES_MAX` bytes of data.
            RequestError: data is not a JSON object.
            Conflict: the row has another revision.
        """
        owner = Id.of(tenant)
        arguments = (owner.owner_id, owner.owner_type.value, *checked_state(state), if_revision)
        if not await self._db.execute(SET_STATE, *arguments):
            raise Conflict("the tenant's state has been changed meanwhile", hint="read it again")

    async def update_tenant_state(self, tenant: int, base: TenantState | None, wanted: TenantState) -> TenantState:
        """Lay what *wanted* changes of *base* over the state of now: of two writers neither loses anything.

        Args:
            base: what the writer has read; None replaces events and data. Bans are neither read nor written here.
        Returns: the state that is stored.
        Raises:
            LimitExceeded, RequestError: as `set_tenant_state`, of what comes out.
        """
        checked_state(wanted)
        key = (Id.of(tenant).owner_id, Id.of(tenant).owner_type.value)
        async with self._db.transaction() as connection:
            await connection.execute(MAKE_STATE, *key, sorted(DEFAULT_EVENTS))
            row = await connection.fetchrow(LOCK_STATE, *key)
            assert row is not None
            now = _state(row)
            merged = wanted if base is None or base.revision == now.revision else merge(base, wanted, now)
            await connection.execute(SET_STATE, *key, *checked_state(merged), None)
        return TenantState(merged.events, merged.data, now.banned, now.revision + 1)

    async def set_banned(self, tenant: int, banned: bool) -> None:
        """Ban a tenant, or lift its ban; its events and data stay."""
        owner = Id.of(tenant)
        await self._db.execute(SET_BANNED, owner.owner_id, owner.owner_type.value, sorted(DEFAULT_EVENTS), banned)


__all__ = ["TenantStore", "checked_events", "checked_state"]
