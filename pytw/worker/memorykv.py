"""The key-value store of `MemoryDb`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pytw.errors import NotFound, RequestError
from pytw.limits import KV_EXPIRY_ATTEMPTS_MAX
from pytw.routing import worker_of
from pytw.storage.kvrules import checked_cursor, checked_id, checked_key, checked_moment, checked_scopes, new_id, to_row
from pytw.types import KvPlace, KvRecord, KvReleased, KvWritten

_Place = tuple[int, str, tuple[str, ...]]


def like_expression(pattern: str) -> re.Pattern[str]:
    r"""A LIKE pattern as a regular expression: ``%``, ``_``, and ``\`` before what is meant literally."""
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    known = {"%": ".*", "_": "."}
    return re.compile("".join(known.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)


class MemoryKv:
    """Without bounds on what a tenant keeps. A claim of a key lasts as long as the process; one in vain ends at once."""

    def __init__(self) -> None:
        self.records: dict[_Place, KvRecord] = {}
        #: Id and version of keys that are claimed, and how often each was.
        self._claimed: set[tuple[str, int]] = set()
        self._attempts: dict[tuple[str, int], int] = {}

    async def _work(self, operation: str, tenant: int) -> None:
        await asyncio.sleep(0)

    def _matching(self, tenant: int, scopes: Sequence[str]) -> list[KvRecord]:
        """The tenant's records that have all the scopes; those with the fewest others come first."""
        wanted = set(checked_scopes(scopes))
        found = [r for (owner, _, held), r in self.records.items() if owner == tenant and wanted.issubset(held)]
        return sorted(found, key=lambda r: (len(r.scopes), r.scopes))

    def _place_of(self, tenant: int, record_id: str) -> _Place | None:
        checked_id(record_id)
        return next((place for place, r in self.records.items() if place[0] == tenant and r.id == record_id), None)

    async def kv_get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None:
        await self._work("kv_get", tenant)
        return next((r for r in self._matching(tenant, scopes) if r.key == checked_key(key)), None)

    async def kv_get_by_id(self, tenant: int, record_id: str) -> KvRecord | None:
        await self._work("kv_get_by_id", tenant)
        place = self._place_of(tenant, record_id)
        return None if place is None else self.records[place]

    async def kv_exists(self, tenant: int, key: str, scopes: Sequence[str]) -> bool:
        return await self.kv_get(tenant, key, scopes) is not None

    async def kv_set(
        self,
        tenant: int,
        key: str,
        scopes: Sequence[str],
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten:
        await self._work("kv_set", tenant)
        place = (tenant, checked_key(key), tuple(checked_scopes(scopes, writes=True)))
        return self._write(place, value, checked_moment(expires_at), resume, if_version)

    async def kv_set_by_id(
        self,
        tenant: int,
        record_id: str,
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten:
        await self._work("kv_set_by_id", tenant)
        place = self._place_of(tenant, record_id)
        if place is None:
            raise NotFound("there is no record with this id")
        return self._write(place, value, checked_moment(expires_at), resume, if_version)

    def _write(
        self, place: _Place, value: bytes, expires_at: datetime | None, resume: bool, if_version: int | None
    ) -> KvWritten:
        to_row(value)
        now, old = datetime.now(UTC), self.records.get(place)
        version = 0 if old is None else old.version
        if if_version is not None and if_version != version:
            return KvWritten(False, version)
        number, created = (new_id(), now) if old is None else (old.id, old.created_at)
        self.records[place] = KvRecord(
            number, place[1], list(place[2]), value, version + 1, created, now, expires_at, resume
        )
        return KvWritten(True, version + 1)

    async def kv_set_expiry(self, tenant: int, key: str, scopes: Sequence[str], expires_at: datetime | None) -> bool:
        await self._work("kv_set_expiry", tenant)
        return self._expire((tenant, checked_key(key), tuple(checked_scopes(scopes, writes=True))), expires_at)

    async def kv_set_expiry_by_id(self, tenant: int, record_id: str, expires_at: datetime | None) -> bool:
        await self._work("kv_set_expiry_by_id", tenant)
        return self._expire(self._place_of(tenant, record_id), expires_at)

    def _expire(self, place: _Place | None, expires_at: datetime | None) -> bool:
        old = self.records.get(place) if place is not None else None
        if place is None or old is None:
            return False
        self.records[place] = replace(
            old, version=old.version + 1, expires_at=checked_moment(expires_at), last_updated_at=datetime.now(UTC)
        )
        return True

    async def kv_delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int:
        await self._work("kv_delete", tenant)
        doomed = [r for r in self._matching(tenant, scopes) if r.key == checked_key(key)]
        for record in doomed:
            del self.records[tenant, key, tuple(record.scopes)]
        return len(doomed)

    async def kv_delete_by_id(self, tenant: int, record_id: str) -> bool:
        await self._work("kv_delete_by_id", tenant)
        place = self._place_of(tenant, record_id)
        return place is not None and self.records.pop(place, None) is not None

    async def kv_find(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None = None
    ) -> list[KvRecord]:
        await self._work("kv_find", tenant)
        like, begin = like_expression(pattern), checked_cursor(after)
        if limit < 1:
            raise RequestError("Limit must be at least 1")
        found = [r for r in self._matching(tenant, scopes) if like.fullmatch(r.key) and (r.key, r.id) > begin]
        return sorted(found, key=lambda r: (r.key, r.id))[:limit]

    async def kv_keys(self, tenant: int, scopes: Sequence[str]) -> list[str]:
        await self._work("kv_keys", tenant)
        return sorted({r.key for r in self._matching(tenant, scopes)})

    async def kv_list_scopes(self, tenant: int) -> list[str]:
        await self._work("kv_list_scopes", tenant)
        return sorted({scope for owner, _, scopes in self.records if owner == tenant for scope in scopes})

    # ---- expiry and resume ------------------------------------------------------------------------------

    async def claim_expired(
        self, worker_id: int, workers: int, *, limit: int, busy: Sequence[int] = ()
    ) -> list[tuple[int, KvRecord]]:
        await self._work("claim_expired", -1)
        now = datetime.now(UTC)
        found = sorted(
            (record.expires_at, record.id, owner, record)
            for (owner, _, _), record in self.records.items()
            if record.expires_at is not None
            and record.expires_at <= now
            and worker_of(owner, workers) == worker_id
            and owner not in busy
            and (record.id, record.version) not in self._claimed
            and self._attempts.get((record.id, record.version), 0) < KV_EXPIRY_ATTEMPTS_MAX
        )[:limit]
        for *_, record in found:
            claim = (record.id, record.version)
            self._claimed.add(claim)
            self._attempts[claim] = self._attempts.get(claim, 0) + 1
        return [(owner, record) for _, _, owner, record in found]

    async def finish_expired(self, tenant: int, handled: Sequence[tuple[str, int]]) -> int:
        await self._work("finish_expired", tenant)
        doomed = [p for p, r in self.records.items() if p[0] == tenant and (r.id, r.version) in set(handled)]
        for place in doomed:
            del self.records[place]
        return len(doomed)

    async def fail_expired(self, tenant: int, record_id: str, version: int) -> bool:
        await self._work("fail_expired", tenant)
        self._claimed.discard((record_id, version))
        return self._attempts.get((record_id, version), 0) >= KV_EXPIRY_ATTEMPTS_MAX

    async def release_claims(self, worker_id: int, workers: int) -> KvReleased:
        """No claim outlives its process here."""
        await self._work("release_claims", -1)
        return KvReleased(0, 0)

    async def retry_expired(self, tenant: int) -> int:
        await self._work("retry_expired", tenant)
        mine = {(r.id, r.version) for (owner, _, _), r in self.records.items() if owner == tenant} - self._claimed
        given_up = [c for c in mine if self._attempts.get(c, 0) >= KV_EXPIRY_ATTEMPTS_MAX]
        for claim in given_up:
            del self._attempts[claim]
        return len(given_up)

    async def resume_keys(self, worker_id: int, workers: int, after: str, limit: int) -> list[KvPlace]:
        await self._work("resume_keys", -1)
        return [p for p in self._resumed(after) if worker_of(p.tenant, workers) == worker_id][:limit]

    async def tenant_resume_keys(self, tenant: int, after: str, limit: int) -> list[KvPlace]:
        await self._work("tenant_resume_keys", tenant)
        return [place for place in self._resumed(after) if place.tenant == tenant][:limit]

    def _resumed(self, after: str) -> list[KvPlace]:
        found = [(owner, r) for (owner, _, _), r in self.records.items() if r.resume and r.id > after]
        return [KvPlace(owner, r.id, r.key, r.scopes) for owner, r in sorted(found, key=lambda item: item[1].id)]
