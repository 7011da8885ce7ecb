"""Secrets of templates: written by operators, read by the template alone, apart from its versions.

They stay when a template is deployed anew, rolled back or paused, and go when it is removed.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pytw.errors import LimitExceeded, NotFound, RequestError, StorageUnavailable, Unavailable
from pytw.limits import SECRET_BYTES_MAX, SECRET_NAME_BYTES_MAX, SECRETS_TEMPLATE_MAX, SECRETS_TENANT_MAX
from pytw.storage import locks
from pytw.types import Id

if TYPE_CHECKING:
    from pytw.storage.pool import Database
    from pytw.storage.secretbox import SecretBox

log = logging.getLogger("pytw.storage.secrets")

NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{SECRET_NAME_BYTES_MAX}}}")

_OWNED = "owner_id = $1 AND owner_type = $2"
#: One writer per tenant, so that the counts below hold.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1 || $2, $3))"
OTHERS = f"""
SELECT count(*) AS tenants, count(*) FILTER (WHERE template = $3) AS templates
FROM template_secrets WHERE {_OWNED} AND NOT (template = $3 AND name = $4)"""
PUT = """
INSERT INTO template_secrets (owner_id, owner_type, template, name, ciphertext) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (owner_id, owner_type, template, name) DO UPDATE SET ciphertext = excluded.ciphertext, created_at = now()"""
LIST = f"SELECT name, ciphertext, created_at FROM template_secrets WHERE {_OWNED} AND template = $3 ORDER BY name"
GET = f"SELECT ciphertext FROM template_secrets WHERE {_OWNED} AND template = $3 AND name = $4"
REMOVE = f"DELETE FROM template_secrets WHERE {_OWNED} AND template = $3 AND name = $4"
REMOVE_ALL = f"DELETE FROM template_secrets WHERE {_OWNED} AND template = $3"
HAS_ANY = f"SELECT EXISTS (SELECT FROM template_secrets WHERE {_OWNED} AND template = $3)"
HEADS = "SELECT DISTINCT substring(ciphertext FROM 1 FOR 9) AS head FROM template_secrets"


@dataclass(frozen=True, slots=True)
class SecretName:
    """That there is a secret, when it was set, and whether this server has the key to it."""

    name: str
    set_at: datetime
    readable: bool


#: Inside the store the name ``list`` is a method.
Names = list[SecretName]


def checked_secret_name(name: str) -> str:
    """Raises: RequestError."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"not a name of a secret: {name[:80]!r}", hint=f"1 to {SECRET_NAME_BYTES_MAX} of letters, digits and . _ -"
        )
    return name


def checked_secret(value: str) -> str:
    """Raises: LimitExceeded. RequestError."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise RequestError("a secret must be UTF-8 text") from None
    if not size:
        raise RequestError("a secret cannot be empty", hint="remove it instead")
    if size > SECRET_BYTES_MAX:
        raise LimitExceeded(f"the secret has {size:,} bytes, and {SECRET_BYTES_MAX:,} is the most")
    return value


class SecretStore:
    """Secrets of all templates. Methods raise what `Database` raises, besides their own."""

    def __init__(self, db: Database, box: SecretBox | None) -> None:
        """
        Args:
            box: None where secrets are only counted: whatever needs the key is refused.
        """
        self._db = db
        self._box = box

    def _require_box(self) -> SecretBox:
        if self._box is None:
            raise Unavailable("this process has no key of secrets")
        return self._box

    async def put(self, owner: Id, template: str, name: str, value: str) -> None:
        """Set a secret, or set it anew; the next read gives the new value.

        Raises:
            RequestError: a bad name, or no text.
            LimitExceeded: too long, or too many of the template's or of the tenant's.
        """
        sealed = self._require_box().seal(owner, template, checked_secret_name(name), checked_secret(value))
        key = _key(owner)
        async with self._db.transaction() as connection:
            await connection.execute(LOCK, *key, locks.SECRETS)
            others = await connection.fetchrow(OTHERS, *key, template, name)
            assert others is not None
            for count, most, whose in (
                (others["templates"], SECRETS_TEMPLATE_MAX, f"template {template}"),
                (others["tenants"], SECRETS_TENANT_MAX, "the tenant"),
            ):
                if count >= most:
                    raise LimitExceeded(f"{whose} has {count:,} secrets already", hint="remove one that is not needed")
            await connection.execute(PUT, *key, template, name, sealed)

    async def list(self, owner: Id, template: str) -> Names:
        """Names, never values."""
        rows = await self._db.fetch(LIST, *_key(owner), template)
        box = self._box
        return [
            SecretName(row["name"], row["created_at"], box is not None and box.opens(row["ciphertext"])) for row in rows
        ]

    async def remove(self, owner: Id, template: str, name: str) -> None:
        """Raises: NotFound."""
        if not await self._db.execute(REMOVE, *_key(owner), template, name):
            raise NotFound(f"template {template} has no secret {name[:80]}")

    async def remove_all(self, owner: Id, template: str) -> int:
        """Of a template that is removed. Returns how many there were."""
        return await self._db.execute(REMOVE_ALL, *_key(owner), template)

    async def has_any(self, owner: Id, template: str) -> bool:
        return bool(await self._db.fetchval(HAS_ANY, *_key(owner), template))

    async def secret_get(self, tenant: int, template: str, name: str) -> str | None:
        """The value, for the template itself.

        Raises: StorageUnavailable: it cannot be decrypted; the script is told no more than that, the log says why.
        """
        owner = Id.of(tenant)
        sealed = await self._db.fetchval(GET, *_key(owner), template, name)
        if sealed is None:
            return None
        try:
            return self._require_box().open(owner, template, name, sealed)
        except StorageUnavailable as error:
            log.error("%s", error, extra={"tenant": tenant})
            raise StorageUnavailable(f"secret {name} cannot be read here: its key is missing") from error

    async def warn_of_other_keys(self) -> None:
        """Say in the log, once at start, that there are secrets which this server's keys do not open."""
        from pytw.storage.secretbox import OTHER_KEY

        heads = await self._db.fetch(HEADS)
        box = self._require_box()
        if any(not box.opens(row["head"]) for row in heads):
            log.error("the database holds secrets of templates that were encrypted with another key: %s", OTHER_KEY)


def _key(owner: Id) -> tuple[str, str]:
    return owner.owner_id, owner.owner_type.value


__all__ = ["SecretName", "SecretStore", "checked_secret", "checked_secret_name"]
