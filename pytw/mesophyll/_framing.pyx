# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records on the wire: ``94 · cc kind:u8 · cf request:u64 · cf tenant:u64 · c6 size:u32 · body``, big-endian."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from pytw.errors import ProtocolError
from pytw.limits import FRAME_BYTES_MAX, RECORD_BYTES_MAX

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Shifts, which compilers turn into one byte swap, so that byte order and alignment do not matter. */
    static inline void wire_put64(unsigned char *p, uint64_t n) {
        for (int i = 7; i >= 0; i--) { p[i] = (unsigned char) n; n >>= 8; }
    }
    static inline uint64_t wire_get64(const unsigned char *p) {
        uint64_t n = 0;
        for (int i = 0; i < 8; i++) n = n << 8 | p[i];
        return n;
    }
    static inline void wire_put32(unsigned char *p, uint32_t n) {
        for (int i = 3; i >= 0; i--) { p[i] = (unsigned char) n; n >>= 8; }
    }
    static inline uint32_t wire_get32(const unsigned char *p) {
        return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
    }
    """
    void wire_put64(unsigned char *p, unsigned long long n) nogil
    unsigned long long wire_get64(const unsigned char *p) nogil
    void wire_put32(unsigned char *p, unsigned int n) nogil
    unsigned int wire_get32(const unsigned char *p) nogil

cdef enum:
    HEADER = 26

HEADER_BYTES = HEADER
cdef Py_ssize_t RECORD_MAX = RECORD_BYTES_MAX
cdef Py_ssize_t FRAME_MAX = FRAME_BYTES_MAX


def join(list records not None) -> bytes:
    """One frame of the records ``(kind, request, tenant, body)``, in order.

    Raises:
        ProtocolError: a body or the frame is over its limit, or a number does not fit; nothing was copied.
    """
    cdef Py_ssize_t total = 0, size
    cdef object body
    cdef tuple record
    cdef unsigned long long request, tenant
    cdef long kind
    for record in records:
        if record is None or len(record) != 4:
            raise ProtocolError("a record has four parts")
        body = record[3]
        if not PyBytes_CheckExact(body):
            raise ProtocolError("a record's body is bytes")
        size = PyBytes_GET_SIZE(body)
        if size > RECORD_MAX:
            raise ProtocolError(f"a record of {size} bytes is over the limit of {RECORD_MAX}")
        total += HEADER + size
    if total > FRAME_MAX:
        raise ProtocolError(f"a frame of {total} bytes is over the limit of {FRAME_MAX}")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, total)
    cdef unsigned char *p = <unsigned char *> PyBytes_AS_STRING(frame)
    for record in records:
        try:
            kind = record[0]
            request = record[1]
            tenant = record[2]
        except (OverflowError, TypeError):
            raise ProtocolError("kind, request and tenant are unsigned integers of 8, 64 and 64 bits") from None
        if kind < 0 or kind > 255:
            raise ProtocolError("kind, request and tenant are unsigned integers of 8, 64 and 64 bits")
        body = record[3]
        size = PyBytes_GET_SIZE(body)
        p[0] = 0x94
        p[1] = 0xCC
        p[2] = kind
        p[3] = 0xCF
        wire_put64(p + 4, request)
        p[12] = 0xCF
        wire_put64(p + 13, tenant)
        p[21] = 0xC6
        wire_put32(p + 22, size)
        memcpy(p + HEADER, PyBytes_AS_STRING(body), size)
        p += HEADER + size
    return frame


def split(bytes frame not None) -> list:
    """The records ``(kind, request, tenant, body)`` of a frame, in order.

    Raises:
        ProtocolError: the frame is empty, over its limit, cut off, or not of records; nothing was copied.
    """
    cdef const unsigned char *base = <const unsigned char *> PyBytes_AS_STRING(frame)
    cdef const unsigned char *p = base
    cdef Py_ssize_t left = PyBytes_GET_SIZE(frame), size
    if left > FRAME_MAX:
        raise ProtocolError(f"a frame of {left} bytes is over the limit of {FRAME_MAX}")
    if left == 0:
        raise ProtocolError("a frame is empty")
    while left > 0:
        if left < HEADER:
            raise ProtocolError("a record's header is cut off")
        if p[0] != 0x94 or p[1] != 0xCC or p[3] != 0xCF or p[12] != 0xCF or p[21] != 0xC6:
            raise ProtocolError("a record's header is not of the fixed layout")
        size = wire_get32(p + 22)
        if size > RECORD_MAX:
            raise ProtocolError(f"a record of {size} bytes is over the limit of {RECORD_MAX}")
        if size > left - HEADER:
            raise ProtocolError("a record's body is cut off")
        p += HEADER + size
        left -= HEADER + size
    cdef list records = []
    cdef const unsigned char *end = p
    p = base
    while p < end:
        size = wire_get32(p + 22)
        records.append((
            p[2], wire_get64(p + 4), wire_get64(p + 13), PyBytes_FromStringAndSize(<const char *> p + HEADER, size)
        ))
        p += HEADER + size
    return records
