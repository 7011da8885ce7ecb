"""What the key-value store is, as a dict, and whether answers of operations at the same time have an order that explains them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Place = tuple[int, str, tuple[str, ...]]


@dataclass(frozen=True)
class Row:
    """A record as its tenant knows it. ``attempts``, ``claimed`` and ``waits`` are how its expiry stands."""

    id: str
    version: int
    value: Any
    expires: str = "never"  #: never, past or future
    resume: bool = False
    attempts: int = 0
    claimed: bool = False
    waits: bool = False


class Store:
    """The records of all tenants."""

    def __init__(self) -> None:
        self.rows: dict[Place, Row] = {}

    def matching(self, tenant: int, scopes: list[str]) -> list[tuple[Place, Row]]:
        found = [(p, r) for p, r in self.rows.items() if p[0] == tenant and set(scopes) <= set(p[2])]
        return sorted(found, key=lambda item: (len(item[0][2]), item[0][2]))

    def best(self, tenant: int, key: str, scopes: list[str]) -> tuple[Place, Row] | None:
        return next(((p, r) for p, r in self.matching(tenant, scopes) if p[1] == key), None)

    def by_id(self, tenant: int, record_id: str) -> Place | None:
        return next((p for p, r in self.rows.items() if p[0] == tenant and r.id == record_id), None)

    def due(self) -> list[Place]:
        return [
            p for p, r in self.rows.items() if r.expires == "past" and r.attempts < 10 and not r.claimed and not r.waits
        ]

    def change(self, place: Place, **fields: Any) -> None:
        self.rows[place] = replace(self.rows[place], **fields)


class Step(NamedTuple):
    """One operation on one key among several at the same time, and its answer; ``answer`` is an error's name where it broke."""

    kind: str  #: set, get or delete
    value: Any = None
    if_version: int | None = None
    answer: Any = None

    @property
    def broke(self) -> bool:
        return self.answer == "broke"


State = tuple[int, Any]  #: version, 0 without a record; value


def apply(step: Step, state: State) -> tuple[State, Any]:
    """The state behind a step, and what it answers."""
    version, value = state
    if step.kind == "get":
        return state, (version, value)
    if step.kind == "delete":
        return (0, None), int(version > 0)
    if step.if_version is not None and step.if_version != version:
        return state, (False, version)
    return (version + 1, step.value), (True, version + 1)


def explained(steps: list[Step], before: State, after: State) -> bool:
    """Whether some order of the steps gives their answers and ends in *after*. What broke off has happened or has not."""
    if not steps:
        return before == after
    for index, step in enumerate(steps):
        rest = steps[:index] + steps[index + 1 :]
        behind, answer = apply(step, before)
        if step.broke and explained(rest, before, after):
            return True
        if (step.broke or answer == step.answer) and explained(rest, behind, after):
            return True
    return False
