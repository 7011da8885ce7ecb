"""What the API is given. It knows these interfaces and none of the rooms behind them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import web

from pytw.api.publicreads import PublicReads
from pytw.limits import PUBLIC_OBJECT_READS_MAX, PUBLIC_READS_MAX, Limits
from pytw.types import (
    CreateEvent,
    DispatchResult,
    Draft,
    GlobalPage,
    GlobalPurchase,
    GlobalRecord,
    Id,
    KvRecord,
    KvWritten,
    ObjectInfo,
    TemplateSource,
    TenantState,
)

if TYPE_CHECKING:
    from datetime import datetime

    from pytw.storage.kvstaff import KvShown
    from pytw.storage.objectadopt import Adopted
    from pytw.storage.secrets import SecretName
    from pytw.storage.shop import Listing, Publication
    from pytw.storage.templates import Template
    from pytw.storage.templateversions import Version


class Principal(NamedTuple):
    """Who asks. ``root`` may do everything."""

    name: str
    root: bool


class Workers(Protocol):
    """The part of `WorkerLike` that the API uses."""

    def __len__(self) -> int: ...
    async def dispatch_event(
        self, tenant: int, event: CreateEvent, *, timeout_s: float | None = None
    ) -> DispatchResult: ...
    def dispatch_event_nowait(self, tenant: int, event: CreateEvent) -> None: ...
    async def check_template(self, tenant: int, template: TemplateSource) -> list[str]: ...
    async def refresh_tenant(self, tenant: int) -> None: ...


class Templates(Protocol):
    """The part of `storage.templates.TemplateStore` that the API uses."""

    @property
    def keeps_versions(self) -> bool:
        """Whether what does not run is saved too."""

    async def put(self, owner: Id, draft: Draft) -> int: ...
    async def list(self, owner: Id) -> list[Template]: ...
    async def get(self, owner: Id, name: str) -> Template: ...
    async def remove(self, owner: Id, name: str) -> None: ...
    async def set_paused(self, owner: Id, name: str, paused: bool) -> None: ...


class Versions(Protocol):
    """The part of `storage.templateversions.VersionStore` that the API uses."""

    async def list(self, owner: Id, name: str, *, limit: int, before: int | None) -> Sequence[Version]: ...
    async def get(self, owner: Id, name: str, number: int) -> tuple[Version, dict[str, str]]: ...
    async def deploy(
        self, owner: Id, name: str, number: int, *, events: Sequence[str] | None, author: str | None
    ) -> None: ...
    async def rollback(self, owner: Id, name: str, *, author: str | None) -> object: ...
    async def undelete(self, owner: Id, name: str) -> object: ...


class Shop(Protocol):
    """The part of `storage.shop.ShopStore` that the API uses."""

    async def publish(self, given: Publication) -> None: ...
    async def list(
        self, name: str | None, *, state: str | None, limit: int, after: str | None
    ) -> Sequence[Listing]: ...
    async def get(self, name: str, version: str) -> Listing: ...
    async def review(self, name: str, version: str, state: str, *, note: str, author: str) -> Sequence[int]: ...
    async def withdraw(self, name: str, version: str, *, note: str, author: str) -> Sequence[int]: ...


class Tenants(Protocol):
    """The part of `storage.tenants.TenantStore` that the API uses."""

    async def tenant_state(self, tenant: int) -> TenantState: ...
    async def set_banned(self, tenant: int, banned: bool) -> None: ...


class Secrets(Protocol):
    """The part of `storage.secrets.SecretStore` that the API uses."""

    async def put(self, owner: Id, template: str, name: str, value: str) -> None: ...
    async def list(self, owner: Id, template: str) -> Sequence[SecretName]: ...
    async def remove(self, owner: Id, template: str, name: str) -> None: ...
    async def remove_all(self, owner: Id, template: str) -> int: ...


class HealthLike(Protocol):
    """How the server is."""

    async def ready(self) -> tuple[bool, dict[str, bool]]:
        """Whether everything that requests need is up, and each part."""

    def health(self) -> Mapping[str, Any]:
        """Alive, and how."""

    def database(self) -> Mapping[str, Any]:
        """Whether the database is known to be away, and how many connections lead to it."""

    def metrics(self) -> Callable[[], str]:
        """Notes the numbers of now; what comes back renders them as Prometheus text, in any thread."""


class KvKeys(Protocol):
    """What the API uses of the key-value store: `storage.kv.KvStore` and `storage.kvstaff.KvStaff`."""

    async def browse(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None
    ) -> tuple[Sequence[KvShown], str | None]: ...
    async def get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None: ...
    async def set(
        self,
        tenant: int,
        key: str,
        scopes: Sequence[str],
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten: ...
    async def delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int: ...
    async def delete_by_id(self, tenant: int, record_id: str) -> bool: ...
    async def list_scopes(self, tenant: int) -> list[str]: ...


class Objects(Protocol):
    """The part of `storage.objects.ObjectStore` that the API uses."""

    async def list(self, owner: Id, prefix: str = "", *, limit: int, after: str | None = None) -> list[ObjectInfo]: ...
    async def get(self, owner: Id, key: str) -> bytes: ...
    async def put(self, owner: Id, key: str, data: bytes) -> None: ...
    async def delete(self, owner: Id, key: str) -> None: ...

    async def open_link(self, owner: Id, key: str, *, expires: str, signature: str) -> bytes: ...


class ReferenceObjects(Protocol):
    """What `storage.objectadopt.ReferenceObjects` does."""

    async def adopt(self, owner: Id) -> Adopted: ...


class GlobalKvs(Protocol):
    """The part of `storage.globalkv.GlobalKvStore` that the API uses."""

    async def find(self, scope: str, pattern: str, *, limit: int, after: str | None) -> GlobalPage: ...
    async def get(self, scope: str, key: str, version: int) -> GlobalRecord: ...
    async def create(
        self,
        scope: str,
        key: str,
        version: int,
        *,
        owner_type: str,
        owner_id: str,
        data: Any,
        short: str,
        long: str | None,
        public_metadata: Any,
        public_data: bool,
        price: int | None,
        review_state: str,
    ) -> None: ...


class GlobalStaff(Protocol):
    """The part of `storage.globalstaff.GlobalKvStaff` that the API uses."""

    async def in_state(self, state: str, *, limit: int, after: tuple[str, str, int]) -> GlobalPage: ...
    async def get(self, scope: str, key: str, version: int) -> GlobalRecord: ...
    async def review(self, scope: str, key: str, version: int, state: str) -> None: ...
    async def set_price(self, scope: str, key: str, version: int, price: int | None) -> None: ...
    async def grant(
        self, scope: str, key: str, version: int, owner: Id, *, granted_by: str, price: int | None
    ) -> int: ...
    async def revoke(self, scope: str, key: str, version: int, owner: Id) -> None: ...
    async def purchases(
        self, scope: str, key: str, version: int, *, limit: int, after: Id | None
    ) -> Sequence[GlobalPurchase]: ...


class MockSay(Protocol):
    """The mock Discord of dev mode."""

    async def __call__(self, guild_id: int, content: str, wait_s: float, /) -> Mapping[str, Any]:
        """Posts *content* as a member; what was sent and what came back."""


@dataclass(slots=True, kw_only=True)
class ApiContext:
    """What the API is given by main.

    Args:
        templates: the store of the mode that the workers are in; raises NotReady while no worker has said.
        versions: as `templates`; refuses in loop mode, which has none.
        session: the user id behind a token, None if there is none.
        root_users: users who may do everything.
        mock: None outside of dev mode.
        frontend_url: the website, where things are bought.
    """

    workers: Workers
    templates: Callable[[], Templates]
    versions: Callable[[], Versions]
    health: HealthLike
    dev: bool = False
    limits: Limits = field(default_factory=Limits)
    session: Callable[[str], Awaitable[str | None]] | None = None
    root_users: Collection[str] = ()
    mock: MockSay | None = None
    objects: Objects | None = None
    reference_objects: ReferenceObjects | None = None
    kv: KvKeys | None = None
    shop: Shop | None = None
    global_kv: GlobalKvs | None = None
    global_staff: GlobalStaff | None = None
    frontend_url: str = ""
    public_reads: PublicReads = field(default_factory=partial(PublicReads, PUBLIC_READS_MAX))
    #: Signed URLs: whoever has one may ask for it as often as they like.
    object_reads: PublicReads = field(default_factory=partial(PublicReads, PUBLIC_OBJECT_READS_MAX))
    tenants: Tenants | None = None
    secrets: Secrets | None = None
    #: Set when the server drains: nothing new is run.
    draining: bool = False


CONTEXT: web.AppKey[ApiContext] = web.AppKey("context", ApiContext)
