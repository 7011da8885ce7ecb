"""Who may open a link: one token for each worker and spawn, good for one connection.

Only digests are kept, and they are compared in constant time, all of them each time. A newer spawn of a worker takes the
older one's token away.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import NamedTuple

TOKEN_BYTES = 32
#: Longer headers are refused unread.
TOKEN_TEXT_MAX = 256


def new_token() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Spawn(NamedTuple):
    """The worker process that a token was made for."""

    worker_id: int
    epoch: int


class Tokens:
    """The tokens that are waited for."""

    def __init__(self) -> None:
        self._expected: dict[int, tuple[int, bytes]] = {}

    def expect(self, worker_id: int, epoch: int, token: str) -> None:
        """Makes *token* good for one connection of this spawn.

        Raises:
            ValueError: a newer spawn of the worker is expected already.
        """
        known = self._expected.get(worker_id)
        if known is not None and known[0] > epoch:
            raise ValueError(f"worker {worker_id} is at epoch {known[0]}, past {epoch}")
        self._expected[worker_id] = (epoch, _digest(token))

    def forget(self, worker_id: int, epoch: int) -> None:
        """Takes the token of this spawn away, if it was not used."""
        if self._expected.get(worker_id, (None,))[0] == epoch:
            del self._expected[worker_id]

    def spend(self, authorization: str | None) -> Spawn | None:
        """The spawn that an ``Authorization`` header proves, once; None for everyone else."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_TEXT_MAX:
            return None
        digest = _digest(token.strip())
        found = None
        for worker_id, (epoch, expected) in self._expected.items():
            if hmac.compare_digest(digest, expected):
                found = Spawn(worker_id, epoch)
        if found is not None:
            del self._expected[found.worker_id]
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
