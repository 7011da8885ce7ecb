"""Discord's access tokens of users, encrypted as templates' secrets are: a dump of the database lets nobody act for a user.

A database that was taken over from the reference holds them in clear, until `seal_all` has run.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pytw.errors import LimitExceeded, NotFound, StorageUnavailable, Unavailable
from pytw.limits import USER_TOKEN_BYTES_MAX
from pytw.types import Id

if TYPE_CHECKING:
    from pytw.storage.pool import Database
    from pytw.storage.secretbox import SecretBox

log = logging.getLogger(__name__)

#: What is encrypted belongs to this place: no template has an empty name.
NO_TEMPLATE = ""
NAME = "access_token"
#: Rows that are encrypted in one transaction.
SEALED_AT_ONCE = 500

KEEP = "UPDATE users SET access_token_sealed = $2, access_token = NULL, last_updated_at = now() WHERE user_id = $1"
GET = "SELECT access_token, access_token_sealed FROM users WHERE user_id = $1"
CLEAR = "SELECT user_id, access_token FROM users WHERE access_token IS NOT NULL ORDER BY user_id LIMIT $1 FOR UPDATE"
SEAL = "UPDATE users SET access_token_sealed = $2, access_token = NULL WHERE user_id = $1"


class UserTokens:
    """Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, box: SecretBox | None) -> None:
        """
        Args:
            box: None where no token is read or written: that is refused.
        """
        self._db = db
        self._box = box

    def _require_box(self) -> SecretBox:
        if self._box is None:
            raise Unavailable("this process has no key of secrets")
        return self._box

    async def keep(self, user_id: str, token: str) -> None:
        """Keep the user's token in place of an older one.

        Raises:
            NotFound: no such user.
            LimitExceeded: more than `USER_TOKEN_BYTES_MAX`.
        """
        if len(token.encode()) > USER_TOKEN_BYTES_MAX:
            raise LimitExceeded(f"the access token is longer than {USER_TOKEN_BYTES_MAX:,} bytes")
        if not await self._db.execute(KEEP, user_id, self._sealed(user_id, token)):
            raise NotFound(f"there is no user {user_id}")

    async def get(self, user_id: str) -> str | None:
        """The user's token; None if there is none, or none that can be decrypted: the user logs in again."""
        row = await self._db.fetchrow(GET, user_id)
        if row is None or row["access_token_sealed"] is None:
            return None if row is None else row["access_token"]
        try:
            return self._require_box().open(_owner(user_id), NO_TEMPLATE, NAME, row["access_token_sealed"])
        except StorageUnavailable:
            log.warning("the access token of user %s was encrypted with another key: a new login replaces it", user_id)
            return None

    async def seal_all(self) -> int:
        """Encrypt what stands in clear. Returns how many that were. Run at start, before anything needs them."""
        count = 0
        while True:
            async with self._db.transaction() as connection:
                rows = await connection.fetch(CLEAR, SEALED_AT_ONCE)
                sealed = [(row["user_id"], self._sealed(row["user_id"], row["access_token"])) for row in rows]
                await connection.executemany(SEAL, sealed)
            count += len(rows)
            if len(rows) < SEALED_AT_ONCE:
                return count

    def _sealed(self, user_id: str, token: str) -> bytes:
        return self._require_box().seal(_owner(user_id), NO_TEMPLATE, NAME, token)


def _owner(user_id: str) -> Id:
    return Id.user(int(user_id))


__all__ = ["UserTokens"]
