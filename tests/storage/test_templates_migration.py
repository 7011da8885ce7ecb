"""What migration 0003 makes of templates that are there already."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import asyncpg
import pytest

from pytw.errors import NotFound
from pytw.storage.migrate import directory, migrate
from pytw.storage.pool import open_pool
from pytw.storage.stores import Stores
from pytw.storage.templateversions import Deployed
from pytw.types import Draft, Id

GUILD = Id.guild(1)
SOURCES = {f"return {{}} -- {n}": hashlib.sha256(f"return {{}} -- {n}".encode()) for n in range(3)}


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    for source, digest in SOURCES.items():
        await connection.execute("INSERT INTO sources VALUES ($1, $2)", digest.digest(), source)
    for template, digests, compiles in (
        ("t", [0], True),
        ("t", [1], True),
        ("u", [0, 2], True),
        ("t", [2], False),
    ):
        hashes = [digest.hexdigest() for digest in SOURCES.values()]
        files = json.dumps({f"{place}.luau": hashes[n] for place, n in enumerate(digests)})
        await connection.execute(
            "INSERT INTO template_versions (owner_type, owner_id, template, files, events, compiles, entry)"
            " VALUES ('guild', '1', $1, $2::text::jsonb, '{A}', $3, '0')",
            template,
            files,
            compiles,
        )
    # A row that no store of ours writes.
    await connection.execute(
        "INSERT INTO template_versions (owner_type, owner_id, template, files) VALUES ('guild', '1', 'v', '{\"a\": [1]}')"
    )
    await connection.execute(
        "INSERT INTO templates (owner_type, owner_id, name, deployed_version, events, shop_ref)"
        " SELECT 'guild', '1', template, max(id), '{A}', NULL FROM template_versions WHERE compiles GROUP BY template"
    )
    await connection.close()


async def test_versions_get_numbers_sizes_and_digests(empty_database_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_initial.sql").write_bytes((directory() / "0001_initial.sql").read_bytes())
    await migrate(empty_database_url, source=tmp_path)
    await fill(empty_database_url)
    await migrate(empty_database_url)
    stores = Stores(await open_pool(empty_database_url, 4))
    found = await stores.versions.list(GUILD, "t")
    assert [(v.number, v.error, v.runs) for v in found] == [
        (3, "it does not compile", False),
        (2, None, True),
        (1, None, False),
    ]
    assert all(0 < v.bytes < 200 and len(v.digest) == 64 for v in found)
    assert [(t.name, bool(t.left_out)) for t in await stores.program(GUILD.key)] == [
        ("t", False),
        ("u", False),
        ("v", True),
    ]
    with pytest.raises(NotFound, match="nothing ran before"):
        await stores.versions.rollback(GUILD, "t")
    assert await stores.templates.put(GUILD, Draft("t", {"init.luau": "return {}"})) == 4
    assert await stores.versions.rollback(GUILD, "t") == Deployed(2)
    hashes = await stores.db.fetchval("SELECT hashes FROM template_versions WHERE template = 'u'")
    assert sorted(hashes) == sorted(list(SOURCES.values())[n].digest() for n in (0, 2))
    await stores.close()
