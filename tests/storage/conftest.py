from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytw.storage.objectblobs import LocalBlobs
from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import open_pool
from pytw.storage.secretbox import SecretBox
from pytw.storage.stores import Stores


@pytest.fixture
async def stores(database_url: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """The master's stores on a database and a folder of their own."""
    database = await open_pool(database_url, 4)
    blobs = LocalBlobs(tmp_path / "objects", ObjectLinks(b"k" * 32, "http://127.0.0.1:1"))
    found = Stores(database, objects=ObjectStore(database, blobs), box=SecretBox(b"s" * 32))
    yield found
    await found.close()
