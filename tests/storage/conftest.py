from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    """The master's stores on a database of their own."""
    found = Stores(await open_pool(database_url, 4))
    yield found
    await found.close()
