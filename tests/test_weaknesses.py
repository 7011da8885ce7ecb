"""Every weakness of the reference that this version mends has a test that fails on it: `@pytest.mark.weakness(number)`.

The numbers are the rows of the list of weaknesses. Marks are read from the sources: nothing is imported.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent
MARK = "pytest.mark.weakness"
MENDED = frozenset({8, 11, 12, 13, 14, 15, 16, 21, 22, 24, 26, 28, 31, 39, 40})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Mark(NamedTuple):
    """One mark: what it stands at, the class or function of the module that this is in, and its arguments as written."""

    at: ast.ClassDef | Function
    outer: ast.ClassDef | Function
    values: tuple[object, ...]

    @property
    def is_of_a_test(self) -> bool:
        members = self.at.body if isinstance(self.at, ast.ClassDef) else [self.at]
        return any(isinstance(member, Function) and member.name.startswith("test_") for member in members)

    @property
    def number(self) -> int | None:
        return value if len(self.values) == 1 and type(value := self.values[0]) is int else None


def marks(module: ast.Module) -> Iterator[Mark]:
    """Those at functions, at classes and at their methods, also within `pytest.param`."""
    for outer in module.body:
        for node in (outer, *(outer.body if isinstance(outer, ast.ClassDef) else ())):
            if not isinstance(node, ast.ClassDef | Function) or not isinstance(outer, ast.ClassDef | Function):
                continue
            for call in (part for decorator in node.decorator_list for part in ast.walk(decorator)):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == MARK:
                    yield Mark(node, outer, tuple(getattr(value, "value", None) for value in call.args))


@pytest.fixture(scope="module")
def modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(TESTS.rglob("*.py"))}


@pytest.fixture(scope="module")
def found(modules: dict[Path, ast.Module]) -> list[tuple[str, bool, Mark]]:
    """Each mark's place, and whether it is of a test that runs: one in a contract does if some class inherits it."""
    inherited = {
        ast.unparse(base).rpartition(".")[2]
        for module in modules.values()
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    return [
        (
            f"{path.relative_to(TESTS)}::{mark.at.name}",
            mark.is_of_a_test and (path.name.startswith("test_") or mark.outer.name in inherited),
            mark,
        )
        for path, module in modules.items()
        for mark in marks(module)
    ]


def test_every_mended_weakness_has_a_test(found: list[tuple[str, bool, Mark]]) -> None:
    assert sorted(MENDED - {mark.number for _, runs, mark in found if runs}) == []


def test_every_mark_is_one_number_and_stands_at_a_test(found: list[tuple[str, bool, Mark]]) -> None:
    assert [place for place, runs, mark in found if not runs or mark.number is None] == []


def test_the_mark_is_registered(pytestconfig: pytest.Config) -> None:
    assert [line for line in pytestconfig.getini("markers") if line.startswith("weakness(number):")]


def test_marks_are_seen_wherever_they_stand() -> None:
    source = """
@pytest.mark.slow
@pytest.mark.weakness(1)
async def test_one(): ...

@pytest.mark.weakness(2)
class Contract:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.weakness("three"))])
    def test_two(self, x): ...

@pytest.mark.weakness(4, 5)
def helper(): ...

text = "@pytest.mark.weakness(6)"
"""
    seen = [(mark.at.name, mark.outer.name, mark.is_of_a_test, mark.number) for mark in marks(ast.parse(source))]
    assert seen == [
        ("test_one", "test_one", True, 1),
        ("Contract", "Contract", True, 2),
        ("test_two", "Contract", True, None),
        ("helper", "helper", False, None),
    ]
