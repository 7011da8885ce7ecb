"""References into the shop, and the order of versions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytw.errors import RequestError
from pytw.storage.shopversions import ShopRef, position, shop_ref

#: Lowest first.
ORDER = [
    "0",
    "0.1",
    "0.9",
    "0.10",
    "1-0",
    "1-2",
    "1-10",
    "1-alpha",
    "1-alpha.1",
    "1-alpha-2",
    "1-beta",
    "1-beta.2",
    "1-beta.10",
    "1-rc",
    "01",
    "1",
    "1.0",
    "1.0.1",
    "1.9-beta",
    "1.9",
    "1.9.1",
    "1.10",
    "1.10.0",
    "2.0-a",
    "2",
    "10",
    "99999999999999999999",
    "100000000000000000000",
]

_number = st.integers(0, 200).map(str)
_part = st.one_of(_number, st.text("ab", min_size=1, max_size=2))
_versions = st.builds(
    lambda release, early: ".".join(release) + (f"-{'.'.join(early)}" if early else ""),
    st.lists(_number, min_size=1, max_size=3),
    st.lists(_part, max_size=2),
)


def test_versions_are_ordered_as_versions() -> None:
    mixed = ORDER[:]
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=position) == ORDER


def _meaning(version: str) -> tuple[object, ...]:
    """The documented order, as Python compares."""
    release, _, early = version.partition("-")
    numbers = [int(number) for number in release.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in early.split(".")] if early else []
    return numbers, not early, parts, version.encode()


@given(_versions, _versions)
def test_bytes_sort_as_the_rules_say(one: str, other: str) -> None:
    assert (position(one) < position(other)) == (_meaning(one) < _meaning(other))
    assert (position(one) == position(other)) == (one == other)


@pytest.mark.parametrize("text", ["$shop/greet#1.2.10", "$shop/a.b_c-d#latest", "$shop/x#1-beta.2"])
def test_reference_reads_and_writes_the_same(text: str) -> None:
    assert str(shop_ref(text)) == text


def test_reference_is_a_name_and_a_version() -> None:
    assert shop_ref("$shop/greet#latest") == ShopRef("greet", "latest")


@pytest.mark.parametrize(
    "text",
    [
        "greet#1", "$shop/greet", "$shop/#1", "$shop/greet#", "$shop/greet#new", "$shop/a/b#1", "$shop/.x#1", "$shop/x#1.",
        "$shop/x#.1", "$shop/x#v1", "$shop/x#1-", "$shop/x#1 ", "$shop/x#1#2", "$shop/$shop/x#1", "$shop/x#" + "1" * 26,
        "$shop/" + "x" * 33 + "#1", "$shop/x#\u0661",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        shop_ref(text)
