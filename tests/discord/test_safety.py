"""What is refused before it leaves for Discord."""

from __future__ import annotations

from typing import Any

import pytest

from pytw.discord import check_message
from pytw.errors import RequestError


@pytest.mark.parametrize(
    "body",
    [
        {"content": "x"},
        {"content": "x" * 2_000},
        {"embeds": [{"title": "t", "fields": [{"name": "n", "value": "v", "inline": True}]}]},
        {"content": "", "components": [{"type": 1}]},
        {"content": "x", "embeds": []},
        {"content": "x", "embeds": [{"title": "", "footer": {}, "fields": []}]},
    ],
)
def test_sound_message_passes(body: dict[str, Any]):
    if body.get("content") == "":
        del body["content"]
    check_message(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "needs content"),
        ({"content": ""}, "needs content"),
        ({"content": 5}, "content must be text"),
        ({"content": "ü" * 1_001}, r"2000 bytes, not 2002 \(1001 characters; what counts is their length in UTF-8\)"),
        ({"content": "x" * 2_001}, "2000 bytes, not 2001$"),
        ({"embeds": "text"}, "list of tables"),
        ({"embeds": [1]}, "list of tables"),
        ({"embeds": [{"title": "t"}] * 11}, "10 embeds"),
        ({"embeds": [{"title": "t" * 257}]}, "256 bytes"),
        ({"embeds": [{"description": "t" * 4_096}] * 2}, "6000 bytes"),
        ({"embeds": [{"fields": [{"name": "n"}]}]}, "embed field value must be text"),
        ({"embeds": [{"fields": [{"name": "n", "value": "v"}] * 26}]}, "25 fields"),
        ({"embeds": [{"footer": {"text": "x" * 2_049}}]}, "2048 bytes"),
    ],
)
def test_broken_rule_is_named(body: dict[str, Any], text: str):
    with pytest.raises(RequestError, match=text):
        check_message(body)
