"""Templates in loop mode: records of the key-value store that the built-in template reads and dispatches itself.

The form is the reference's (spec/http-schema-systems.md 5.6): a record of scope ``templates`` whose value is
``{type = "custom", name, content = <lazy string map>, allowed_caps, paused, language = "luau"}``; what the API shows besides
stands in fields that a loop does not look at. With each change the tenant's state follows: ``builtins_havetemplates``, which
tells a loop to look for templates at all, and the events, each with the templates that asked for it in
``builtins_eventrefs``.

The reference's loop reads ``paused`` and runs the template nonetheless, so a paused one is kept in another scope, where no
loop looks. The key is the template's name, for the loop's results are known by it. Records that a loop wrote itself have keys
of its own; they are found by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pytw import values
from pytw.errors import Conflict, LimitExceeded, NotFound, RequestError
from pytw.eventnames import EVERY_EVENT
from pytw.limits import KV_FIND_BYTES_MAX, KV_FIND_ROWS_MAX, KV_VALUE_BYTES_MAX, Limits
from pytw.storage.kv import KvStore, to_row
from pytw.storage.kvrules import LOCK_ROOM
from pytw.storage.looprecords import EVENT_REFS, StoredTemplate, asked, stored
from pytw.storage.templatechecks import checked_files, checked_message, checked_name, checked_settings
from pytw.storage.templates import Guard, Template, unguarded
from pytw.storage.templatewrites import alone, key_of
from pytw.storage.tenants import TenantStore, checked_events
from pytw.types import ENTRY, LOOP_PAUSED_SCOPE, LOOP_SCOPE, LUAU_SUFFIXES, Draft, Id, TenantState

if TYPE_CHECKING:
    from pytw.storage.pool import Database

R = TypeVar("R")

#: The refusal of everything that needs more than the version that runs.
NO_VERSIONS = (
    "in loop mode a template is one record of the key-value store, which the loop itself reads: there is the version that "
    "runs and no other, and no shop"
)
HAVE_TEMPLATES = "builtins_havetemplates"
#: Names that a loop gives to something else: the cache of its own modules has this prefix.
_TAKEN = frozenset({"main"})
#: How often a change is made anew because the tenant's state changed meanwhile.
TRIES_MAX = 5

USED = """
SELECT count(*) AS templates, coalesce(sum(octet_length(value::text)), 0)::bigint AS bytes FROM tenant_kv
WHERE owner_id = $1 AND owner_type = $2 AND (scopes @> $3 OR scopes @> $4) AND NOT id = ANY($5)"""
#: The record stays the one it is, with its time of creation; only where it is looked for changes.
MOVE = """
UPDATE tenant_kv SET scopes = $4, value = $5::text::jsonb, version = version + 1, last_updated_at = now()
WHERE owner_id = $1 AND owner_type = $2 AND id = $3"""

#: Inside the store the name ``list`` is a method.
Stored = list[StoredTemplate]


class LoopTemplateStore:
    """Templates of all tenants where a loop runs them. Methods raise what `Database` raises, besides their own.

    It keeps the version that runs and no other: drafts and earlier versions have no place in the reference's form.
    """

    keeps_versions = False

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self._db = db
        self._limits = limits or Limits()

    async def put(self, owner: Id, draft: Draft, guard: Guard = unguarded) -> int:
        """As `TemplateStore.put`. The loop evaluates the entry itself and calls what it names, whatever ``events_override``
        says; that only adds to the events that the tenant gets.

        Raises:
            RequestError: a bad name, path, event or entry; a draft, what cannot run, or one of the shop.
            LimitExceeded: too many templates, or more source than a record or one look of the loop holds.
        """
        name = checked_name(draft.name)
        if draft.error is not None or not draft.deploy or draft.shop is not None:
            raise RequestError(NO_VERSIONS)
        if draft.entry not in (ENTRY, *(ENTRY + suffix for suffix in LUAU_SUFFIXES)):
            raise RequestError(f"in loop mode a template starts at {ENTRY}", hint="leave --entry out")
        sources, settings = checked_files(draft.files, self._limits), checked_settings(draft)
        value: dict[str, Any] = {
            "type": "custom",
            "name": name,
            "content": values.LazyStringMap(sources),
            "allowed_caps": settings.caps_or_all,
            "language": "luau",
            "events": checked_events(draft.events or ()),
            "message": checked_message(draft.message),
        }
        if settings.override is not None:
            value["events_override"] = settings.override
        more = {"error_channel": settings.error_channel, "author": draft.author}
        value |= {key: text for key, text in more.items() if text is not None}

        async def work(inside: Database) -> int:
            await guard(inside)
            return await self._put(inside, owner, name, value, draft.paused)

        return await self._changing(owner, work)

    async def _put(self, inside: Database, owner: Id, name: str, value: dict[str, Any], paused: bool | None) -> int:
        old = await self._named(inside, owner, name)
        away = paused if paused is not None else bool(old) and all(one.away for one in old)
        version = 1 + max((one.shown().version or 0 for one in old), default=0)
        value = {**value, "paused": away, "version": version}
        text = self._row(value)
        await self._require_room(inside, owner, name, [one.record.id for one in old], len(text.encode()))
        key = old[0].record.key if old else f"{name} (template)" if name in _TAKEN else name
        # What was there is replaced, not made anew: its place among the others stays.
        lies = old[0].record.scopes if old else [LOOP_PAUSED_SCOPE if away else LOOP_SCOPE]
        await KvStore(inside, self._limits).set(owner.key, key, lies, values.pack(value))
        if old:
            await self._lay(inside, owner, old[0], text, away=away)
        for one in old[1:]:
            await self._take(inside, owner, one)
        wanted = value.get("events_override", value["events"])
        await self._tell_tenant(inside, owner, key, () if away else wanted)
        return version

    async def list(self, owner: Id) -> list[Template]:
        """All templates of a tenant by name, without their files."""
        return sorted((one.shown() for one in await self._all(self._db, owner)), key=lambda template: template.name)

    async def get(self, owner: Id, name: str) -> Template:
        """One template with its files.

        Raises: NotFound.
        """
        return (await self._known(self._db, owner, name))[0].shown(files=True)

    async def remove(self, owner: Id, name: str, guard: Guard = unguarded) -> None:
        """Take the template away, and the events that only it asked for.

        Raises: NotFound.
        """

        async def work(inside: Database) -> None:
            await guard(inside)
            for one in await self._known(inside, owner, name):
                await self._take(inside, owner, one)

        await self._changing(owner, work)

    async def set_paused(self, owner: Id, name: str, paused: bool) -> None:
        """Stop or resume a template. Raises: NotFound."""

        async def work(inside: Database) -> None:
            for one in await self._known(inside, owner, name):
                text = self._row({**one.value, "paused": paused})
                await self._lay(inside, owner, one, text, away=paused)
                wanted = one.texts("events_override" if "events_override" in one.value else "events")
                await self._tell_tenant(inside, owner, one.record.key, () if paused else wanted)

        await self._changing(owner, work)

    # -- inside a transaction --------------------------------------------------------------------------

    async def _changing(self, owner: Id, work: Callable[[Database], Awaitable[R]]) -> R:
        """All of *work* or nothing. One writer per tenant; scripts write the tenant's state besides, and are waited for."""
        for attempt in range(TRIES_MAX):
            try:
                async with self._db.atomic() as inside:
                    await alone(inside, owner)
                    await inside.execute(LOCK_ROOM, *key_of(owner))
                    return await work(inside)
            except Conflict:
                if attempt == TRIES_MAX - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _all(self, inside: Database, owner: Id) -> Stored:
        kv = KvStore(inside, self._limits)
        records = [
            record
            for scope in (LOOP_SCOPE, LOOP_PAUSED_SCOPE)
            for record in await kv.find(owner.key, "%%", [scope], limit=KV_FIND_ROWS_MAX)
        ]
        return [one for record in records if (one := stored(record)) is not None]

    async def _named(self, inside: Database, owner: Id, name: str) -> Stored:
        """Those of that name, oldest first: nothing keeps a loop from giving a name twice."""
        found = [one for one in await self._all(inside, owner) if one.name == name]
        return sorted(found, key=lambda one: (one.record.created_at, one.record.id))

    async def _known(self, inside: Database, owner: Id, name: str) -> Stored:
        found = await self._named(inside, owner, checked_name(name))
        if not found:
            raise NotFound(f"there is no template {name}")
        return found

    async def _lay(self, inside: Database, owner: Id, one: StoredTemplate, text: str, *, away: bool) -> None:
        """Put the record where loops look, or where none does, with *text* for its value."""
        scopes = {*one.record.scopes} - {LOOP_SCOPE, LOOP_PAUSED_SCOPE} | {LOOP_PAUSED_SCOPE if away else LOOP_SCOPE}
        await inside.execute(MOVE, *key_of(owner), one.record.id, sorted(scopes), text)

    async def _take(self, inside: Database, owner: Id, one: StoredTemplate) -> None:
        await KvStore(inside, self._limits).delete(owner.key, one.record.key, one.record.scopes)
        await self._tell_tenant(inside, owner, one.record.key, ())

    def _row(self, value: dict[str, Any]) -> str:
        try:
            return to_row(values.pack(value))
        except LimitExceeded as error:
            raise LimitExceeded(
                f"in loop mode a template is one value of the key-value store, at most {KV_VALUE_BYTES_MAX:,} bytes as JSON: "
                f"{error.detail}",
                hint="split it into several templates",
            ) from error

    async def _require_room(self, inside: Database, owner: Id, name: str, but: Sequence[str], more: int) -> None:
        used = await inside.fetchrow(USED, *key_of(owner), [LOOP_SCOPE], [LOOP_PAUSED_SCOPE], list(but))
        assert used is not None
        if used["templates"] >= self._limits.templates_max:
            raise LimitExceeded(
                f"{name} would be template number {used['templates'] + 1:,}, "
                f"and limits.templates_max is {self._limits.templates_max:,}",
                hint="remove one that is not needed any more",
            )
        if used["bytes"] + more > KV_FIND_BYTES_MAX:
            raise LimitExceeded(
                f"the templates would take {used['bytes'] + more:,} bytes together, and a loop reads {KV_FIND_BYTES_MAX:,} at most",
                hint="remove one that is not needed any more",
            )

    async def _tell_tenant(self, inside: Database, owner: Id, key: str, wanted: Sequence[str]) -> None:
        """Have the tenant's state say whether there are templates, and which events the one with *key* asks for."""
        tenants = TenantStore(inside)
        state = await tenants.tenant_state(owner.key)
        events, refs = asked(state, key, {event for event in wanted if event != EVERY_EVENT})
        found = await inside.fetchval(
            "SELECT EXISTS (SELECT FROM tenant_kv WHERE owner_id = $1 AND owner_type = $2 AND scopes @> $3)",
            *key_of(owner),
            [LOOP_SCOPE],
        )
        data = {**state.data, HAVE_TEMPLATES: bool(found), EVENT_REFS: refs}
        if (events, data) != (state.events, state.data):
            await tenants.set_tenant_state(owner.key, TenantState(events, data), if_revision=state.revision)


__all__ = ["LoopTemplateStore"]
