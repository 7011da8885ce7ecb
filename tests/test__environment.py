"""Sorts first: explains a bad set-up in one line before a hundred tests fail because of it."""

import importlib
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
REBUILD = "run `make build`"


def test_python_is_new_enough():
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize("source", [*ROOT.glob("pytw/**/*.pyx"), ROOT / "pytw/_native.pyi"], ids=lambda p: p.stem)
def test_compiled_module_loads(source):
    name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.fail(f"{name} is not built for this Python ({error}): {REBUILD}", pytrace=False)
    assert Path(module.__file__).is_relative_to(ROOT), f"tests run against another copy of pytw: {module.__file__}"


def test_dependencies_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wrong = []
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or found not in wanted.specifier:
            wrong.append(f"{wanted} (found {found})")
    assert not wrong, f"{', '.join(wrong)}: {REBUILD}"


def test_extras_do_not_ask_for_what_they_do_not_name():
    """A wheel's own metadata names the extras of the documentation."""
    try:
        lines = requires("pytw") or []
    except PackageNotFoundError:
        pytest.skip("pytw runs from the tree without an installation")
    extras = {part.split("extra == ")[1].strip("'\" )") for part in lines if "extra == " in part}
    assert {"dev", "bench", "debug"} <= extras
