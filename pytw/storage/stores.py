"""All stores over one pool: what the master, the API and in-process workers ask of the database."""

from __future__ import annotations

from pytw.limits import Limits
from pytw.storage.cursors import CursorStore
from pytw.storage.globalkv import GlobalKvStore
from pytw.storage.kv import KvStore
from pytw.storage.looptemplates import LoopTemplateStore
from pytw.storage.pool import Database
from pytw.storage.templates import TemplateStore
from pytw.storage.tenants import TenantStore
from pytw.storage.users import UserStore
from pytw.types import WorkerDb


class Stores:
    """Satisfies `types.WorkerDb`: its operations are the stores' own methods under the protocol's names."""

    def __init__(self, db: Database, limits: Limits | None = None) -> None:
        self.db = db
        self.kv = KvStore(db, limits)
        self.tenants = TenantStore(db)
        self.templates = TemplateStore(db, limits)
        self.loop_templates = LoopTemplateStore(db, limits)
        self.cursors = CursorStore(db)
        self.global_kv = GlobalKvStore(db)
        self.users = UserStore(db)

        self.gates = self.tenants.gates
        self.gate = self.tenants.gate
        self.tenant_state = self.tenants.tenant_state
        self.set_tenant_state = self.tenants.set_tenant_state
        self.program = self.templates.program
        self.kv_get = self.kv.get
        self.kv_set = self.kv.set
        self.kv_delete = self.kv.delete
        self.kv_find = self.kv.find
        self.kv_list_scopes = self.kv.list_scopes
        self.claim_expired = self.kv.claim_expired
        self.finish_expired = self.kv.finish_expired

    async def close(self) -> None:
        """Writes the last cursors and ends the connections."""
        await self.cursors.close()
        await self.db.close()


def _satisfies(stores: Stores) -> WorkerDb:
    return stores


__all__ = ["Stores"]
