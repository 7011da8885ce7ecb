"""The list of what a take-over left out or changed, and what is told of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytw.storage.takeover.found import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

_ADD = """
INSERT INTO takeover_left (source, identity, reason, detail, taken)
SELECT $1, identity::jsonb, reason, detail, $5 FROM unnest($2::text[], $3::text[], $4::text[]) AS new (identity, reason, detail)"""
_REPORT = """
SELECT source, reason, taken, count(*) AS rows, (array_agg(identity::text ORDER BY id))[1] AS example
FROM takeover_left GROUP BY source, reason, taken ORDER BY taken, source, reason"""
EXAMPLE_LENGTH_MAX = 200


class Left:
    """Rows of one table of the reference."""

    def __init__(self, source: str) -> None:
        self.source = source

    def insert(self, identity: str, reason: str, rest: str, *, taken: bool = False) -> str:
        """A statement that lists rows. *identity* and *reason* are SQL over the rows of *rest*, its FROM and WHERE."""
        return (
            f"INSERT INTO takeover_left (source, identity, reason, taken) "
            f"SELECT '{self.source}', {identity}, {reason}, {taken} {rest}"
        )

    async def add(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        rows: Sequence[tuple[dict[str, Any], str, str | None]],
        *,
        taken: bool = False,
    ) -> None:
        """Lists (identity, reason, detail) of each."""
        if rows:
            identities = [json.dumps(identity) for identity, _, _ in rows]
            reasons, details = [reason for _, reason, _ in rows], [detail for _, _, detail in rows]
            await connection.execute(_ADD, self.source, identities, reasons, details, taken)

    async def whole(self, connection: asyncpg.Connection[asyncpg.Record], reason: str) -> None:
        """Lists the table as a whole."""
        await connection.execute("INSERT INTO takeover_left (source, reason) VALUES ($1, $2)", self.source, reason)


async def report(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """What an operator should read after a take-over, by lines."""
    counts = json.loads(await connection.fetchval("SELECT rows::text FROM takeover_stages WHERE stage = 'copied'"))
    lines = ["taken over from the reference: " + (", ".join(f"{n:,} of {t}" for t, n in counts.items()) or "nothing")]
    for row in await connection.fetch(_REPORT):
        what = "taken, but look at it" if row["taken"] else "left out"
        example = f", such as {row['example'][:EXAMPLE_LENGTH_MAX]}" if row["example"] else ""
        lines.append(f"{what}: {row['rows']:,} x {row['source']}: {row['reason']}{example}")
    if len(lines) > 1:
        lines.append("`SELECT * FROM takeover_left` lists all of these")
    lines.append(
        f"the tables of the reference are in the schema {SCHEMA} as they were, its tokens in clear among them; "
        f"once nobody needs them: DROP SCHEMA {SCHEMA} CASCADE"
    )
    return lines


__all__ = ["Left", "report"]
