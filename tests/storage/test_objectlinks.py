from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pytw.errors import Forbidden, StorageRefused
from pytw.storage.objectlinks import ObjectLinks, owner_of, read_key
from pytw.types import Id

OWNER = Id.guild(5)


def parts(url: str) -> tuple[str, dict[str, str]]:
    found = urlsplit(url)
    return unquote(found.path), {name: values[0] for name, values in parse_qs(found.query).items()}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_url_is_good_until_it_expires() -> None:
    clock = Clock()
    links = ObjectLinks(b"k" * 32, "https://api.example/", clock=clock)
    url = links.url(OWNER, "a/ü b?.txt", 60)
    path, query = parts(url)
    assert url.startswith("https://api.example/objects/guilds/5/a/%C3%BC%20b%3F.txt?")
    assert (path, query["expires"]) == ("/objects/guilds/5/a/ü b?.txt", "1060")
    for now in (1000.0, 1060.0):
        clock.now = now
        links.check(OWNER, "a/ü b?.txt", **query)
    clock.now = 1060.1
    with pytest.raises(Forbidden, match="has expired"):
        links.check(OWNER, "a/ü b?.txt", **query)


def test_no_part_of_a_url_can_be_another() -> None:
    links = ObjectLinks(b"k" * 32, "", clock=Clock())
    good = parts(links.url(OWNER, "k", 60))[1]
    for owner, key, change in (
        (Id.guild(6), "k", {}),
        (Id.user(5), "k", {}),
        (OWNER, "kk", {}),
        (OWNER, "k", {"expires": "1061"}),
        (OWNER, "k", {"expires": "01060"}),
        (OWNER, "k", {"expires": "\u0661\u0660\u0666\u0660"}),
        (OWNER, "k", {"expires": ""}),
        (OWNER, "k", {"expires": "9" * 5000}),
        (OWNER, "k", {"expires": "-1"}),
        (OWNER, "k", {"signature": ""}),
        (OWNER, "k", {"signature": good["signature"].upper()}),
        (OWNER, "k", {"signature": "é" * 64}),
    ):
        with pytest.raises(Forbidden, match="does not fit"):
            links.check(owner, key, **{**good, **change})
    with pytest.raises(Forbidden, match="does not fit"):
        ObjectLinks(b"j" * 32, "", clock=Clock()).check(OWNER, "k", **good)


def test_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / "objects.key"
    key = read_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path) == key
    path.write_bytes(b"short")
    with pytest.raises(StorageRefused, match="does not hold 32 bytes"):
        read_key(path)
    with pytest.raises(StorageRefused, match="cannot keep the key"):
        read_key(tmp_path / "missing" / "objects.key")


@pytest.mark.parametrize(
    ("kind", "number", "found"),
    [
        ("guilds", "5", Id.guild(5)),
        ("users", "5", Id.user(5)),
        ("staffs", "5", None),
        ("guild", "5", None),
        ("guilds", "05", None),
        ("guilds", "x", None),
        ("guilds", "", None),
        ("guilds", "٣", None),
        ("guilds", str(1 << 63), None),
        ("guilds", "9" * 5000, None),
    ],
)
def test_owners_are_named_in_one_way(kind: str, number: str, found: Id | None) -> None:
    assert owner_of(kind, number) == found
