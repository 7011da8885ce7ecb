"""`tw migrate`: the database's schema, brought to that of this build. Needs a database and nothing else."""

from __future__ import annotations

import click

from pytw import observe
from pytw.commands.settings import configured, reading


def run(config_file: str | None, data_dir: str | None) -> int:
    """Migrate, and say what was applied. Also what `tw serve --worker-type migrate` does."""
    found = reading(config_file, data_dir)
    observe.setup_logging(found.config.log.level, json_lines=found.config.log.json)
    from pytw.main.database import migrate_only

    applied = migrate_only(found.config)
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to apply")
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@configured
def migrate(config_file: str | None, data_dir: str | None) -> int:
    """Bring the database's schema up to date: the configured one, else the embedded one in the data folder."""
    return run(config_file, data_dir)
