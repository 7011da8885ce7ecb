from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from pytw import values
from pytw.api import ApiContext, ApiServer
from pytw.errors import NotFound, NotReady, PytwError
from pytw.storage.templates import Template
from pytw.types import CreateEvent, DispatchResult, Draft, Id, Outcome, TemplateSource


class FakeWorkers:
    """Answers events as told and notes what it was asked."""

    def __init__(self) -> None:
        self.events: list[tuple[int, CreateEvent]] = []
        self.thrown: list[tuple[int, CreateEvent]] = []
        self.checked: list[TemplateSource] = []
        self.refreshed: list[int] = []
        self.result = DispatchResult.nothing_ran(Outcome.NOT_SUBSCRIBED)
        self.found = ["MESSAGE"]
        self.error: PytwError | None = None
        self.hold: asyncio.Event | None = None

    def __len__(self) -> int:
        return 4

    def ran(self, outcome: Outcome, templates: Sequence[Sequence[Any]], limit: str | None = None) -> None:
        self.result = DispatchResult(values.pack([int(outcome), limit, [list(t) for t in templates], [1, 2, {}, 3]]))

    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult:
        self.events.append((tenant, event))
        if self.hold is not None:
            await self.hold.wait()
        return self.result

    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None:
        self.thrown.append((tenant, event))

    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]:
        if self.error is not None:
            raise self.error
        self.checked.append(template)
        return self.found

    async def refresh_tenant(self, tenant: int) -> None:
        if self.error is not None:
            raise self.error
        self.refreshed.append(tenant)


class FakeTemplates:
    """The store as a dict."""

    keeps_versions = True

    def __init__(self) -> None:
        self.rows: dict[tuple[Id, str], dict[str, Any]] = {}
        #: Drafts and broken ones.
        self.saved: list[Draft] = []

    async def put(self, owner: Id, draft: Draft) -> int:
        old = self.rows.get((owner, draft.name), {"version": 0, "paused": False})
        version = old["version"] + 1
        if draft.error is not None or not draft.deploy:
            self.saved.append(draft)
            return int(version)
        self.rows[owner, draft.name] = {
            **{field.name: getattr(draft, field.name) for field in fields(draft)},
            "version": version,
            "events": list(draft.events or ()),
            "paused": old["paused"] if draft.paused is None else draft.paused,
        }
        return int(version)

    def _template(self, owner: Id, name: str) -> Template:
        if (owner, name) not in self.rows:
            raise NotFound(f"there is no template {name}")
        row, now = self.rows[owner, name], datetime.now(UTC)
        return Template(
            name,
            row["version"],
            row["events"],
            row["events_override"],
            list(row["allowed_caps"] or ("*",)),
            row["error_channel"],
            row["paused"],
            None,
            now,
            now,
            row["entry"],
            row["files"],
        )

    async def list(self, owner: Id) -> Any:
        return [self._template(*key) for key in self.rows if key[0] == owner]

    async def get(self, owner: Id, name: str) -> Template:
        return self._template(owner, name)

    async def remove(self, owner: Id, name: str) -> None:
        self._template(owner, name)
        del self.rows[owner, name]

    async def set_paused(self, owner: Id, name: str, paused: bool) -> None:
        self._template(owner, name)
        self.rows[owner, name]["paused"] = paused


class FakeHealth:
    def __init__(self) -> None:
        self.parts = {"database": True, "workers": True}

    async def ready(self) -> tuple[bool, dict[str, bool]]:
        return all(self.parts.values()), self.parts

    def health(self) -> Mapping[str, Any]:
        return {"status": "ok", "rights": {"seccomp": True}}

    def database(self) -> Mapping[str, Any]:
        return {"state": "closed"}

    def metrics(self) -> Callable[[], str]:
        return lambda: "# HELP tw_x A number.\n# TYPE tw_x gauge\ntw_x 1.0\n"


class Api:
    """A served API with two ways in."""

    def __init__(self, folder: Path) -> None:
        self.workers = FakeWorkers()
        self.templates = FakeTemplates()
        self.health = FakeHealth()
        self.said: list[tuple[int, str, float]] = []
        self.context = ApiContext(
            workers=self.workers,
            templates=lambda: self.templates,
            versions=self._versions,
            health=self.health,
            dev=True,
            session=self._session,
            root_users=("42",),
            mock=self._say,
        )
        self.server = ApiServer(self.context)
        self.control_path = folder / "control.sock"

    async def _session(self, token: str) -> str | None:
        return {"root-token": "42", "user-token": "7"}.get(token)

    def _versions(self) -> Any:
        raise NotReady("tests/worker/test_deployments.py has them, over a real store")

    async def _say(self, guild_id: int, content: str, wait_s: float) -> Mapping[str, Any]:
        self.said.append((guild_id, content, wait_s))
        return {"sent": {"content": content}, "replies": []}

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await self.server.start(listener, self.control_path)
        self.tcp = aiohttp.ClientSession(f"http://127.0.0.1:{self.port}")
        self.control = aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(str(self.control_path))
        )

    async def call(
        self, method: str, path: str | URL, body: Any = None, *, tcp: bool = False, **kw: Any
    ) -> tuple[int, Any]:
        data = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
        async with (self.tcp if tcp else self.control).request(method, path, **data, **kw) as response:
            return response.status, await response.json()

    async def fire(self, body: Any, **kw: Any) -> tuple[int, Any]:
        return await self.call("POST", "/test/event", body, tcp=True, **kw)

    async def close(self) -> None:
        await self.tcp.close()
        await self.control.close()
        await self.server.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    made = Api(tmp_path)
    await made.start()
    yield made
    await made.close()
