"""Keys of PostgreSQL's advisory locks: they share one space of numbers, so they stand in one place."""

from __future__ import annotations

#: Held by who migrates, for as long as it takes.
MIGRATE = 0x7079_7477  # "pytw"
#: Held shared by who saves sources, alone by who collects those that nobody refers to.
SOURCES = 0x7079_7478
#: Held shared by who takes a template from the shop, alone by who changes which versions are approved.
SHOP = 0x7079_7479
#: Hashed with a tenant: who sets one of its secrets.
SECRETS = 0x7079_747A
#: Hashed with a tenant: who changes its templates.
TEMPLATES = 0x7079_747B
#: Held by the server that serves a database, for as long as it runs.
SERVER = 0x7079_747C

__all__ = ["MIGRATE", "SECRETS", "SERVER", "SHOP", "SOURCES", "TEMPLATES"]
