"""The framing in plain Python: what `pytw.mesophyll._framing` must agree with."""

from __future__ import annotations

import struct

from pytw.errors import ProtocolError
from pytw.limits import FRAME_BYTES_MAX, RECORD_BYTES_MAX

HEADER = struct.Struct(">BBBBQBQBI")


def join(records: list[tuple[int, int, int, bytes]]) -> bytes:
    if any(len(record) != 4 or type(record[3]) is not bytes for record in records):
        raise ProtocolError("a record has four parts, the last of them bytes")
    if any(len(body) > RECORD_BYTES_MAX for *_, body in records):
        raise ProtocolError("a record is over the limit")
    if sum(HEADER.size + len(body) for *_, body in records) > FRAME_BYTES_MAX:
        raise ProtocolError("a frame is over the limit")
    try:
        return b"".join(
            HEADER.pack(0x94, 0xCC, kind, 0xCF, request, 0xCF, tenant, 0xC6, len(body)) + body
            for kind, request, tenant, body in records
        )
    except struct.error as error:
        raise ProtocolError(str(error)) from None


def split(frame: bytes) -> list[tuple[int, int, int, bytes]]:
    if not 0 < len(frame) <= FRAME_BYTES_MAX:
        raise ProtocolError("a frame is empty or over the limit")
    records, at = [], 0
    while at < len(frame):
        if len(frame) - at < HEADER.size:
            raise ProtocolError("a header is cut off")
        array, u8, kind, u64, request, u64_too, tenant, bin32, size = HEADER.unpack_from(frame, at)
        if (array, u8, u64, u64_too, bin32) != (0x94, 0xCC, 0xCF, 0xCF, 0xC6):
            raise ProtocolError("a header is not of the fixed layout")
        at += HEADER.size
        if size > RECORD_BYTES_MAX or size > len(frame) - at:
            raise ProtocolError("a record is over the limit or cut off")
        records.append((kind, request, tenant, frame[at : at + size]))
        at += size
    return records
