"""`tw migrate [status]`: the database's schema, brought to that of this build. Needs a database and nothing else."""

from __future__ import annotations

import asyncio

import click

from pytw import observe
from pytw.commands.settings import configured, reading

#: What `tw migrate status` ends with where something is pending.
PENDING_EXIT_CODE = 1


def run(config_file: str | None, data_dir: str | None) -> int:
    """Migrate, and say what was applied. Also what `tw serve --worker-type migrate` does."""
    found = reading(config_file, data_dir)
    observe.setup_logging(found.config.log.level, json_lines=found.config.log.json)
    from pytw.main.database import reached
    from pytw.storage.migrate import TAKEOVER, migrate, status

    with reached(found.config, alone=True, make=True) as database:
        applied = asyncio.run(migrate(database.url, limits=found.config.limits))
        told = asyncio.run(status(database.url)).takeover if TAKEOVER in applied else []
    for name in applied:
        click.echo(f"applied {name}")
    for line in told:
        click.echo(line)
    if not applied:
        click.echo("nothing to apply")
    return 0


def show(config_file: str | None, data_dir: str | None) -> int:
    """What is applied and what is pending."""
    found = reading(config_file, data_dir)
    observe.setup_logging(found.config.log.level, json_lines=found.config.log.json)
    from pytw.main.database import reached
    from pytw.storage.migrate import Kind, status

    with reached(found.config) as database:
        has = asyncio.run(status(database.url))
    if has.kind is Kind.REFERENCE:
        click.echo("a database of the reference; `tw migrate` takes it over and keeps its tables")
    elif has.kind is Kind.EMPTY:
        click.echo("an empty database")
    for name, applied_at in has.applied.items():
        click.echo(f"applied  {name}  {applied_at:%Y-%m-%d %H:%M:%S} UTC")
    for name in has.pending:
        click.echo(f"pending  {name}")
    for line in has.takeover:
        click.echo(line)
    click.echo("`tw migrate` applies what is pending" if has.pending else "up to date")
    return PENDING_EXIT_CODE if has.pending else 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", type=click.Choice(["status"]), required=False)
@configured
def migrate(what: str | None, config_file: str | None, data_dir: str | None) -> int:
    """Bring the database's schema up to date: the configured one, else the embedded one in the data folder.

    A database of the reference is taken over: its tables are kept in a schema of their own, its rows copied.
    `tw migrate status` says what is applied and what is pending, and ends with 1 if anything is.
    """
    return show(config_file, data_dir) if what == "status" else run(config_file, data_dir)
