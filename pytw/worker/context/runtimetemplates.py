"""``ctx.Runtime:list_templates`` and its like: a tenant's templates, for its templates. Source: TemplateStore (spec 5.6).

What is written is checked as the API does: it compiles, and the entry is evaluated in a fresh VM without host calls. It runs
from the next event on: the worker loads the tenant anew when the event that asked for it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from pytw import luau, values
from pytw.errors import RequestError, ScriptError
from pytw.limits import Limits
from pytw.storage.templatechecks import checked_caps, checked_files, checked_name, checked_settings, wanted_of_shop
from pytw.storage.tenants import checked_events
from pytw.types import EVERY_CAPABILITY, LUAU_SUFFIXES, Draft, Id, OwnerType, ScriptCaller, TemplateInfo, TemplateSource
from pytw.worker.context import answers
from pytw.worker.context.call import HostCall
from pytw.worker.context.discord import snowflake
from pytw.worker.context.operation import Bucket, Handler, Need, Operation
from pytw.worker.template import Template
from pytw.workerdb import WorkerDb

LANGUAGE = "luau"
_FIELDS = frozenset({"name", "content", "events", "error_channel", "language", "allowed_caps", "paused"})
#: What `get_template` gives besides, so that its table can be changed and written.
_IGNORED = frozenset({"version", "created_at", "last_updated_at"})


class RuntimeTemplates:
    """``runtime.*_template`` and ``runtime.list_templates``.

    Args:
        check: the events that a template's entry names.
        require_channel: raises if the channel is not the guild's.
        changed: the tenant's templates changed; it is the worker's to have them run when this call's event has ended.
        loop_mode: where the templates are.
    """

    def __init__(
        self,
        db: WorkerDb,
        limits: Limits,
        check: Callable[[int, Template], Awaitable[list[str]]],
        require_channel: Callable[[int, int], Awaitable[None]],
        changed: Callable[[HostCall], None],
        loop_mode: Callable[[], bool],
    ) -> None:
        self._db = db
        self._limits = limits
        self._check = check
        self._require_channel = require_channel
        self._changed = changed
        self._loop_mode = loop_mode

    def operations(self) -> dict[str, Operation]:
        handlers: dict[str, Handler] = {
            "list_templates": self.list_templates,
            "get_template": self.get_template,
            "create_template": self.create_template,
            "update_template": self.update_template,
            "delete_template": self.delete_template,
        }
        return {f"runtime.{action}": _operation(action, handler) for action, handler in handlers.items()}

    async def list_templates(self, call: HostCall) -> bytes:
        found = await self._db.template_list(call.tenant, self._loop_mode())
        return answers.one([_shown(template) for template in found])

    async def get_template(self, call: HostCall) -> bytes:
        name = checked_name(call.text(0, "the name of a template"))
        found = await self._db.template_get(call.tenant, name, self._loop_mode())
        return answers.NIL if found is None else answers.one(_shown(found))

    async def create_template(self, call: HostCall) -> bytes:
        return await self._save(call, new=True)

    async def update_template(self, call: HostCall) -> bytes:
        return await self._save(call, new=False)

    async def delete_template(self, call: HostCall) -> bytes:
        name = checked_name(call.text(0, "the name of a template"))
        await self._db.template_delete(call.tenant, self._caller(call), name)
        self._changed(call)
        return answers.NOTHING

    async def _save(self, call: HostCall, *, new: bool) -> bytes:
        draft = _draft(call.raw(0))
        checked_settings(draft)
        of_shop = (new or bool(draft.files)) and wanted_of_shop(draft) is not None
        if draft.error_channel is not None:
            await self._check_channel(call.tenant, draft.error_channel)
        if draft.files or (new and not of_shop):
            files = checked_files(draft.files, self._limits)
            events = await self._evaluated(call.tenant, draft.name, files)
            draft = Draft(
                draft.name,
                files,
                events=events,
                events_override=draft.events_override,
                allowed_caps=draft.allowed_caps,
                error_channel=draft.error_channel,
                paused=draft.paused,
            )
        await self._db.template_save(call.tenant, self._caller(call), draft, new)
        self._changed(call)
        return answers.NOTHING

    async def _check_channel(self, tenant: int, channel: str) -> None:
        owner = Id.of(tenant)
        if owner.owner_type is not OwnerType.GUILD:
            raise RequestError("error_channel: only guilds have channels")
        await self._require_channel(owner.snowflake, snowflake(channel, "error_channel"))

    async def _evaluated(self, tenant: int, name: str, files: dict[str, str]) -> list[str]:
        for path in sorted(files):
            if path.endswith(LUAU_SUFFIXES):
                for complaint in luau.check(path, files[path]):
                    where = f"{complaint.file}:{complaint.line}"
                    raise ScriptError(f"{name} does not compile: {where}: {complaint.text}")
                # Some milliseconds for a large file: events in between.
                await asyncio.sleep(0)
        source = TemplateSource(
            name=name, files={path: text.encode() for path, text in files.items()}, events=frozenset()
        )
        return checked_events(await self._check(tenant, Template(source)))

    def _caller(self, call: HostCall) -> ScriptCaller:
        held = call.caps
        if call.narrowed is not None:
            both = (held, call.narrowed)
            held = next((other for one, other in (both, both[::-1]) if EVERY_CAPABILITY in one), held & call.narrowed)
        return ScriptCaller(call.template, sorted(held), self._loop_mode())


def _shown(template: TemplateInfo) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": template.name,
        "events": list(template.events),
        "error_channel": template.error_channel,
        "language": LANGUAGE,
        "allowed_caps": list(template.allowed_caps),
        "paused": template.paused,
        "version": template.version,
        "created_at": template.created_at,
        "last_updated_at": template.last_updated_at,
    }
    if template.content is not None:
        shown["content"] = dict(template.content)
    return {key: value for key, value in shown.items() if value is not None}


def _draft(packed: bytes) -> Draft:
    """What a script wants, by its fields. Raises: RequestError: a field is unknown, or not of its type."""
    try:
        given = values.unpack(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise RequestError(f"the template cannot be read: {error}") from error
    if not isinstance(given, dict):
        raise RequestError("the template must be a table with the fields name, content, ...")
    if unknown := [key for key in given if key not in _FIELDS | _IGNORED]:
        raise RequestError(f"a template has no field {str(unknown[0])[:40]!r}; there are {', '.join(sorted(_FIELDS))}")
    if given.get("language", LANGUAGE) != LANGUAGE:
        raise RequestError(f"language must be {LANGUAGE!r}")
    paused, channel = given.get("paused"), given.get("error_channel")
    if paused is not None and not isinstance(paused, bool):
        raise RequestError("paused must be true or false")
    if channel is not None and not isinstance(channel, str):
        raise RequestError("error_channel must be the id of a channel, as a string")
    name = given.get("name")
    if not isinstance(name, str):
        raise RequestError("name must be a string")
    caps = _texts(given.get("allowed_caps"), "allowed_caps")
    return Draft(
        checked_name(name),
        _content(given.get("content")),
        events_override=_texts(given.get("events"), "events"),
        allowed_caps=None if caps is None else checked_caps(caps),
        error_channel=channel,
        paused=paused,
    )


def _content(content: Any) -> dict[str, str]:
    if content is None or content == []:
        return {}
    if not isinstance(content, dict):
        raise RequestError("content must be a table of path and source")
    for path, source in content.items():
        if not isinstance(path, str) or not isinstance(source, str):
            raise RequestError(f"content must be text by path, and {str(path)[:80]!r} is not")
    return dict(content)


def _texts(given: Any, what: str) -> list[str] | None:
    if given is None or given == {}:
        return None if given is None else []
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise RequestError(f"{what} must be an array of strings")
    return given


def _operation(action: str, handler: Handler) -> Operation:
    need = Need(
        ("runtime:*", f"runtime:{action}"), f"runtime operation `{action}` not allowed in this template context"
    )
    return Operation(handler=handler, need=lambda _call: need, bucket=Bucket("runtime", action))


__all__ = ["RuntimeTemplates"]
