"""The pages of docs/luau are what `make docs` makes of native/types."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _generator():
    spec = importlib.util.spec_from_file_location("luau_api", ROOT / "docs" / "luau_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


luau_api = _generator()


@pytest.mark.parametrize("name", sorted(luau_api.pages()))
def test_a_page_is_what_make_docs_makes(name):
    assert (ROOT / "docs" / "luau" / name).read_text() == luau_api.pages()[name], "run `make docs`"


def test_no_page_is_left_over():
    assert {path.name for path in (ROOT / "docs" / "luau").glob("*.md")} == set(luau_api.pages())


def test_a_declaration_keeps_its_comment():
    head, entries = luau_api.read(
        "-- What it is.\n\n--- Says it.\ndeclare class X\n\t--- A number.\n\tn: number\nend\n"
    )
    assert head == "What it is."
    assert [tuple(entry) for entry in entries] == [(0, "declare class X", "Says it."), (1, "n: number", "A number.")]
