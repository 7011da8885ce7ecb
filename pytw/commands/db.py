"""`tw db dump|restore|status`: the database as a file, back again, and what is in it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pytw import observe
from pytw.commands.settings import configured, reading
from pytw.config import Config, without_password

if TYPE_CHECKING:
    import asyncpg

    from pytw.main.database import Reached

R = TypeVar("R")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def db() -> None:
    """Dump, restore and look at the database: the configured one, else the embedded one in the data folder.

    Objects (files that templates store) are not in the database, and not in its dumps.
    """


def _config(config_file: str | None, data_dir: str | None) -> Config:
    config = reading(config_file, data_dir).config
    observe.setup_logging(config.log.level, json_lines=config.log.json)
    return config


def _with_connection(database: Reached, work: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[R]]) -> R:
    from pytw.storage.pool import connect, translated

    async def run() -> R:
        connection = await connect(database.url)
        try:
            with translated():
                return await work(connection)
        finally:
            await connection.close(timeout=5)

    return asyncio.run(run())


def _environ(config: Config) -> dict[str, str]:
    return {**os.environ, **({"TW_PG_BIN": config.pg.bin} if config.pg.bin else {})}


def _objects(config: Config) -> str:
    """Where the objects are, which no dump holds."""
    settings = config.object_storage
    if settings.type != "local":
        return f"{settings.type} {settings.base_path}".strip()
    return str(Path(settings.base_path or os.path.join(config.data_dir, "objects")).expanduser())


@db.command("dump")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Take the place of a file that is there.")
@configured
def dump(file: Path, force: bool, config_file: str | None, data_dir: str | None) -> None:
    """Save the database in FILE, while the server runs or not. Objects are apart: copy their folder or bucket too."""
    config = _config(config_file, data_dir)
    from pytw.main.database import reached
    from pytw.storage import dumps
    from pytw.storage.pgclient import client

    with reached(config) as database:
        programs = client(database.url, _environ(config))
        size = _with_connection(database, lambda c: dumps.dump(c, programs, file.absolute(), force=force))
    click.echo(f"{file}: {size:,} bytes; objects are not in it ({_objects(config)})")


@db.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--replace", is_flag=True, help="Even if the database has rows: they go.")
@configured
def restore(file: Path, replace: bool, config_file: str | None, data_dir: str | None) -> None:
    """Put what FILE holds into the database, and migrate it. All or nothing, and while no server uses it."""
    config = _config(config_file, data_dir)
    from pytw.main.database import reached
    from pytw.storage import dumps
    from pytw.storage.migrate import migrate
    from pytw.storage.pgclient import client

    with reached(config, alone=True, make=True) as database:
        programs = client(database.url, _environ(config))
        _with_connection(database, lambda c: dumps.restore(c, programs, file.absolute(), replace=replace))
        applied = asyncio.run(migrate(database.url, limits=config.limits))
    click.echo(f"restored {file}; objects are not in it ({_objects(config)})")
    for name in applied:
        click.echo(f"applied {name}")


@db.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@configured
def status(as_json: bool, config_file: str | None, data_dir: str | None) -> None:
    """Size, rows, migrations and version of the database."""
    config = _config(config_file, data_dir)
    from pytw.main.database import reached
    from pytw.storage.dbstatus import facts
    from pytw.storage.migrate import status as migrations

    with reached(config) as database:
        has = asyncio.run(migrations(database.url))
        found: dict[str, Any] = _with_connection(database, facts)
    found |= {
        "database": str(database.data_dir) if database.data_dir else without_password(database.url).partition("?")[0],
        "embedded": database.data_dir is not None,
        "applied": list(has.applied),
        "pending": has.pending,
        "objects": _objects(config),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['database']}{' (embedded)' if found['embedded'] else ''}, PostgreSQL {found['version']}")
    click.echo(f"{found['bytes']:,} bytes; {len(found['applied'])} migrations applied, {len(found['pending'])} pending")
    for table in found["tables"]:
        about = "~" if table["estimated"] else ""
        click.echo(f"  {table['name']:<24} {about}{table['rows']:,} rows, {table['bytes']:,} bytes")
    if any(table["estimated"] for table in found["tables"]):
        click.echo("  (~: an estimate of the database's own)")
    click.echo(f"objects are apart, and not in dumps: {found['objects']}")
