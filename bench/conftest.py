"""Prints each figure as a ratio to its raw baseline beside the budgets, and keeps them for the stamped table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

# The benches import each other, and the tests' stand-ins for database and Discord.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: str
    ratio: str
    documented: str
    budget: str
    met: bool | None


_figures: list[Figure] = []


class Report:
    """Collects the figures of one run."""

    def add(
        self,
        name: str,
        value: str,
        *,
        ratio: str = "",
        documented: str = "-",
        budget: str = "-",
        met: bool | None = None,
    ) -> None:
        """Notes a figure. *met* says whether our budget holds in this run; None where there is no budget."""
        _figures.append(Figure(name, value, ratio, documented, budget, met))


@pytest.fixture
def report() -> Iterator[Report]:
    yield Report()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _figures:
        return
    widths = [max(len(getattr(f, c)) for f in _figures) for c in ("name", "value", "ratio", "documented", "budget")]
    terminalreporter.section("figures: absolute, ratio to the raw baseline, documented, our budget")
    for f in _figures:
        cells = (f.name, f.value, f.ratio, f.documented, f.budget)
        verdict = {True: "met", False: "NOT MET", None: ""}[f.met]
        terminalreporter.write_line("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + "  " + verdict)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "figures.json").write_text(json.dumps([asdict(f) for f in _figures], indent=1))
