"""`WorkerDb`: what a worker asks of the database, and the operations that its signatures make.

The signatures are the only place where an operation is declared. Mesophyll's codec reads their types, and whatever stands
between a worker and the stores (turns, the link to the master) is made by `over` from one function.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from msgspec import Struct

from pytw.types import (
    Draft,
    GlobalEntry,
    GlobalPage,
    GlobalRecord,
    KvPlace,
    KvRecord,
    KvReleased,
    KvWritten,
    ObjectInfo,
    ScriptCaller,
    TemplateInfo,
    TemplateSource,
    TenantGate,
    TenantState,
)

Method = TypeVar("Method", bound=Callable[..., Any])


def reads(method: Method) -> Method:
    """Marks an operation that changes nothing: asking again does no harm."""
    method.reads = True  # type: ignore[attr-defined]
    return method


@runtime_checkable
class WorkerDb(Protocol):
    """What a worker asks of the database; Mesophyll's client and the master's stores both satisfy it.

    An operation whose first parameter is ``tenant`` belongs to that tenant; the others say which worker asks. Those named
    ``object_*`` are answered by the object storage.
    """

    @reads
    async def gates(self, worker_id: int, workers: int) -> list[TenantGate]: ...
    @reads
    async def gate(self, tenant: int) -> TenantGate: ...
    @reads
    async def program(self, tenant: int) -> list[TemplateSource]: ...
    @reads
    async def tenant_state(self, tenant: int) -> TenantState: ...
    async def set_tenant_state(self, tenant: int, state: TenantState) -> None: ...
    async def update_tenant_state(self, tenant: int, base: TenantState | None, wanted: TenantState) -> TenantState: ...

    @reads
    async def secret_get(self, tenant: int, template: str, name: str) -> str | None: ...

    @reads
    async def template_list(self, tenant: int, loop: bool) -> list[TemplateInfo]: ...
    @reads
    async def template_get(self, tenant: int, name: str, loop: bool) -> TemplateInfo | None: ...
    async def template_save(self, tenant: int, caller: ScriptCaller, draft: Draft, new: bool) -> None: ...
    async def template_delete(self, tenant: int, caller: ScriptCaller, name: str) -> None: ...

    @reads
    async def kv_get(self, tenant: int, key: str, scopes: Sequence[str]) -> KvRecord | None: ...
    @reads
    async def kv_get_by_id(self, tenant: int, record_id: str) -> KvRecord | None: ...
    @reads
    async def kv_exists(self, tenant: int, key: str, scopes: Sequence[str]) -> bool: ...
    async def kv_set(
        self,
        tenant: int,
        key: str,
        scopes: Sequence[str],
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten: ...
    async def kv_set_by_id(
        self,
        tenant: int,
        record_id: str,
        value: bytes,
        expires_at: datetime | None = None,
        *,
        resume: bool = False,
        if_version: int | None = None,
    ) -> KvWritten: ...
    async def kv_set_expiry(
        self, tenant: int, key: str, scopes: Sequence[str], expires_at: datetime | None
    ) -> bool: ...
    async def kv_set_expiry_by_id(self, tenant: int, record_id: str, expires_at: datetime | None) -> bool: ...
    async def kv_delete(self, tenant: int, key: str, scopes: Sequence[str]) -> int: ...
    async def kv_delete_by_id(self, tenant: int, record_id: str) -> bool: ...
    @reads
    async def kv_find(
        self, tenant: int, pattern: str, scopes: Sequence[str], *, limit: int, after: str | None = None
    ) -> list[KvRecord]: ...
    @reads
    async def kv_keys(self, tenant: int, scopes: Sequence[str]) -> list[str]: ...
    @reads
    async def kv_list_scopes(self, tenant: int) -> list[str]: ...

    async def claim_expired(
        self, worker_id: int, workers: int, *, limit: int, busy: Sequence[int] = ()
    ) -> list[tuple[int, KvRecord]]: ...
    async def finish_expired(self, tenant: int, handled: Sequence[tuple[str, int]]) -> int: ...
    async def fail_expired(self, tenant: int, record_id: str, version: int) -> bool: ...
    async def release_claims(self, worker_id: int, workers: int) -> KvReleased: ...
    async def retry_expired(self, tenant: int) -> int: ...
    @reads
    async def resume_keys(self, worker_id: int, workers: int, after: str, limit: int) -> list[KvPlace]: ...
    @reads
    async def tenant_resume_keys(self, tenant: int, after: str, limit: int) -> list[KvPlace]: ...

    @reads
    async def global_find(
        self, tenant: int, scope: str, pattern: str, *, limit: int, after: str | None = None
    ) -> GlobalPage: ...
    @reads
    async def global_get(self, tenant: int, scope: str, key: str, version: int) -> GlobalRecord | None: ...
    async def global_create(self, tenant: int, entry: GlobalEntry) -> None: ...
    async def global_delete(self, tenant: int, scope: str, key: str, version: int) -> None: ...

    @reads
    async def object_list(
        self, tenant: int, prefix: str, *, limit: int, after: str | None = None
    ) -> list[ObjectInfo]: ...
    @reads
    async def object_exists(self, tenant: int, key: str) -> bool: ...
    @reads
    async def object_get(self, tenant: int, key: str) -> bytes: ...
    async def object_put(self, tenant: int, key: str, data: bytes) -> None: ...
    async def object_delete(self, tenant: int, key: str) -> None: ...
    @reads
    async def object_url(self, tenant: int, key: str, expires_s: int) -> str: ...


class Operation(Struct, frozen=True, kw_only=True):
    """One method of `WorkerDb`, as its signature says."""

    name: str
    #: The tenant is not among the arguments: it travels apart from them.
    of_tenant: bool
    #: Changes nothing.
    reads: bool
    #: Names and types of the arguments, in order.
    parameters: dict[str, Any]
    #: Those that are passed by name, which come last.
    keywords: tuple[str, ...]
    defaults: dict[str, Any]
    result: Any

    @property
    def of_objects(self) -> bool:
        """Whether the object storage answers it, and not the database."""
        return self.name.startswith("object_")

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in order, however the caller has passed them. Raises: TypeError."""
        if not kwargs and len(args) == len(self.parameters):
            return args
        missing = list(self.parameters)[len(args) :]
        if len(args) > len(self.parameters) or not kwargs.keys() <= set(missing):
            raise TypeError(f"{self.name} takes {', '.join(self.parameters)}")
        known = self.defaults | kwargs
        if not known.keys() >= set(missing):
            raise TypeError(f"{self.name} needs {', '.join(name for name in missing if name not in known)}")
        return (*args, *(known[name] for name in missing))

    async def run(self, db: WorkerDb, tenant: int, args: tuple[Any, ...]) -> Any:
        """The operation on *db*, with all its arguments in order."""
        by_place = len(args) - len(self.keywords)
        owner = (tenant,) if self.of_tenant else ()
        named = dict(zip(self.keywords, args[by_place:], strict=True))
        return await getattr(db, self.name)(*owner, *args[:by_place], **named)


def _operation(name: str, method: Callable[..., Any]) -> Operation:
    types = typing.get_type_hints(method)
    signature = list(inspect.signature(method).parameters.values())[1:]
    of_tenant = signature[0].name == "tenant"
    own = signature[1:] if of_tenant else signature
    return Operation(
        name=name,
        of_tenant=of_tenant,
        reads=getattr(method, "reads", False),
        parameters={parameter.name: types[parameter.name] for parameter in own},
        keywords=tuple(parameter.name for parameter in own if parameter.kind is parameter.KEYWORD_ONLY),
        defaults={parameter.name: parameter.default for parameter in own if parameter.default is not parameter.empty},
        result=types["return"],
    )


#: All that can be asked for, by name.
OPERATIONS: Final[dict[str, Operation]] = {
    name: _operation(name, method) for name, method in vars(WorkerDb).items() if inspect.iscoroutinefunction(method)
}

#: Answers an operation of a tenant (0 where it belongs to none), given all its arguments in order.
Answer = Callable[[Operation, int, tuple[Any, ...]], Awaitable[Any]]


class _Over:
    def __init__(self, answer: Answer) -> None:
        for operation in OPERATIONS.values():
            setattr(self, operation.name, _method(operation, answer))


def _method(operation: Operation, answer: Answer) -> Callable[..., Awaitable[Any]]:
    def of_tenant(tenant: int, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return answer(operation, tenant, operation.arguments(args, kwargs))

    def of_worker(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        return answer(operation, 0, operation.arguments(args, kwargs))

    return of_tenant if operation.of_tenant else of_worker


def over(answer: Answer) -> WorkerDb:
    """A `WorkerDb` each of whose operations *answer* answers."""
    return cast(WorkerDb, _Over(answer))


__all__ = ["OPERATIONS", "Operation", "WorkerDb", "over", "reads"]
