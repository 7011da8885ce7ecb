# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Looks into a gateway frame for what routes it, without building a tree.

One pass over the bytes. The envelope and the first level of ``d`` are walked key by key, and so are the few objects
that may name the actor; every other value is skipped, strings 16 bytes at a time. Text is checked for balanced
quotes and brackets, not for every rule of JSON: whoever reads ``d`` later parses it in full.
"""

import json

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcmp, memset

from pytw.errors import ProtocolError

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* The first quote or backslash in [p, end), or end. */
    static inline const unsigned char *peek_quote(const unsigned char *p, const unsigned char *end) {
    #if defined(__SSE2__)
        const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\');
        while (end - p >= 16) {
            __m128i x = _mm_loadu_si128((const __m128i *) p);
            int hit = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, slash)));
            if (hit) return p + __builtin_ctz((unsigned) hit);
            p += 16;
        }
    #else
        const uint64_t ones = 0x0101010101010101ULL, tops = 0x8080808080808080ULL;
        while (end - p >= 8) {
            uint64_t x, q, s;
            memcpy(&x, p, 8);
            q = x ^ (ones * '"'); s = x ^ (ones * '\\\\');
            if ((((q - ones) & ~q) | ((s - ones) & ~s)) & tops) break;
            p += 8;
        }
    #endif
        while (p < end && *p != '"' && *p != '\\\\') p++;
        return p;
    }

    /* The byte after the string that opened before p; NULL if it does not end. */
    static inline const unsigned char *peek_string_end(const unsigned char *p, const unsigned char *end, int *escaped) {
        for (;;) {
            p = peek_quote(p, end);
            if (p >= end) return NULL;
            if (*p == '"') return p + 1;
            if (end - p < 2) return NULL;
            *escaped = 1;
            p += 2;
        }
    }

    /* Bytes that a skip must look at: quotes open strings, brackets nest. */
    static const unsigned char peek_mark[256] = {['"'] = 1, ['{'] = 2, ['['] = 2, ['}'] = 3, [']'] = 3};

    /* The byte after the container whose opening bracket is before p; NULL if it does not end. */
    static const unsigned char *peek_container_end(const unsigned char *p, const unsigned char *end) {
        size_t depth = 1;
        int ignored = 0;
        while (p < end) {
            switch (peek_mark[*p++]) {
            case 0: continue;
            case 1:
                p = peek_string_end(p, end, &ignored);
                if (p == NULL) return NULL;
                continue;
            case 2: depth++; continue;
            default: if (--depth == 0) return p;
            }
        }
        return NULL;
    }

    static inline const unsigned char *peek_space(const unsigned char *p, const unsigned char *end) {
        while (p < end && (*p == ' ' || *p == '\\n' || *p == '\\t' || *p == '\\r')) p++;
        return p;
    }

    /* The byte after the value at p; NULL if there is none or it does not end. */
    static inline const unsigned char *peek_value_end(const unsigned char *p, const unsigned char *end) {
        int ignored = 0;
        const unsigned char *start = p;
        if (p >= end) return NULL;
        if (*p == '"') return peek_string_end(p + 1, end, &ignored);
        if (*p == '{' || *p == '[') return peek_container_end(p + 1, end);
        while (p < end && *p != ',' && *p != '}' && *p != ']' && *p != ' ' && *p != '\\n' && *p != '\\t' && *p != '\\r'
               && *p != '"' && *p != '{' && *p != '[' && *p != ':') p++;
        return p == start ? NULL : p;
    }
    """
    const unsigned char *peek_string_end(const unsigned char *p, const unsigned char *end, int *escaped) nogil
    const unsigned char *peek_space(const unsigned char *p, const unsigned char *end) nogil
    const unsigned char *peek_value_end(const unsigned char *p, const unsigned char *end) nogil

ctypedef unsigned long long u64
ctypedef const unsigned char *ptr

cdef u64 USER_BIT = <u64> 1 << 63

cdef struct Text:
    # A string without its quotes, or a number. `escaped`: holds a backslash.
    ptr at
    Py_ssize_t size
    int escaped

cdef struct Members:
    # An object being walked: `key` and the start and end of the value beside it.
    ptr at
    ptr end
    Text key
    ptr value
    ptr value_end
    bint first


@cython.final
@cython.freelist(64)
cdef class Peek:
    """What routes a gateway frame; see `peek`."""

    cdef readonly long long op
    cdef readonly str t
    cdef readonly object s
    cdef readonly u64 guild_id
    cdef readonly u64 author_id
    cdef readonly bint webhook
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t end

    @property
    def author(self):
        """`author_id` as text, or None."""
        return str(self.author_id) if self.author_id else None

    @property
    def tenant(self):
        """The 64-bit key of the tenant that the event is for: its guild, else its author as a user; 0 if nobody."""
        if self.guild_id:
            return self.guild_id
        return self.author_id | USER_BIT if self.author_id else 0

    def __repr__(self):
        return (
            f"Peek(op={self.op}, t={self.t!r}, s={self.s}, guild_id={self.guild_id}, author_id={self.author_id}, "
            f"webhook={self.webhook}, start={self.start}, end={self.end})"
        )


cdef object _cut(str what):
    return ProtocolError("a gateway frame is cut off or not JSON: " + what)


cdef inline void _open(Members *m, ptr at, ptr end) noexcept:
    # `at` is behind the opening brace.
    m.at = at
    m.end = end
    m.first = True


cdef int _next(Members *m) except -1:
    """1 with the next key, and `value` where its value starts; 0 behind the closing brace."""
    cdef ptr p = peek_space(m.at, m.end)
    cdef ptr close
    if p >= m.end:
        raise _cut("an object does not end")
    if p[0] == c"}":
        m.at = p + 1
        return 0
    if not m.first:
        if p[0] != c",":
            raise _cut("a comma is missing")
        p = peek_space(p + 1, m.end)
        if p >= m.end:
            raise _cut("an object does not end")
    m.first = False
    if p[0] != c'"':
        raise _cut("a key is missing")
    m.key.at = p + 1
    m.key.escaped = 0
    close = peek_string_end(p + 1, m.end, &m.key.escaped)
    if close == NULL:
        raise _cut("a key does not end")
    m.key.size = close - p - 2
    p = peek_space(close, m.end)
    if p >= m.end or p[0] != c":":
        raise _cut("a colon is missing")
    p = peek_space(p + 1, m.end)
    if p >= m.end:
        raise _cut("a value is missing")
    m.value = p
    return 1


cdef int _skip(Members *m) except -1:
    """Goes behind the value that `_next` stopped at."""
    m.value_end = peek_value_end(m.value, m.end)
    if m.value_end == NULL:
        raise _cut("a value does not end")
    m.at = m.value_end
    return 0


cdef bint _is(Text *key, const char *name, Py_ssize_t size) noexcept:
    return key.size == size and memcmp(key.at, name, size) == 0


cdef bytes _plain(Text *text):
    """The text of a string that holds escapes."""
    try:
        return json.loads(b'"' + PyBytes_FromStringAndSize(<const char *> text.at, text.size) + b'"').encode()
    except ValueError:
        raise _cut("a string is not text") from None


cdef int _string(ptr at, ptr end, Text *out) noexcept:
    """1 and the text if the value at `at` is a string."""
    if at[0] != c'"':
        return 0
    out.at = at + 1
    out.escaped = 0
    peek_string_end(at + 1, end, &out.escaped)
    out.size = end - at - 2
    return 1


cdef u64 _digits(ptr at, Py_ssize_t size) noexcept:
    cdef u64 n = 0
    cdef Py_ssize_t i
    # 19 digits stay below 2^64; ids end at 2^63 - 1.
    if size < 1 or size > 19:
        return 0
    for i in range(size):
        if at[i] < c"0" or at[i] > c"9":
            return 0
        n = n * 10 + (at[i] - c"0")
    return n if n < USER_BIT else 0


cdef int _id(ptr at, ptr end, u64 *out) except -1:
    """Sets `out` to the snowflake of a value, a string or number of digits; 0 for anything else."""
    cdef Text text
    cdef bytes plain
    if _string(at, end, &text):
        if text.escaped:
            plain = _plain(&text)
            out[0] = _digits(<ptr> PyBytes_AS_STRING(plain), PyBytes_GET_SIZE(plain))
        else:
            out[0] = _digits(text.at, text.size)
    else:
        out[0] = _digits(at, end - at)
    return 0


cdef int _field(ptr at, ptr end, const char *name, Py_ssize_t size, ptr *value, ptr *value_end) except -1:
    """Finds the member `name` of the object at `at`; `value` is NULL if there is none. The last one counts."""
    cdef Members m
    cdef bytes plain
    value[0] = NULL
    if at[0] != c"{":
        return 0
    _open(&m, at + 1, end)
    while _next(&m):
        if m.key.escaped:
            plain = _plain(&m.key)
            m.key.at = <ptr> PyBytes_AS_STRING(plain)
            m.key.size = PyBytes_GET_SIZE(plain)
        _skip(&m)
        if _is(&m.key, name, size):
            value[0] = m.value
            value_end[0] = m.value_end
    return 0


cdef int _id_in(ptr at, ptr end, u64 *out) except -1:
    """The snowflake ``.id`` of the object at `at`, else 0."""
    cdef ptr value = NULL
    cdef ptr value_end = NULL
    out[0] = 0
    if at == NULL:
        return 0
    _field(at, end, b"id", 2, &value, &value_end)
    if value != NULL:
        _id(value, value_end, out)
    return 0


cdef struct Found:
    # First-level values of `d` that may name a guild or an actor; start and end, NULL if absent.
    ptr guild_id
    ptr guild_id_end
    ptr id
    ptr id_end
    ptr author
    ptr author_end
    ptr user_id
    ptr user_id_end
    ptr user
    ptr user_end
    ptr member
    ptr member_end
    ptr webhook
    ptr webhook_end


cdef ptr _walk(ptr at, ptr end, Found *f) except NULL:
    """Fills `f` from the object `d`; returns the byte after it."""
    cdef Members m
    cdef bytes plain
    _open(&m, at + 1, end)
    while _next(&m):
        if m.key.escaped:
            plain = _plain(&m.key)
            m.key.at = <ptr> PyBytes_AS_STRING(plain)
            m.key.size = PyBytes_GET_SIZE(plain)
        _skip(&m)
        if m.key.size == 8:
            if memcmp(m.key.at, b"guild_id", 8) == 0:
                f.guild_id = m.value
                f.guild_id_end = m.value_end
        elif m.key.size == 2:
            if memcmp(m.key.at, b"id", 2) == 0:
                f.id = m.value
                f.id_end = m.value_end
        elif m.key.size == 6:
            if memcmp(m.key.at, b"author", 6) == 0:
                f.author = m.value
                f.author_end = m.value_end
            elif memcmp(m.key.at, b"member", 6) == 0:
                f.member = m.value
                f.member_end = m.value_end
        elif m.key.size == 7:
            if memcmp(m.key.at, b"user_id", 7) == 0:
                f.user_id = m.value
                f.user_id_end = m.value_end
        elif m.key.size == 4:
            if memcmp(m.key.at, b"user", 4) == 0:
                f.user = m.value
                f.user_end = m.value_end
        elif m.key.size == 10:
            if memcmp(m.key.at, b"webhook_id", 10) == 0:
                f.webhook = m.value
                f.webhook_end = m.value_end
    return m.at


# Where the guild's id is `d.id` (spec/discord.md 1.9).
cdef frozenset GUILD_EVENTS = frozenset({"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"})
# Where `d.user_id` is who acted, or the customer. Elsewhere it names a subject, or nobody.
cdef frozenset ACTOR_EVENTS = frozenset({
    "MESSAGE_REACTION_ADD", "MESSAGE_REACTION_REMOVE", "MESSAGE_POLL_VOTE_ADD", "MESSAGE_POLL_VOTE_REMOVE",
    "TYPING_START", "VOICE_CHANNEL_EFFECT_SEND", "GUILD_SCHEDULED_EVENT_USER_ADD", "GUILD_SCHEDULED_EVENT_USER_REMOVE",
    "GUILD_AUDIT_LOG_ENTRY_CREATE", "AUTO_MODERATION_ACTION_EXECUTION",
    "ENTITLEMENT_CREATE", "ENTITLEMENT_UPDATE", "ENTITLEMENT_DELETE",
    "SUBSCRIPTION_CREATE", "SUBSCRIPTION_UPDATE", "SUBSCRIPTION_DELETE",
})


cdef int _route(Peek out, Found *f) except -1:
    cdef u64 n = 0
    cdef ptr user = NULL
    cdef ptr user_end = NULL
    cdef str t = out.t
    if f.guild_id != NULL:
        _id(f.guild_id, f.guild_id_end, &n)
        out.guild_id = n
    elif f.id != NULL and t in GUILD_EVENTS:
        _id(f.id, f.id_end, &n)
        out.guild_id = n
    if f.webhook != NULL:
        out.webhook = f.webhook[0] != c"n"
    n = 0
    if f.author != NULL:
        if t == "MESSAGE_CREATE" or t == "MESSAGE_UPDATE":
            _id_in(f.author, f.author_end, &n)
    elif t == "INTERACTION_CREATE":
        if f.member != NULL:
            _field(f.member, f.member_end, b"user", 4, &user, &user_end)
        if user != NULL:
            _id_in(user, user_end, &n)
        if n == 0:
            _id_in(f.user, f.user_end, &n)
    elif f.user_id != NULL and t in ACTOR_EVENTS:
        _id(f.user_id, f.user_id_end, &n)
    out.author_id = n
    return 0


cdef long long _integer(ptr at, ptr end) except? -1:
    cdef Py_ssize_t size = end - at
    cdef long long n = 0
    cdef ptr p = at
    if size > 18:
        raise _cut("a number is too long")
    if p < end and p[0] == c"-":
        p += 1
    if p == end:
        raise _cut("a number is missing")
    while p < end:
        if p[0] < c"0" or p[0] > c"9":
            raise _cut("an integer is wanted")
        n = n * 10 + (p[0] - c"0")
        p += 1
    return -n if at[0] == c"-" else n


def peek(bytes frame not None):
    """What routes the gateway *frame*: opcode, name, sequence, guild, author, and where ``d`` is.

    Keys may come in any order; of a key that comes twice the last counts, as in any JSON library here.

    Returns:
        Peek: ``op``; ``t`` and ``s`` or None; ``guild_id`` (``d.guild_id``, or ``d.id`` of GUILD_CREATE, UPDATE,
        DELETE) and ``author_id``, 0 if there is none; ``webhook``: ``d.webhook_id`` is set;
        ``frame[start:end]`` is the raw JSON of ``d`` (empty range if absent); ``tenant``.
    Raises:
        ProtocolError: the frame is cut off, its quotes or brackets do not match, or its envelope is not Discord's.
    Source: spec/discord.md 1.9.
    """
    cdef ptr base = <ptr> PyBytes_AS_STRING(frame)
    cdef ptr end = base + PyBytes_GET_SIZE(frame)
    cdef ptr p = peek_space(base, end)
    cdef ptr d = NULL
    cdef ptr d_end = NULL
    cdef Members m
    cdef Found f
    cdef Text text
    cdef bytes plain
    cdef bint has_op = False
    cdef Peek out = Peek.__new__(Peek)
    if p >= end or p[0] != c"{":
        raise _cut("an object is wanted")
    _open(&m, p + 1, end)
    while _next(&m):
        if m.key.escaped:
            plain = _plain(&m.key)
            m.key.at = <ptr> PyBytes_AS_STRING(plain)
            m.key.size = PyBytes_GET_SIZE(plain)
        if m.key.size == 1 and m.key.at[0] == c"d" and m.value[0] == c"{":
            d = m.value
            memset(&f, 0, sizeof(f))
            m.at = d_end = _walk(d, end, &f)
            continue
        _skip(&m)
        if m.key.size == 1:
            if m.key.at[0] == c"t":
                if _string(m.value, m.value_end, &text):
                    if text.escaped:
                        out.t = _plain(&text).decode()
                    else:
                        try:
                            out.t = PyUnicode_DecodeUTF8(<const char *> text.at, text.size, NULL)
                        except UnicodeDecodeError:
                            raise _cut("t is not UTF-8") from None
                else:
                    out.t = None
            elif m.key.at[0] == c"s":
                out.s = None if m.value[0] == c"n" else _integer(m.value, m.value_end)
            elif m.key.at[0] == c"d":
                d = m.value
                d_end = m.value_end
        elif _is(&m.key, b"op", 2):
            out.op = _integer(m.value, m.value_end)
            has_op = True
    if peek_space(m.at, end) != end:
        raise _cut("something follows the frame")
    if not has_op:
        raise _cut("op is missing")
    if d != NULL:
        out.start = d - base
        out.end = d_end - base
        if d[0] == c"{" and out.t is not None:
            _route(out, &f)
    return out
