"""All stores over one pool: what the master, the API and in-process workers ask of the database."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import orjson

from pytw.errors import NotFound, Unavailable
from pytw.limits import Limits
from pytw.storage.cursors import CursorStore
from pytw.storage.globalkv import GlobalKvStore
from pytw.storage.globalstaff import GlobalKvStaff
from pytw.storage.kv import KvStore
from pytw.storage.kvexpiry import KvExpiryStore
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.pool import Database
from pytw.storage.programs import ProgramStore
from pytw.storage.scripttemplates import ScriptTemplates
from pytw.storage.secrets import SecretStore
from pytw.storage.shop import ShopStore
from pytw.storage.templates import TemplateStore
from pytw.storage.templateversions import VersionStore
from pytw.storage.tenants import TenantStore
from pytw.storage.users import UserStore
from pytw.storage.usertokens import UserTokens
from pytw.types import GlobalEntry, GlobalPage, GlobalRecord, Id, ObjectInfo
from pytw.workerdb import WorkerDb

if TYPE_CHECKING:
    from pytw.storage.objects import ObjectStore
    from pytw.storage.secretbox import SecretBox


class Stores:
    """Satisfies `workerdb.WorkerDb`: its operations are the stores' own methods under the protocol's names."""

    def __init__(
        self,
        db: Database,
        limits: Limits | None = None,
        objects: ObjectStore | None = None,
        box: SecretBox | None = None,
    ) -> None:
        """
        Args:
            objects: None where there are none: every operation on them is refused.
            box: None where no secret is read or written: that is refused.
        """
        self.db = db
        self._objects = objects
        self.kv = KvStore(db, limits)
        self.kv_expiry = KvExpiryStore(db)
        self.tenants = TenantStore(db)
        self.templates = TemplateStore(db, limits)
        self.versions = VersionStore(db, limits)
        self.programs = ProgramStore(db)
        self.shop = ShopStore(db, limits)
        self.loop_templates = LoopTemplateStore(db, limits)
        self.cursors = CursorStore(db)
        self.global_staff = GlobalKvStaff(db)
        self.global_kv = GlobalKvStore(db)
        self.users = UserStore(db)
        self.user_tokens = UserTokens(db, box)
        self.secrets = SecretStore(db, box)
        self.script_templates = ScriptTemplates(db, self.secrets, limits)

        self.gates = self.tenants.gates
        self.gate = self.tenants.gate
        self.tenant_state = self.tenants.tenant_state
        self.set_tenant_state = self.tenants.set_tenant_state
        self.update_tenant_state = self.tenants.update_tenant_state
        self.program = self.programs.program
        self.secret_get = self.secrets.secret_get
        self.template_list = self.script_templates.template_list
        self.template_get = self.script_templates.template_get
        self.template_save = self.script_templates.template_save
        self.template_delete = self.script_templates.template_delete
        self.kv_get = self.kv.get
        self.kv_set = self.kv.set
        self.kv_delete = self.kv.delete
        self.kv_find = self.kv.find
        self.kv_list_scopes = self.kv.list_scopes
        self.kv_get_by_id = self.kv.get_by_id
        self.kv_exists = self.kv.exists
        self.kv_set_by_id = self.kv.set_by_id
        self.kv_set_expiry = self.kv.set_expiry
        self.kv_set_expiry_by_id = self.kv.set_expiry_by_id
        self.kv_delete_by_id = self.kv.delete_by_id
        self.kv_keys = self.kv.keys
        self.claim_expired = self.kv_expiry.claim
        self.finish_expired = self.kv_expiry.finish
        self.fail_expired = self.kv_expiry.fail
        self.release_claims = self.kv_expiry.release
        self.retry_expired = self.kv_expiry.retry
        self.resume_keys = self.kv_expiry.resumed
        self.tenant_resume_keys = self.kv_expiry.resumed_of

    @property
    def objects(self) -> ObjectStore:
        """Raises: Unavailable."""
        if self._objects is None:
            raise Unavailable("this server has no object storage")
        return self._objects

    # ---- the global key-value store, for a tenant ------------------------------------------------------

    async def global_find(
        self, _tenant: int, scope: str, pattern: str, *, limit: int, after: str | None = None
    ) -> GlobalPage:
        return await self.global_kv.find(scope, pattern, limit=limit, after=after)

    async def global_get(self, tenant: int, scope: str, key: str, version: int) -> GlobalRecord | None:
        """None where there is no approved version. What has a price comes without its data to who has not bought it."""
        try:
            return await self.global_kv.get(scope, key, version, buyer=Id.of(tenant))
        except NotFound:
            return None

    async def global_create(self, tenant: int, entry: GlobalEntry) -> None:
        """Raises: what `GlobalKvStore.create` does."""
        owner = Id.of(tenant)
        await self.global_kv.create(
            entry.scope,
            entry.key,
            entry.version,
            owner_type=owner.owner_type.value,
            owner_id=owner.owner_id,
            data=orjson.Fragment(entry.data),
            short=entry.short,
            long=entry.long,
            public_metadata=orjson.Fragment(entry.public_metadata),
            public_data=entry.public_data,
        )

    async def global_delete(self, tenant: int, scope: str, key: str, version: int) -> None:
        """Raises: NotFound: also where it belongs to somebody else."""
        owner = Id.of(tenant)
        await self.global_kv.delete(scope, key, version, owner_type=owner.owner_type.value, owner_id=owner.owner_id)

    # ---- objects, by tenant ----------------------------------------------------------------------------

    async def object_list(self, tenant: int, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self.objects.list(Id.of(tenant), prefix, limit=limit, after=after)

    async def object_exists(self, tenant: int, key: str) -> bool:
        return await self.objects.exists(Id.of(tenant), key)

    async def object_get(self, tenant: int, key: str) -> bytes:
        return await self.objects.get(Id.of(tenant), key)

    async def object_put(self, tenant: int, key: str, data: bytes) -> None:
        await self.objects.put(Id.of(tenant), key, data)

    async def object_delete(self, tenant: int, key: str) -> None:
        """What is not there is deleted already."""
        with suppress(NotFound):
            await self.objects.delete(Id.of(tenant), key)

    async def object_url(self, tenant: int, key: str, expires_s: int) -> str:
        return await self.objects.url(Id.of(tenant), key, expires_s)

    async def close(self) -> None:
        """Writes the last cursors, lets changes of objects end, and ends the connections."""
        if self._objects is not None:
            await self._objects.close()
        await self.cursors.close()
        await self.db.close()


def _satisfies(stores: Stores) -> WorkerDb:
    return stores


__all__ = ["Stores"]
