from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytw.storage.objectlinks import ObjectLinks
from pytw.storage.objects import ObjectStore
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores


@pytest.fixture
async def stores(database_url: str, tmp_path: Path) -> AsyncIterator[Stores]:
    """The master's stores on a database and a folder of their own."""
    objects = ObjectStore.local(tmp_path / "objects", ObjectLinks(b"k" * 32, "http://127.0.0.1:1"))
    found = Stores(await open_pool(database_url, 4), objects=objects)
    yield found
    await found.close()
