"""What staff does in the global key-value store: review, price, purchases, and publishing in its own name.

Purchases are noted here by hand or by whatever takes the money; a tenant that has one gets the data for as long as the
version is approved. Only what staff publishes has a price (spec/http-schema-systems.md 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytw.errors import Conflict, NotFound, RequestError
from pytw.limits import GLOBAL_KV_FIND_BYTES_MAX, GLOBAL_KV_FIND_ROWS_MAX, GLOBAL_KV_PURCHASES_SHOWN_MAX
from pytw.storage.globalkv import (
    COLUMNS,
    PLACE,
    STAFF,
    checked_price,
    checked_review_state,
    is_bound,
    may_exist,
    page,
    record,
)
from pytw.types import GlobalPage, GlobalPurchase, Id, OwnerType

if TYPE_CHECKING:
    from pytw.storage.pool import Database
    from pytw.types import GlobalRecord

# One row more than a page has says that there are others.
LIST = f"""
WITH page AS (
    SELECT {COLUMNS}, NULL AS long FROM global_kv
    WHERE review_state = $1 AND (scope, key, version) > ($2, $3, $4) ORDER BY scope, key, version LIMIT $5 + 1
), weighed AS (
    SELECT *, count(*) OVER () AS candidates,
        sum(octet_length(short) + octet_length(public_metadata)) OVER (ORDER BY scope, key, version) AS bytes
    FROM page
)
SELECT * FROM weighed WHERE bytes <= {GLOBAL_KV_FIND_BYTES_MAX} ORDER BY scope, key, version LIMIT $5"""
GET = f"SELECT {COLUMNS}, long, data::text AS data FROM global_kv WHERE {PLACE}"
REVIEW = f"UPDATE global_kv SET review_state = $4, last_updated_at = now() WHERE {PLACE}"
PRICE = f"""
WITH found AS (SELECT owner_type FROM global_kv WHERE {PLACE}),
priced AS (
    UPDATE global_kv SET price = $4, last_updated_at = now()
    WHERE {PLACE} AND ($4::bigint IS NULL OR owner_type = '{STAFF}')
)
SELECT owner_type FROM found"""
GRANT = f"""
WITH found AS (SELECT price FROM global_kv WHERE {PLACE}),
granted AS (
    INSERT INTO global_kv_purchases (scope, key, version, owner_id, owner_type, price, granted_by)
    SELECT $1, $2, $3, $4, $5, coalesce($6::bigint, price), $7 FROM found WHERE price IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING price
)
SELECT price, (SELECT price FROM granted) AS paid FROM found"""
REVOKE = f"DELETE FROM global_kv_purchases WHERE {PLACE} AND owner_id = $4 AND owner_type = $5"
PURCHASES = f"""
SELECT owner_id, owner_type, price, granted_by, created_at FROM global_kv_purchases
WHERE {PLACE} AND (owner_id, owner_type) > ($4, $5) ORDER BY owner_id, owner_type LIMIT $6"""


class GlobalKvStaff:
    """Methods raise what `Database` raises, besides their own. None asks whether its caller is staff."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def in_state(
        self, state: str, *, limit: int = GLOBAL_KV_FIND_ROWS_MAX, after: tuple[str, str, int] = ("", "", 0)
    ) -> GlobalPage:
        """Versions in a review state, by scope, key and version, without their data, behind the place *after*.

        The page's own ``after`` only says that there are more: they are behind the place of its last item.

        Raises: RequestError.
        """
        limit = max(1, min(limit, GLOBAL_KV_FIND_ROWS_MAX))
        return page(await self._db.fetch(LIST, checked_review_state(state), *after, limit))

    async def get(self, scope: str, key: str, version: int) -> GlobalRecord:
        """One version with its data, whatever its state. Raises: NotFound."""
        row = await self._db.fetchrow(GET, scope, key, version) if may_exist(key, version) else None
        if row is None:
            raise _missing(key, version)
        return record(row)

    async def review(self, scope: str, key: str, version: int, state: str) -> None:
        """Set the review state; only what is approved is seen, also by its buyers. Raises: NotFound, RequestError."""
        checked_review_state(state)
        if not (may_exist(key, version) and await self._db.execute(REVIEW, scope, key, version, state)):
            raise _missing(key, version)

    async def set_price(self, scope: str, key: str, version: int, price: int | None) -> None:
        """Set the price of what staff has published; None: everybody has it. Purchases stay.

        Raises:
            NotFound.
            RequestError: it belongs to a tenant, or no such price.
        """
        checked_price(price)
        owner = await self._db.fetchval(PRICE, scope, key, version, price) if may_exist(key, version) else None
        if owner is None:
            raise _missing(key, version)
        if price is not None and owner != STAFF:
            raise RequestError(
                f"version {version} of {key} belongs to a {owner}: only what staff publishes has a price",
                hint="publish it as staff",
            )

    async def grant(
        self, scope: str, key: str, version: int, owner: Id, *, granted_by: str, price: int | None = None
    ) -> int:
        """Note that *owner* has bought a version; returns the price it was bought for, which is the price of now by default.

        Raises:
            NotFound.
            RequestError: it has no price: everybody has it.
            Conflict: it was bought already.
        """
        checked_price(price)
        row = None
        if may_exist(key, version):
            buyer = (owner.owner_id, owner.owner_type.value)
            try:
                row = await self._db.fetchrow(GRANT, scope, key, version, *buyer, price, granted_by)
            except RequestError as error:
                if not is_bound(error):
                    raise
                # Deleted since the statement began: there is none.
        if row is None:
            raise _missing(key, version)
        if row["price"] is None:
            raise RequestError(f"version {version} of {key} has no price: everybody has it")
        if row["paid"] is None:
            raise Conflict(f"{owner.owner_type.value} {owner.owner_id} has bought version {version} of {key} already")
        return int(row["paid"])

    async def revoke(self, scope: str, key: str, version: int, owner: Id) -> None:
        """Take a purchase back. Raises: NotFound."""
        buyer = (owner.owner_id, owner.owner_type.value)
        if not (may_exist(key, version) and await self._db.execute(REVOKE, scope, key, version, *buyer)):
            raise NotFound(f"{owner.owner_type.value} {owner.owner_id} has not bought version {version} of {key[:80]}")

    async def purchases(
        self,
        scope: str,
        key: str,
        version: int,
        *,
        limit: int = GLOBAL_KV_PURCHASES_SHOWN_MAX,
        after: Id | None = None,
    ) -> list[GlobalPurchase]:
        """Who has bought a version, by id as text; behind *after*, if it is given."""
        if not may_exist(key, version):
            return []
        behind = ("", "") if after is None else (after.owner_id, after.owner_type.value)
        limit = max(1, min(limit, GLOBAL_KV_PURCHASES_SHOWN_MAX))
        return [
            GlobalPurchase(
                Id(OwnerType(row["owner_type"]), int(row["owner_id"])),
                row["price"],
                row["granted_by"],
                row["created_at"],
            )
            for row in await self._db.fetch(PURCHASES, scope, key, version, *behind, limit)
        ]


def _missing(key: str, version: int) -> NotFound:
    return NotFound(f"there is no version {version} of {key[:80]}")


__all__ = ["GlobalKvStaff"]
