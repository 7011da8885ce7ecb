"""Bounds, each once, with its unit last. `Limits` holds those an operator may change; the rest are constants. What bounds the
inside of one module alone stands there.

The documentation of the configuration is made from `Limits` (docs/configuration.md).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

MIB = 1 << 20


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant, a worker and an event may use."""

    vm_memory_bytes: Annotated[int, Meta(ge=MIB, le=1 << 30, description="Memory of one tenant's VM.")] = 20 * MIB
    cpu_bucket_ms: Annotated[int, Meta(ge=10, le=600_000, description="CPU time that a tenant may use at once.")] = (
        3_000
    )
    cpu_refill_percent: Annotated[
        int, Meta(ge=0, le=100, description="How much of one core flows back into a tenant's CPU bucket.")
    ] = 10
    event_deadline_ms: Annotated[
        int, Meta(ge=10, le=900_000, description="Wall time from the acceptance of an event to its answer.")
    ] = 60_000
    unbreakable_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="CPU time of a stretch that cannot be preempted (comparators, metamethods, patterns).",
        ),
    ] = 50
    slice_ms: Annotated[int, Meta(ge=1, le=50, description="Longest turn of a tenant while nobody waits.")] = 5
    threads_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Luau threads of one tenant that wait at the same time.")
    ] = 2_000
    timers_max: Annotated[int, Meta(ge=1, le=100_000, description="Timers of one tenant.")] = 1_000
    queue_events_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Events of one tenant that run or wait for their turn; more are shed.")
    ] = 1_000
    host_calls_max: Annotated[int, Meta(ge=1, le=256, description="Host calls of one tenant in flight; more wait.")] = 8
    log_bytes_per_s: Annotated[
        int, Meta(ge=0, le=16 * MIB, description="Log text of one tenant that is kept, per second.")
    ] = 16 * 1024
    error_bytes_max: Annotated[
        int, Meta(ge=256, le=65_536, description="Length of an error's text, traceback included.")
    ] = 4_096
    source_bytes_max: Annotated[int, Meta(ge=1_024, le=16 * MIB, description="Length of one source file.")] = 262_144
    template_files_max: Annotated[int, Meta(ge=1, le=10_000, description="Files of one template.")] = 500
    templates_max: Annotated[int, Meta(ge=1, le=10_000, description="Templates of one tenant.")] = 100
    event_bytes_max: Annotated[int, Meta(ge=1_024, le=64 * MIB, description="Payload of one event.")] = 4 * MIB
    worker_queue_events_max: Annotated[
        int, Meta(ge=64, le=1_000_000, description="Events in flight in one worker; more are shed.")
    ] = 20_000
    worker_memory_bytes: Annotated[int, Meta(ge=64 * MIB, description="Memory for all VMs of one worker.")] = 3 << 30
    vm_idle_ms: Annotated[
        int, Meta(ge=1_000, description="An idle VM without threads, timers or calls is evicted after this time.")
    ] = 600_000
    db_operations_max: Annotated[
        int, Meta(ge=1, le=64, description="Database operations of one tenant in flight; more wait.")
    ] = 8
    kv_bytes_max: Annotated[
        int,
        Meta(ge=MIB, le=1 << 40, description="Keys, scopes and values (as JSON) of one tenant in the key-value store."),
    ] = 64 * MIB
    kv_keys_max: Annotated[
        int, Meta(ge=1, le=1_000_000_000, description="Keys of one tenant in the key-value store.")
    ] = 100_000
    objects_bytes_max: Annotated[
        int, Meta(ge=MIB, le=1 << 40, description="Files of one tenant in the object storage, together.")
    ] = 64 * MIB
    objects_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Number of one tenant's files in the object storage.")
    ] = 1_000


# ---- loop mode -------------------------------------------------------------------------------------
LOOP_OPENING_S = 2.0  # so long the first event of a VM may keep the tenant's others waiting

# ---- values (every crossing) ---------------------------------------------------------------------
VALUE_DEPTH_MAX = 64
VALUE_NODES_MAX = 100_000
VALUE_BYTES_MAX = 4 * MIB

# ---- mesophyll -------------------------------------------------------------------------------------
RECORD_BYTES_MAX = 8 * MIB
FRAME_BYTES_MAX = 16 * MIB
HEARTBEAT_MS = 500
HEARTBEATS_MISSED_MAX = 3
REQUESTS_PENDING_MAX = 50_000
FRAME_FRAGMENTS_MAX = 64
LINK_BUFFER_BYTES_MAX = 32 * MIB
HELLO_S = 5.0
LINK_CLOSE_S = 1.0
DB_OPERATIONS_TOTAL_MAX = 32
DB_QUEUE_MAX = 1_000

# ---- gateway ---------------------------------------------------------------------------------------
CURSOR_WINDOW_EVENTS = 256
CURSOR_REPORT_MS = 50
CURSOR_SPAN_EVENTS = 2_048
CURSOR_HOLD_S = 10.0
CURSOR_HOG_HOLD_S = 2.0
GATEWAY_FRAME_BYTES_MAX = 32 * MIB
GATEWAY_CONNECT_S = 10.0
GATEWAY_HELLO_S = 20.0
GATEWAY_ACK_S = 5.0
GATEWAY_BACKOFF_FIRST_S = 0.5
GATEWAY_BACKOFF_MAX_S = 30.0
GATEWAY_HEALTHY_AFTER_S = 30.0
FORWARD_RETRY_S = 60.0

# ---- Discord's REST side ---------------------------------------------------------------------------
REST_CONNECT_S = 3.0
REST_TOTAL_S = 15.0
REST_TRIES_MAX = 5
REST_ANSWER_BYTES_MAX = 8 * MIB
REST_BUCKETS_MAX = 10_000
SANDWICH_TIMEOUT_S = 5.0
SANDWICH_TRIES_MAX = 10

# ---- supervisor ------------------------------------------------------------------------------------
RESTART_STEP_S = 3.0
RESTART_STEPS_MAX = 5
HEALTHY_AFTER_S = 60.0
CRASH_LOOP_FAILURES = 10
CRASH_LOOP_INTERVAL_S = 60.0
#: What is left of the 10 s that an orderly end may take goes to cursors, connections and the database.
DRAIN_S = 8.0
DEAF_MS = 1_500
QUARANTINE_FIRST_S = 10.0
QUARANTINE_MAX_S = 300.0

# ---- HTTP API ----------------------------------------------------------------------------------------
API_BODY_BYTES_MAX = 16 * MIB
API_BODY_S = 30.0
API_HEADER_BYTES_MAX = 8_190
API_HEADERS_S = 10.0
API_KEEPALIVE_S = 75.0
API_REQUESTS_MAX = 1_000
API_RETRY_AFTER_S = 1
PUBLIC_READS_MAX = 2  # of the database at once, by those who give no token
PUBLIC_OBJECT_READS_MAX = 8  # by signed URLs, each of at most OBJECT_BYTES_MAX
PUBLIC_READS_WAITING_MAX = 64
SESSIONS_KEPT_MAX = 10_000
SESSION_LIFE_S = 10.0  # of what is kept of a session
USER_GUILDS_LIFE_S = 300.0  # of what Discord told of a user's guilds
USER_GUILDS_BYTES_MAX = MIB
USER_TOKEN_BYTES_MAX = 4_096
MOCK_WAIT_MAX_S = 60.0
MOCK_TEXT_MAX = 2_000

# ---- host calls --------------------------------------------------------------------------------------
HOST_CALL_S = 30.0
RATE_TENANTS_MAX = 20_000
BOT_STATS_S = 100.0
CURRENT_USER_TRIES_MAX = 10
BOT_STATS_RETRY_S = 5.0
HTTP_DOMAINS = ("cdn.discordapp.com",)  # by default
HTTP_TIMEOUT_S = 5.0
HTTP_BACKSTOP_S = 2 * HTTP_TIMEOUT_S  # of the whole call: the request has ended before
HTTP_IN_FLIGHT_MAX = 6  # of one tenant
HTTP_QUEUE_MAX = 32  # of one tenant
HTTP_REQUESTS_MAX = 512  # of one worker
HTTP_URL_BYTES_MAX = 8_190
HTTP_HEADERS_MAX = 128
HTTP_HEADER_FIELD_BYTES_MAX = 8_190
HTTP_HEADER_BYTES_MAX = 32_768
HTTP_BODY_BYTES_MAX = 10 * MIB  # half of a VM's memory
HTTP_ANSWER_BYTES_MAX = HTTP_BODY_BYTES_MAX + 2 * HTTP_HEADER_BYTES_MAX
HTTP_BUFFERED_BYTES_MAX = 256 * MIB  # of one worker
HTTP_INFLATE_STEP_BYTES = 262_144
HTTP_DNS_THREADS_MAX = 16
HTTP_DNS_TENANT_MAX = 2  # of these for one tenant: a lookup cannot be given up

# ---- key-value store -----------------------------------------------------------------------------
KV_KEY_BYTES_MAX = 512
KV_VALUE_BYTES_MAX = 262_144
KV_SCOPES_MAX = 10
KV_SCOPE_BYTES_MAX = 512
KV_FIND_ROWS_MAX = 1_000
KV_LIST_SCOPES_MAX = 10_000
KV_FIND_BYTES_MAX = 8 * MIB  # of values as tagged JSON
KV_LOOP_BYTES_MAX = 16_384  # what is longer is converted in a thread: others wait for the loop
KV_CONVERTERS_MAX = 2  # threads for that
KV_TOGETHER_MAX = 32  # reads or writes in one statement
KV_TOGETHER_BYTES_MAX = 16_384  # of one value in it; longer ones go alone
KV_READS_IN_FLIGHT_MAX = 2  # statements of several reads
KV_WRITES_IN_FLIGHT_MAX = 1  # statements of several writes: two would wait for each other's tenants
KV_APART_MAX = 4  # statements whose time a tenant's own rows decide
KV_APART_TENANT_MAX = 2  # of these of one tenant
KV_LIST_KEYS_MAX = 10_000
KV_DELETE_ROWS_MAX = 2_000  # of one statement, which holds the tenant's usage meanwhile
KV_EXPIRY_CLAIM_S = 120  # longer than an event's deadline; doubles with each attempt
KV_EXPIRY_CLAIM_S_MAX = 3_600
KV_EXPIRY_ATTEMPTS_MAX = 10  # also in migrations/0002_kv.sql
KV_EXPIRY_RETRY_S = 5  # after a handler that failed; doubles with each attempt
KV_EXPIRY_RETRY_S_MAX = 3_600
KV_RETRY_ROWS_MAX = 1_000  # of one statement: whoever writes one of them waits for it, and others with them
KV_RESUME_ROWS_MAX = 1_000  # of one page
TENANT_EVENTS_MAX = 100
TENANT_EVENT_BYTES_MAX = 128
TENANT_DATA_BYTES_MAX = 262_144
STATE_READS_TENANT_BYTES_MAX = 2 * MIB  # of states that a tenant's templates have read, in its worker
STATE_READS_BYTES_MAX = 32 * MIB
SCRUBBED_TENANT_MAX = 4_000  # forms of secrets that a tenant has read, in its worker
SCRUBBED_BYTES_MAX = 32 * MIB

# ---- database --------------------------------------------------------------------------------------
DB_OPERATION_S = 12.0  # of one operation of a worker: turns, tries and the link included
DB_GATES_S = 30.0  # of what a worker asks for itself: the gates of many tenants come in parts
OBJECT_OPERATION_S = 20.0
DB_CONNECT_S = 5.0  # waiting for a free connection included
DB_STATEMENT_S = 5.0
DB_KEPT_S = 0.05  # a connection is kept for who asks again within this time, and at most twice of it
DB_CANCEL_S = 1.0  # a server that is alive gives up a statement within milliseconds
DB_READ_TRIES_MAX = 3
DB_RETRY_FIRST_S = 0.1  # and a random half of it; doubles
SERVER_CLAIM_S = 15.0  # a server that ends takes ten at most
SERVER_CLAIM_RETRY_S = 0.5
DB_CONNECTIONS = 7  # of the master, and of each worker with --worker-db direct
BREAKER_FAILURES = 5
BREAKER_WAIT_FIRST_S = 0.25
BREAKER_WAIT_S_MAX = 1.0  # a server that is back is found within this time
BREAKER_PROBE_S_MAX = DB_CONNECT_S + DB_STATEMENT_S

# ---- storage ---------------------------------------------------------------------------------------
CURSOR_WRITE_MS = 500
TEMPLATE_NAME_BYTES_MAX = 64
TEMPLATE_PATH_BYTES_MAX = 256
TENANT_SOURCE_BYTES_MAX = 4 * MIB  # of all deployed templates of a tenant, paths included
TEMPLATE_MESSAGE_BYTES_MAX = 2_000
TEMPLATE_CAPS_MAX = 200
TEMPLATE_CAP_BYTES_MAX = 1_024
TEMPLATE_ERROR_BYTES_MAX = 4_096  # of why a version cannot run
TEMPLATE_VERSIONS_MAX = 500  # of one template
TEMPLATE_DEPLOYMENTS_MAX = 500  # of one template that are remembered
TEMPLATES_REMOVED_MAX = 100  # of one tenant that can come back
VERSION_OVERHEAD_BYTES = 4_096  # what a version counts for besides its sources
TENANT_VERSIONS_BYTES_MAX = 64 * MIB  # of all saved versions of a tenant
SHOP_NAME_BYTES_MAX = 32
SHOP_VERSION_BYTES_MAX = 25
SHOP_SOURCE_BYTES_MAX = MIB  # of one listing
SHOP_SHORT_BYTES_MAX = 512
SHOP_LONG_BYTES_MAX = 65_536
SHOP_NOTE_BYTES_MAX = 2_000
SHOP_LIST_MAX = 200
SCRIPT_TEMPLATE_TRIES_MAX = 5  # of a change that others' changes overtake
SECRET_BYTES_MAX = 4_096
SECRET_NAME_BYTES_MAX = 64
SECRETS_TEMPLATE_MAX = 50
SECRETS_TENANT_MAX = 1_000
OBJECT_KEY_BYTES_MAX = 2_048
OBJECT_BYTES_MAX = 524_288
OBJECT_LIST_MAX = 1_000
OBJECT_URL_S_MAX = 7 * 86_400  # S3 signs for no longer
OBJECT_OPERATIONS_MAX = 4  # of one tenant in flight
OBJECT_OPERATIONS_TOTAL_MAX = 32
OBJECT_TENANTS_MAX = 10_000  # of whom it is remembered that all their files have rows
OBJECT_CALL_S = 10.0  # of one operation, waiting for the tenant's others included
OBJECT_ADOPT_MAX = 10_000  # objects of one tenant that are taken over from the reference
OBJECT_SETTLE_MAX = 100  # files that broke off and are looked at in one go
GLOBAL_KV_SHORT_BYTES_MAX = 512
GLOBAL_KV_LONG_BYTES_MAX = 65_536
GLOBAL_KV_DATA_BYTES_MAX = 262_144  # as JSON; the metadata too
GLOBAL_KV_SCOPE_BYTES_MAX = 64
GLOBAL_KV_VERSION_MAX = (1 << 31) - 1
GLOBAL_KV_PRICE_MAX = (1 << 63) - 1
GLOBAL_KV_OWNED_MAX = 1_000  # versions of one tenant
GLOBAL_KV_OWNED_BYTES_MAX = 64 * MIB  # of one tenant
GLOBAL_KV_FIND_ROWS_MAX = 1_000
GLOBAL_KV_FIND_BYTES_MAX = 2 * MIB
GLOBAL_KV_PURCHASES_SHOWN_MAX = 1_000
API_TOKEN_S_MAX = 366 * 86_400
API_TOKENS_MAX = 50

# Bounds that follow from each other.
# A statement that hangs is told of by the pool, in words of its own, before its operation is given up.
assert DB_CANCEL_S < DB_STATEMENT_S
assert DB_CONNECT_S + DB_STATEMENT_S < DB_OPERATION_S <= HOST_CALL_S
assert OBJECT_OPERATION_S <= HOST_CALL_S
# What tenants make slow leaves connections to what is quick.
assert KV_APART_MAX + KV_READS_IN_FLIGHT_MAX + KV_WRITES_IN_FLIGHT_MAX <= DB_CONNECTIONS
assert VALUE_BYTES_MAX <= RECORD_BYTES_MAX <= FRAME_BYTES_MAX <= LINK_BUFFER_BYTES_MAX
# A tenant's program crosses in one record; names and headers come on top.
assert 2 * TENANT_SOURCE_BYTES_MAX <= RECORD_BYTES_MAX
# Whatever the shop has fits in a tenant, and a reference to it in a template's name.
assert SHOP_SOURCE_BYTES_MAX <= TENANT_SOURCE_BYTES_MAX <= TENANT_VERSIONS_BYTES_MAX
assert len("$shop/#") + SHOP_NAME_BYTES_MAX + SHOP_VERSION_BYTES_MAX <= TEMPLATE_NAME_BYTES_MAX
assert HEARTBEAT_MS * HEARTBEATS_MISSED_MAX <= DEAF_MS
