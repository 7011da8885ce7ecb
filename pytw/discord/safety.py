"""What a message must be like before it leaves for Discord, so that the template's author learns what is wrong.

Lengths are bytes of UTF-8, as in the reference, where Discord itself counts characters. Source: spec/luau-api.md 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pytw.errors import RequestError

CONTENT_BYTES_MAX: Final = 2_000
EMBEDS_MAX: Final = 10
EMBED_BYTES_MAX: Final = 6_000
FIELDS_MAX: Final = 25

_SOMETHING = ("content", "embeds", "attachments", "components", "poll", "sticker_ids")
_EMBED_TEXTS: Final = {"title": 256, "description": 4_096}
_NESTED_TEXTS: Final = (("footer", "text", 2_048), ("author", "name", 256))
_FIELD_TEXTS: Final = {"name": 256, "value": 1_024}


def check_message(body: Mapping[str, Any]) -> None:
    """Refuse a new message that breaks a rule. Raises: RequestError, with the rule."""
    if not any(body.get(name) for name in _SOMETHING):
        raise RequestError("a message needs content, embeds, attachments, components, a poll or stickers")
    content = body.get("content")
    if content is not None:
        _text("content", content, CONTENT_BYTES_MAX)
    embeds = body.get("embeds")
    if not embeds:
        return
    if not isinstance(embeds, list) or not all(isinstance(embed, Mapping) for embed in embeds):
        raise RequestError("embeds must be a list of tables")
    if len(embeds) > EMBEDS_MAX:
        raise RequestError(f"a message takes {EMBEDS_MAX} embeds")
    if sum(_embed(embed) for embed in embeds) > EMBED_BYTES_MAX:
        raise RequestError(f"the texts of all embeds together must not exceed {EMBED_BYTES_MAX} bytes")


def _embed(embed: Mapping[str, Any]) -> int:
    """Check an embed's texts; answers their length."""
    total = sum(_text(f"embed {name}", embed[name], most) for name, most in _EMBED_TEXTS.items() if embed.get(name))
    for part, name, most in _NESTED_TEXTS:
        inner = embed.get(part)
        if isinstance(inner, Mapping) and inner.get(name) is not None:
            total += _text(f"embed {part}", inner[name], most)
    fields = embed.get("fields") or []
    if not isinstance(fields, list) or not all(isinstance(field, Mapping) for field in fields):
        raise RequestError("embed fields must be a list of tables")
    if len(fields) > FIELDS_MAX:
        raise RequestError(f"an embed takes {FIELDS_MAX} fields")
    for field in fields:
        total += sum(_text(f"embed field {name}", field.get(name), most) for name, most in _FIELD_TEXTS.items())
    return total


def _text(what: str, value: object, bytes_max: int) -> int:
    if not isinstance(value, str):
        raise RequestError(f"{what} must be text")
    size = len(value.encode("utf-8", "surrogatepass"))
    if not 0 < size <= bytes_max:
        characters = "" if len(value) == size else f" ({len(value)} characters; what counts is their length in UTF-8)"
        raise RequestError(f"{what} must have 1 to {bytes_max} bytes, not {size}{characters}")
    return size
