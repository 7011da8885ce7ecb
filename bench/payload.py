"""The events that the benches send: Discord's MESSAGE_CREATE as it arrives, ids and content varied."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import orjson

FRAME = (Path(__file__).parent / "data" / "message_create.json").read_bytes().strip()


@cache
def message_frame(number: int) -> bytes:
    """A whole gateway frame; guild, message and content differ from number to number."""
    frame = re.sub(
        rb'"content":"[^"]*"', b'"content":"message number %d, please greet everyone"' % number, FRAME, count=1
    )
    return re.sub(rb'"nonce":"\d+"', b'"nonce":"%d"' % (1434598123456790528 + number), frame, count=1)


@cache
def message_create(number: int) -> bytes:
    """The frame's ``d``: what a template sees as ``event.data``."""
    return orjson.dumps(orjson.loads(message_frame(number))["d"])
