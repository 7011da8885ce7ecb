"""The native core: OS threads that run many tenants' Luau VMs without the GIL.

Payloads cross as bytes: events as Discord's raw JSON, everything else as msgpack KhronosValues (DESIGN "Values").
A tenant is its 64-bit key. A request id is used once per engine. Every request gets exactly one RESULT or FAILED,
also when its VM is replaced, the engine is closed or its thread fails.

Limits by the names that results carry: ``cpu``, ``memory``, ``unbreakable`` (a stretch that cannot be preempted, in CPU
time), ``depth`` and ``size`` (a value that crosses; ``size`` also a source, and results that
nobody has drained), ``calls`` (host calls, threads and timers
that wait, and what the arguments of the calls hold), and for what was shed ``queue`` and ``memory_budget``. A script can
catch errors of ``unbreakable``, ``depth``, ``size`` and ``calls``; their text then names limit and value.
"""

from typing import Final, final

LUAU_VERSION: Final[str]

# Kinds of what `drain` gives.
# id: request; payload: msgpack of types.DispatchResult, or of what the request's own docstring says
RESULT: Final[int]
# id: request; payload: msgpack [code, detail, hint]: nothing ran (see errors.py for codes)
FAILED: Final[int]
# id: call; payload: msgpack [request, template, name, narrowed, [args...]]; answer it once with `answer` or `answer_error`.
# narrowed: nil, or the capabilities of the `ctx:with` that the call was made through; it needs the template's as well.
HOST_CALL: Final[int]
# id: request or 0; payload: msgpack [template, level, text]
LOG: Final[int]
# id: milliseconds; the tenant has held its VM thread that long (in-process workers only)
DEAF: Final[int]
# id: 0; the tenant's VM ended by a fault or for want of memory, and its next event makes a new one
LOST: Final[int]

@final
class Engine:
    """One OS thread with its tenants' VMs. Every method returns at once, except `close`."""

    def __new__(
        cls,
        *,
        vm_memory_bytes: int = ...,
        vm_reserve_bytes: int | None = ...,
        cpu_bucket_ms: int = ...,
        cpu_refill_percent: int = ...,
        unbreakable_ms: int = ...,
        slice_ms: int = ...,
        threads_max: int = ...,
        timers_max: int = ...,
        queue_events_max: int = ...,
        host_calls_max: int = ...,
        log_bytes_per_s: int = ...,
        error_bytes_max: int = ...,
        source_bytes_max: int = ...,
        idle_evict_ms: int = ...,
        opening_ms: int = ...,
        memory_budget_bytes: int = ...,
        builtins: bytes = ...,
        patches: bytes = ...,
        library: bytes = ...,
        builtins_entry: str = ...,
        builtins_caps: list[str] = ...,
        builtins_events: list[str] = ...,
        runtime_info: bytes = ...,
        debug: bool = False,
        blame_fd: int = ...,
        blame_slot: int = 0,
        test_hooks: bool = False,
    ) -> Engine:
        """Starts the thread.

        Args:
            vm_reserve_bytes: so far a VM may pass its limit until its garbage is collected, which happens at the next place
                where it can be; what is still above the limit then ends it. By default as much again as the limit, at most
                32 MiB. Of a thread's VMs only the one that runs may be in its reserve.
            opening_ms: the first event of each VM runs alone until it has its answer, at most so long; 0: never.
            builtins: msgpack map of path -> source, the template ``$builtins`` that comes first for every tenant, also
                for one without a program; empty for none. Read once per engine, compiled once per process. A tenant's
                own template of that name takes its place.
            patches: files laid over the built-in ones, as a map like theirs: the first layer that has a path wins.
            library: files laid below those of every template, built-in or not, such as the library's types under
                ``templating-types/``. Scripts of `submit_script` have the files of the built-in template.
            builtins_entry: the module path that it starts at.
            builtins_caps: its capabilities; all by default.
            builtins_events: the events it listens for; ``["*"]``, the default, is every event.
            runtime_info: msgpack map ``{"links": {...}, "events": [...]}``, what `ctx.Runtime` tells without a host call.
            memory_budget_bytes: for all VMs of this engine; idle ones are evicted under pressure. 0: no budget.
            debug: defines the global ``_debug`` (the flag ``--worker-debug``).
            blame_fd, blame_slot: shared memory of 16-byte slots; the thread writes ``tenant, request`` (two
                little-endian u64) into its slot while the tenant's code runs, and zeros when none does.
            test_hooks: the globals ``host``, ``members`` and ``panic`` and the method `panic`, for tests of the engine itself.
        """

    def set_program(self, tenant: int, program: bytes) -> None:
        """Replaces the tenant's templates, for events submitted later; running handlers end on the old code.

        Args:
            program: msgpack list of ``[name, entry, {path: source}, [event, ...], [capability, ...]]``, in dispatch
                order; paused ones are left out by the caller. Events ``["*"]`` takes every event. Of a tenant with none
                the engine keeps nothing once it has no VM and no requests and owes no CPU time.
        """

    def has_program(self, tenant: int) -> bool:
        """Whether the tenant has templates: those of `set_program`, not undone by `drop_tenant`."""

    def submit_event(
        self,
        tenant: int,
        request: int,
        name: str,
        payload: bytes,
        author: str | None = None,
        redelivered: bool = False,
        timeout_ms: int = 60_000,
    ) -> None:
        """Runs the event in all of the tenant's templates that listen for it. RESULT: a DispatchResult.

        Raises:
            RuntimeError: the engine is closed, failed, or belongs to the parent of a fork.
        """

    def submit_script(
        self,
        tenant: int,
        request: int,
        chunk_name: str,
        source: bytes,
        event_name: str,
        payload: bytes,
        timeout_ms: int = 60_000,
    ) -> None:
        """Runs *source* once in an isolate of its own, with capability ``*`` and ``ctx`` as ``...``. RESULT: a DispatchResult."""

    def submit_check(self, tenant: int, request: int, template: bytes, timeout_ms: int = 5_000) -> None:
        """Evaluates a template's entry in a fresh VM, without capabilities or host calls, within the tenant's ordinary limits.

        Args:
            template: one item of `set_program`'s list.
        RESULT: msgpack list of the keys of the returned table whose values are functions, sorted, ``["*"]`` if it
            returned one function. FAILED: ``script_error`` with file and line, or ``limit_exceeded``.
        """

    def cancel(self, request: int) -> None:
        """Ends an event's main threads with outcome ``cancelled``; unknown requests are ignored."""

    def drop_tenant(self, tenant: int, request: int) -> None:
        """Ends everything of the tenant and forgets its program, and all else but the CPU time that it owes. RESULT: msgpack nil."""

    def answer(self, call: int, payload: bytes) -> None:
        """Hands a host call its results: msgpack list of values. Late or double answers are ignored."""

    def answer_error(self, call: int, text: str) -> None:
        """Raises *text* where the script made the call."""

    def set_current_user(self, user: bytes) -> None:
        """Tells what `ctx.current_user` shows: the bot's own user as Discord's JSON."""

    def fileno(self) -> int:
        """The eventfd that becomes readable when `drain` has something."""

    def linger(self) -> list[tuple[int, int, int, bytes]]:
        """`drain` after waiting awake for output, at most 60 us and only where that has been worth it lately.

        The GIL is released meanwhile. For a caller that has just submitted its only work: a wake-up costs more.
        """

    def drain(self) -> list[tuple[int, int, int, bytes]]:
        """All that came out so far: ``(kind, tenant, id, payload)``."""

    def stats(self) -> dict[str, int]:
        """Counters and levels by name.

        ``tenants`` (of which something is kept), ``vms`` (alive), ``bytes`` (of the system's memory that they hold, about),
        ``queued`` (requests without an answer), ``closing`` and ``closing_bytes`` (VMs that wait to be closed, elsewhere),
        and since the start ``slices, preempted, events, evicted, replaced, shed, logs_dropped``.
        """

    def close(self) -> None:
        """Ends the thread and waits for it with the GIL released. What is pending gets FAILED, which `drain` still gives."""

    def panic(self) -> None:
        """Makes the engine's thread fail. Needs ``test_hooks``."""

def compile_check(chunk_name: str, source: bytes) -> tuple[int, str] | None:
    """None if the source compiles, else line and cause. For callers outside the VM threads; bounded by source_bytes_max."""

def resolve_requires(files: bytes, requires: list[tuple[str, str]]) -> list[str | None]:
    """Why each ``(requiring file, path)`` means no file of *files* (msgpack map of path -> source) and no module of the
    engine; None where it means one.

    Raises: ValueError: the files are no template.
    """

def watchdog(master_pidfd: int, deaf_ms: int, exit_on_deaf: bool) -> None:
    """Starts the process's watchdog thread: looks every 500 ms at every engine, and ends the process (exit code 70) when one
    slice has lasted *deaf_ms*, or reports DEAF where *exit_on_deaf* is false. With *master_pidfd* >= 0 it ends the process
    as soon as the master is gone (exit code 71), whatever Python does.
    """
