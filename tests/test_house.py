"""The house rules that no linter holds (docs/ARCHITECTURE.md names the rooms)."""

import ast
import re
from pathlib import Path

import pytest

from pytw import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pytw"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_migrations" not in path.parts)
LINES_MAX = 500
NATIVE_USERS = {"luau/__init__.py", "worker/vms.py"}
#: Words that say a thing is unfinished; spelt so that this file does not match itself.
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|unimplemented!|todo!\(")
SOURCES = sorted(
    path
    for folder, suffixes in (
        ("pytw", (".py", ".pyx", ".luau")),
        ("native/src", (".rs",)),
        ("tests", (".py", ".luau")),
        ("bench", (".py",)),
    )
    for path in (ROOT / folder).rglob("*")
    if path.suffix in suffixes and path != Path(__file__)
)


def name(path):
    return str(path.relative_to(ROOT))


def tree(path):
    return ast.parse(path.read_text("utf-8"), str(path))


@pytest.fixture(scope="module")
def trees():
    return {path: tree(path) for path in MODULES}


def test_every_module_says_its_job_in_its_first_line(trees):
    silent = [name(path) for path, module in trees.items() if not (ast.get_docstring(module) or "").splitlines()[:1]]
    assert not silent


def test_every_native_room_says_its_job():
    silent = [
        name(path) for path in (ROOT / "native/src").rglob("*.rs") if not path.read_text().lstrip().startswith("//!")
    ]
    assert not silent


def test_no_file_is_longer_than_its_job():
    """Past 500 lines there is a second noun. Tables and generated files are exempt and say so on line 1."""
    long = []
    for path in SOURCES:
        lines = path.read_text("utf-8").splitlines()
        if len(lines) > LINES_MAX and "exempt from the size rule" not in lines[0]:
            long.append(f"{name(path)}: {len(lines)}")
    assert not long


def test_nothing_is_left_unfinished():
    left = [
        f"{name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not left


def test_no_exception_is_swallowed(trees):
    """`except Exception: pass` (or wider) hides bugs: one `except` per meaning."""
    swallowed = []
    for path, module in trees.items():
        for node in ast.walk(module):
            if not isinstance(node, ast.ExceptHandler):
                continue
            wide = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            empty = all(isinstance(step, ast.Pass | ast.Continue) or _is_literal(step) for step in node.body)
            if wide and empty:
                swallowed.append(f"{name(path)}:{node.lineno}")
    assert not swallowed


def _is_literal(step):
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _imports(module):
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_vms_and_luau_touch_the_native_module(trees):
    """import-linter sees no compiled modules, so this contract stands here."""
    users = {
        str(path.relative_to(PACKAGE)) for path, module in trees.items() if "pytw._native" in set(_imports(module))
    }
    assert users <= NATIVE_USERS


def _errors(cls=errors.PytwError):
    yield cls
    for sub in cls.__subclasses__():
        yield from _errors(sub)


def test_error_codes_are_unique_slugs():
    codes = [cls.code for cls in _errors() if cls is not errors.PytwError]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_errors_are_declared_in_one_place():
    assert {cls.__module__ for cls in _errors()} == {"pytw.errors"}


def test_exit_codes_are_distinct_and_not_those_of_usage_or_refusal():
    codes = [cls.exit_code for cls in _errors(errors.ConfigError)]
    assert len(codes) == len(set(codes))
    assert not {0, 1, 2, 70, 71, 130} & set(codes)


@pytest.mark.parametrize("cls", list(_errors()), ids=lambda cls: cls.code)
def test_error_survives_the_wire(cls):
    if cls is errors.PytwError:
        pytest.skip("a base; nothing raises it")
    back = errors.from_wire(cls.code, "what happened", "what to do")
    assert type(back) is cls
    assert str(back) == "what happened (what to do)"


def test_unknown_code_becomes_an_internal_error():
    assert type(errors.from_wire("from_the_future", "x")) is errors.InternalError


def test_no_test_sleeps_to_synchronise():
    """A wait for the thing itself may look every few milliseconds; a tenth of a second hopes that it has happened."""
    hoping = [
        f"{name(path)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("asyncio.sleep", "time.sleep")
        and isinstance(length := node.args[0], ast.Constant)
        and length.value >= 0.1
    ]
    assert not hoping
