"""`SecretBox`: encrypts templates' secrets for the database. Only the master holds one.

AES-256-GCM with a random nonce each time. What is stored begins with the version of this layout and with the id of the key, so
that keys can be changed: the first key encrypts, all of them decrypt. Whose secret it is, and its name, are authenticated with
it: a row that was copied to another tenant, template or name does not decrypt there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pytw.errors import ConfigError, StorageUnavailable
from pytw.storage.keyfiles import KEY_BYTES
from pytw.types import Id

#: The layout: version, key id, nonce, ciphertext with its tag.
LAYOUT = b"\x01"
KEY_ID_BYTES = 8
NONCE_BYTES = 12
_HEAD_BYTES = len(LAYOUT) + KEY_ID_BYTES


def decoded_key(text: str, *, name: str) -> bytes:
    """The key that a configuration holds as base64. Raises: ConfigError."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{name} is not {KEY_BYTES} bytes in base64",
            hint="`openssl rand -base64 32` makes one; so does a secrets.key",
        )
    return key


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"pytw secrets key\0" + key).digest()[:KEY_ID_BYTES]


class SecretBox:
    """Encrypts with its first key, decrypts with each."""

    def __init__(self, key: bytes, old_keys: Sequence[bytes] = ()) -> None:
        self._ciphers = {_key_id(known): AESGCM(known) for known in (*old_keys, key)}
        self._now = _key_id(key)

    def seal(self, owner: Id, template: str, name: str, value: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = LAYOUT + self._now
        sealed = self._ciphers[self._now].encrypt(nonce, value.encode(), _place(head, owner, template, name))
        return head + nonce + sealed

    def opens(self, sealed: bytes) -> bool:
        """Whether it was encrypted with a key of this box."""
        return sealed.startswith(LAYOUT) and sealed[len(LAYOUT) : _HEAD_BYTES] in self._ciphers

    def open(self, owner: Id, template: str, name: str, sealed: bytes) -> str:
        """The value. Raises: StorageUnavailable: another key, or not what was stored there."""
        where = f"secret {name} of template {template} of {owner.owner_type.value} {owner.owner_id}"
        if not self.opens(sealed):
            raise StorageUnavailable(f"{where} was encrypted with another key", hint=OTHER_KEY)
        head, nonce = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES]
        try:
            value = self._ciphers[head[len(LAYOUT) :]].decrypt(
                nonce, sealed[_HEAD_BYTES + NONCE_BYTES :], _place(head, owner, template, name)
            )
        except InvalidTag:
            raise StorageUnavailable(f"{where} is damaged, or another's", hint="set it again") from None
        return value.decode()


#: What an operator does about it.
OTHER_KEY = (
    "copy secrets.key from the data folder of the server that wrote it, or put that key into secrets.old_keys "
    "(TW_SECRETS_OLD_KEYS) as base64; or set the secret again"
)


def _place(head: bytes, owner: Id, template: str, name: str) -> bytes:
    return head + bytes(msgpack.packb([owner.owner_type.value, owner.owner_id, template, name]))


__all__ = ["OTHER_KEY", "SecretBox", "decoded_key"]
