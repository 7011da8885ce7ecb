"""Takes over what a tenant has in the reference's buckets: ``antiraid.guilds`` and ``antiraid.users``, keys ``{id}/{key}``.

On demand, a tenant at a time. Nothing there is changed, and what the tenant has under the same key here stays: it can be done
again at any time. Source: spec/http-schema-systems.md 3.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pytw.errors import LimitExceeded, RequestError
from pytw.limits import OBJECT_ADOPT_MAX, OBJECT_BYTES_MAX

if TYPE_CHECKING:
    from pytw.storage.objectblobs import Blobs
    from pytw.storage.objects import ObjectStore
    from pytw.types import Id, OwnerType


class Adopted(NamedTuple):
    """How many objects were taken and were here before, and why others were left where they are, by key."""

    taken: int
    here: int
    left: dict[str, str]


class ReferenceObjects:
    """*places* opens the bucket of a kind of tenants. Raises: NotFound: there is none."""

    def __init__(self, store: ObjectStore, places: Callable[[OwnerType], Blobs]) -> None:
        self._store = store
        self._places = places

    async def adopt(self, owner: Id) -> Adopted:
        """Raises: NotFound, StorageUnavailable, LimitExceeded: more than `OBJECT_ADOPT_MAX` objects."""
        place, folder = self._places(owner.owner_type), owner.owner_id
        keys: list[str] = []
        async for key in place.under(folder):
            keys.append(key)
            if len(keys) > OBJECT_ADOPT_MAX:
                raise LimitExceeded(f"more than {OBJECT_ADOPT_MAX:,} objects are there")
        taken = here = 0
        left: dict[str, str] = {}
        for key in sorted(keys):
            try:
                if await self._store.exists(owner, key):
                    here += 1
                    continue
                data = await place.get(f"{folder}/{key}")
                if data is None:
                    left[key] = f"it has gone meanwhile, or is longer than {OBJECT_BYTES_MAX:,} bytes"
                    continue
                await self._store.put(owner, key, data)
                taken += 1
            except (RequestError, LimitExceeded) as error:
                left[key] = error.detail
        return Adopted(taken, here, left)


__all__ = ["Adopted", "ReferenceObjects"]
