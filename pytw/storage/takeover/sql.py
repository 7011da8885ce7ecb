"""Pieces of SQL that several tables need."""

from __future__ import annotations

SNOWFLAKE_DIGITS_MAX = 19


def is_snowflake(column: str) -> str:
    """Whether the domain ``snowflake`` takes the column; false for null."""
    return (
        f"(CASE WHEN {column} ~ '^(0|[1-9][0-9]*)$' AND octet_length({column}) <= {SNOWFLAKE_DIGITS_MAX} "
        f"THEN {column}::numeric < 9223372036854775808 ELSE false END)"
    )


def as_set(column: str) -> str:
    """An array of text sorted by bytes, each element once, without nulls."""
    return f'ARRAY(SELECT DISTINCT item COLLATE "C" FROM unnest({column}) AS item WHERE item IS NOT NULL ORDER BY 1)'


def count(status: str) -> int:
    """How many rows a statement touched, from what the server answered."""
    return int(status.rpartition(" ")[2])


__all__ = ["as_set", "count", "is_snowflake"]
