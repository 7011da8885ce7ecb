"""`Scrubber`: takes templates' secrets out of what leaves the worker as text for people: log lines and errors.

Once a tenant has read a secret, its value, also as URLs and JSON write it, becomes ``[secret NAME]`` in every text of that
tenant. Values that templates return are theirs, and stay as they are.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

import msgpack
import orjson

from pytw.limits import SCRUBBED_BYTES_MAX, SCRUBBED_TENANT_MAX
from pytw.types import Outcome

#: A shorter secret would take half of all texts with it.
SECRET_BYTES_MIN = 4
_packer = msgpack.Packer(unicode_errors="surrogateescape")
_NIL = b"\xc0"


class _Tenant:
    __slots__ = ("bytes", "names")

    def __init__(self) -> None:
        #: What a text may show of it -> name; least recently read first.
        self.names: OrderedDict[str, str] = OrderedDict()
        self.bytes = 0


class Scrubber:
    """Knows the secrets that were read here, bounded per tenant and in all: least recently used ones are forgotten first."""

    def __init__(self, text_bytes_max: int, *, bytes_max: int = SCRUBBED_BYTES_MAX) -> None:
        """
        Args:
            text_bytes_max: where the engine cuts errors: a text of that length may end in the beginning of a secret.
        """
        self._text_bytes_max = text_bytes_max
        self._bytes_max = bytes_max
        self.bytes = 0
        #: Looked at by the hot path.
        self.tenants: OrderedDict[int, _Tenant] = OrderedDict()

    def learn(self, tenant: int, name: str, value: str) -> None:
        """A template of the tenant reads this secret."""
        if len(value.encode()) < SECRET_BYTES_MIN:
            return
        known = self.tenants.setdefault(tenant, _Tenant())
        self.tenants.move_to_end(tenant)
        for form in _forms(value):
            if form not in known.names:
                self._count(known, len(form))
            known.names[form] = name
            known.names.move_to_end(form)
        while len(known.names) > SCRUBBED_TENANT_MAX:
            self._count(known, -len(known.names.popitem(last=False)[0]))
        while self.bytes > self._bytes_max and len(self.tenants) > 1:
            self.bytes -= self.tenants.popitem(last=False)[1].bytes

    def _count(self, known: _Tenant, size: int) -> None:
        known.bytes += size
        self.bytes += size

    def text(self, tenant: int, text: str) -> str:
        """*text* without the tenant's secrets."""
        known = self.tenants.get(tenant)
        if known is None:
            return text
        self.tenants.move_to_end(tenant)
        found = _without(known.names, text)
        # A character takes four bytes at most, and the engine cuts between two.
        if len(text.encode(errors="surrogateescape")) > self._text_bytes_max - 4:
            found = self._without_beginning(known, found)
        return found

    @staticmethod
    def _without_beginning(known: _Tenant, text: str) -> str:
        """*text* was cut: what may be the first part of a secret at its end goes."""
        most, name = SECRET_BYTES_MIN - 1, ""
        for form, of in known.names.items():
            # Only where its first characters stand: comparing every length costs seconds where secrets are long and many.
            head = form[: most + 1]
            begin = text.find(head, max(0, len(text) - len(form) + 1))
            while begin >= 0 and not form.startswith(text[begin:]):
                begin = text.find(head, begin + 1)
            if begin >= 0:
                most, name = len(text) - begin, of
        return text[: len(text) - most] + _shown(name) if name else text

    def body(self, tenant: int, body: bytes) -> bytes:
        """The body of a `DispatchResult` whose errors, and why nothing ran, show none of the tenant's secrets."""
        if tenant not in self.tenants or body[1] == Outcome.OK:
            return body
        reader: Any = msgpack.Unpacker(
            strict_map_key=False, max_buffer_size=len(body), unicode_errors="surrogateescape"
        )
        reader.feed(body)
        fields = reader.read_array_header()
        out = [_packer.pack_array_header(fields), _packer.pack(reader.unpack()), self._packed(tenant, reader.unpack())]
        parts = reader.read_array_header()
        out.append(_packer.pack_array_header(parts))
        for _ in range(parts):
            size = reader.read_array_header()
            begin = reader.tell()
            for _ in range(size - 1):
                reader.skip()
            out += [_packer.pack_array_header(size), body[begin : reader.tell()], self._packed(tenant, reader.unpack())]
        return b"".join([*out, body[reader.tell() :]])

    def _packed(self, tenant: int, text: Any) -> bytes:
        return bytes(_packer.pack(self.text(tenant, text) if isinstance(text, str) else text))


def _shown(name: str) -> str:
    return f"[secret {name}]"


def _without(names: Mapping[str, str], text: str) -> str:
    """*text* with each form as its name: from the left, the longest first.

    One search for each form. A pattern of thousands of them would take a second to make and tens of milliseconds to ask, on
    the loop that all tenants share.
    """
    ahead = [(begin, -len(form), form) for form in names if (begin := text.find(form)) >= 0]
    heapq.heapify(ahead)
    parts, end = [], 0
    while ahead:
        begin, minus_size, form = ahead[0]
        if begin >= end:
            parts += [text[end:begin], _shown(names[form])]
            end = begin - minus_size
        if (begin := text.find(form, end)) >= 0:
            heapq.heapreplace(ahead, (begin, minus_size, form))
        else:
            heapq.heappop(ahead)
    return "".join([*parts, text[end:]])


def _forms(value: str) -> set[str]:
    """The secret as it stands, in URLs, in JSON, and line by line where it has several."""
    lines = [line for line in value.splitlines() if len(line.encode()) >= 2 * SECRET_BYTES_MIN]
    found = set()
    for text in {value, *lines}:
        found |= {text, quote(text), quote(text, safe=""), quote_plus(text), orjson.dumps(text).decode()[1:-1]}
    return found


__all__ = ["SECRET_BYTES_MIN", "Scrubber"]
