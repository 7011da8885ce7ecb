"""Workers as guests of the embedded server, where they ask it themselves (`--worker-db direct`).

The role that owns the database may do everything, even have the server run programs. So the server tells its guests by the
account at the other end of the socket, which is a worker's own where the master is root, and gives them a role that reads
and writes rows of what workers work on, and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytw.storage.pgfiles import Account
    from pytw.storage.pool import Database

ROLE = "pytw_worker"
#: Beside the cluster's own files, which serve where there are no guests.
RULES, NAMES = "guests_hba.conf", "guests_ident.conf"
#: What guests may do with the rows of which tables; of others, also of those that migrations bring, they see nothing.
RIGHTS = {
    "SELECT, INSERT, UPDATE, DELETE": (
        "global_kv",
        "global_kv_retired",
        "tenant_kv",
        "tenant_kv_scopes",
        "tenant_kv_usage",
        "tenant_state",
    ),
    "SELECT": (
        "global_kv_purchases",
        "shop_templates",
        "sources",
        "template_versions",
        "templates",
    ),
}

_MAKE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} LOGIN; END IF;
END $$"""
_GRANT = f"""
GRANT USAGE ON SCHEMA public TO {ROLE};
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE};
""" + ";\n".join(f"GRANT {rights} ON {', '.join(tables)} TO {ROLE}" for rights, tables in RIGHTS.items())


def write_rules(cluster: Path, account: Account, owner: str) -> None:
    """Whom the server lets in: root and its own account as *owner*, everybody else who reaches its socket as a guest."""
    texts = {
        RULES: f"local all {ROLE} trust\nlocal all all peer map=own\nlocal replication all peer map=own\n",
        NAMES: "".join(f"own {name} {owner}\n" for name in dict.fromkeys(("root", account.name))),
    }
    for name, text in texts.items():
        part = cluster / f"{name}.part"
        part.write_text(text)
        os.chown(part, account.uid, account.gid)
        part.rename(cluster / name)


async def admit(database: Database) -> None:
    """Gives guests their rights, and those only. After migrations, which may bring tables of theirs.

    Raises: StorageUnavailable.
    """
    async with database.transaction() as connection:
        await connection.execute(_MAKE)
        await connection.execute(_GRANT)


__all__ = ["RIGHTS", "ROLE", "admit", "write_rules"]
