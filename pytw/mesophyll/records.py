"""The records of Mesophyll: what master and worker say to each other.

A frame is a run of records. A record is one msgpack array ``[kind, request, tenant, body]`` of fixed layout
(`_framing`). Each side numbers its own requests; RESULT and FAILED answer the peer's request of that number.
Request 0 wants no answer. Docs: docs/mesophyll.md.
"""

from __future__ import annotations

import enum

import msgspec

from pytw.errors import ProtocolError
from pytw.types import CreateEvent


class Kind(enum.IntEnum):
    """What a record means. M: master, W: worker. Bodies are msgpack unless they say otherwise."""

    HELLO = 1  # W>M [worker_id, epoch, pid, version]: the first record of a link
    WELCOME = 2  # M>W [settings map]: the link is accepted
    READY = 3  # W>M {part: bool}: the worker takes events; sent again when a part changes
    HEARTBEAT = 4  # both; W>M {stat: number}, M>W nil
    EVENT = 5  # W>M event body: forward to the tenant's owner; answered by RESULT [outcome]
    DISPATCH = 6  # M>W event body; answered by RESULT (types.DispatchResult, opaque)
    RUN_SCRIPT = 7  # M>W [chunk name, source, event body | nil, timeout_ms]; answered like DISPATCH
    CHECK = 8  # M>W template as in Engine.set_program; answered by RESULT [event, ...]
    REFRESH = 9  # M>W nil: read the tenant's state and templates again; answered by RESULT nil
    DROP_TENANT = 10  # M>W nil; answered by RESULT nil
    RESULT = 11  # both: the answer to a request; body as the request says
    FAILED = 12  # both: [code, detail, hint | nil]: the request failed (errors.from_wire)
    CANCEL = 13  # both; nil: the sender gave up its request; answered by nothing of its own
    DB = 14  # W>M [operation, args...] of workerdb.WorkerDb; answered by RESULT
    QUARANTINE = 15  # M>W [until, unix seconds; 0 lifts it]
    # Nobody sends or serves these four yet: workers write their log to the stderr they inherit, and count in HEARTBEAT.
    PUBLISH = 16  # both [topic, payload]: to every other worker that subscribed
    SUBSCRIBE = 17  # W>M [topic, on]
    LOG = 18  # W>M [[level, target, text, {field: value}], ...]
    METRICS = 19  # W>M [exposition text]
    CURSOR = 20  # W>M [[shards, shard, session_id | nil, resume_url, sequence, [done_above]], ...]; nil forgets it.
    # As a request: [shards], answered by RESULT with a list of the same form, of this worker's shards
    IDENTIFY = 21  # W>M [shard]: wants the right to identify; answered by RESULT nil when it may
    DRAIN = 22  # M>W nil: stop intake, finish what runs, report cursors; answered by RESULT nil when done
    BLAME = 23  # W>M [milliseconds]: the tenant has held a VM thread that long
    WHY = 24  # M>W nil; answered by RESULT [[at, event, outcome, reason | nil], ...] (types.Note), oldest first
    ENDS = 25  # W>M [code, detail, hint | nil]: the worker ends by itself, before READY, and this is why


#: Told in HELLO; both sides must speak the same.
PROTOCOL_VERSION = "1"

_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(tuple[str, str | None, bool, int, bytes]).decode


def pack_event(event: CreateEvent, timeout_ms: int) -> bytes:
    """The event body of DISPATCH, EVENT and RUN_SCRIPT: ``[name, author | nil, redelivered, timeout_ms, payload]``."""
    return _encode((event.name, event.author, event.redelivered, timeout_ms, event.payload))


def unpack_event(body: bytes) -> tuple[CreateEvent, int]:
    """The event and its timeout in milliseconds.

    Raises:
        ProtocolError: *body* is not an event body.
    """
    try:
        name, author, redelivered, timeout_ms, payload = _decode_event(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"an event body is malformed: {error}") from None
    return CreateEvent(name, payload, author, redelivered), timeout_ms
