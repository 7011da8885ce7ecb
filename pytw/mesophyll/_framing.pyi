"""Records on the wire: ``94 · cc kind:u8 · cf request:u64 · cf tenant:u64 · c6 size:u32 · body``, big-endian.

Any msgpack library reads a record as the array ``[kind, request, tenant, body]``; here it is checked by offset before
anything is copied. A frame is a run of one or more records. `tests/mesophyll/framing_oracle.py` is the same in Python.
"""

from typing import Final

HEADER_BYTES: Final[int]

def join(records: list[tuple[int, int, int, bytes]]) -> bytes:
    """One frame of the records ``(kind, request, tenant, body)``, in order.

    Raises:
        ProtocolError: a body or the frame is over its limit, or a number does not fit.
    """

def split(frame: bytes) -> list[tuple[int, int, int, bytes]]:
    """The records ``(kind, request, tenant, body)`` of a frame, in order. Each body is copied once.

    Raises:
        ProtocolError: the frame is empty, over its limit, cut off, or not of records; nothing was copied.
    """
