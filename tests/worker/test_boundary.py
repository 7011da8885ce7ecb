"""`VMContext`: every call gets exactly one answer, whatever its handler does."""

import asyncio
import logging

import msgpack
import pytest

from pytw.errors import StorageUnavailable
from pytw.limits import VALUE_BYTES_MAX
from pytw.worker.context import RateLimits, VMContext, boundary
from pytw.worker.context.call import HostCall
from pytw.worker.context.operation import Bucket, Need, Operation
from pytw.worker.vms import SCRIPT_BIT

from .fakes import until


class Vms:
    """Keeps the answers that an engine would get."""

    def __init__(self) -> None:
        self.answers: dict[int, bytes | str] = {}

    def answer(self, tenant: int, call: int, payload: bytes) -> None:
        assert call not in self.answers
        self.answers[call] = payload

    def answer_error(self, tenant: int, call: int, text: str) -> None:
        assert call not in self.answers
        self.answers[call] = text


async def caps_of(tenant: int, template: str) -> frozenset[str]:
    return frozenset({f"of:{template}"})


@pytest.fixture
def vms() -> Vms:
    return Vms()


def ask(name: str, request: int = 1, narrowed: list[str] | None = None) -> bytes:
    return msgpack.packb([request, "t", name, narrowed, []])


async def answer_of(vms: Vms, handler, payload: bytes, name: str = "x.y", **rules) -> bytes | str:
    context = VMContext(vms, caps_of, RateLimits(), {name: Operation(handler=handler, **rules)})
    context.host_call(1, 7, payload)
    await until(lambda: 7 in vms.answers, "the answer")
    return vms.answers[7]


async def test_results_go_back_as_they_are(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        return b"\x91\x01"

    assert await answer_of(vms, handler, ask("x.y")) == b"\x91\x01"


async def test_call_carries_the_capabilities_of_its_template(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        return msgpack.packb(sorted(call.caps))

    assert await answer_of(vms, handler, ask("x.y")) == msgpack.packb(["of:t"])


async def test_scripts_hold_every_capability(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        return msgpack.packb(sorted(call.caps))

    assert await answer_of(vms, handler, ask("x.y", SCRIPT_BIT | 5)) == msgpack.packb(["*"])


@pytest.mark.parametrize(
    ("request_id", "narrowed", "allowed"),
    [
        (1, None, True),
        (1, ["of:t"], True),
        (1, ["*"], True),
        (1, ["of:u"], False),
        (1, ["of:*"], False),
        (1, [], False),
        (SCRIPT_BIT | 1, None, True),
        (SCRIPT_BIT | 1, ["of:u"], False),
    ],
)
async def test_template_and_sub_context_must_both_hold_it(vms: Vms, request_id, narrowed, allowed):
    """A sub-context of `ctx:with` narrows, also a script's; it adds nothing that the template does not hold."""

    async def handler(call: HostCall) -> bytes:
        return b"\x90"

    answer = await answer_of(vms, handler, ask("x.y", request_id, narrowed), need=lambda call: Need(["of:t"], "no"))
    assert answer == (b"\x90" if allowed else "no")


async def test_sub_context_adds_nothing(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        raise AssertionError

    assert await answer_of(vms, handler, ask("x.y", narrowed=["*"]), need=lambda call: Need(["x:y"], "no")) == "no"


async def test_refused_calls_do_not_count_and_allowed_ones_do(vms: Vms):
    """Who may not call at all cannot use up the tenant's rate; whoever may is refused once it is used up."""

    async def handler(call: HostCall) -> bytes:
        return b"\x90"

    operation = Operation(handler=handler, need=lambda call: Need(["of:t"], "no"), bucket=Bucket("http", "send"))
    context = VMContext(vms, caps_of, RateLimits(clock_ns=lambda: 0), {"http.send": operation})
    for number in range(9):
        context.host_call(1, number, ask("http.send", narrowed=[] if number < 5 else None))
        await until(lambda number=number: number in vms.answers, "the answer")
    assert [vms.answers[number] for number in range(8)] == ["no"] * 5 + [b"\x90"] * 3
    assert vms.answers[8] == "Global ratelimit hit for bucket 'send', wait time: 1.666666667s"


async def test_unknown_call_says_so(vms: Vms):
    assert await answer_of(vms, None, ask("no.such")) == "host call 'no.such' does not exist"


async def test_error_text_is_the_errors_own(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        raise StorageUnavailable("away", hint="a hint for operators")

    assert await answer_of(vms, handler, ask("x.y")) == "away"


async def test_bug_of_ours_is_logged_and_not_told(vms: Vms, caplog):
    async def handler(call: HostCall) -> bytes:
        raise KeyError("postgresql://user:password@host")

    with caplog.at_level(logging.ERROR):
        assert await answer_of(vms, handler, ask("x.y")) == "internal error in x.y"
    assert caplog.records


async def test_call_that_hangs_ends_at_its_deadline(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        await asyncio.Event().wait()
        return b""

    answer = await answer_of(vms, handler, ask("x.y"), timeout_s=0.01)
    assert answer == "x.y did not end within 0.01 s"


async def test_answer_over_the_bound_is_an_error(vms: Vms):
    async def handler(call: HostCall) -> bytes:
        return b"x" * (VALUE_BYTES_MAX + 1)

    assert "longer than" in str(await answer_of(vms, handler, ask("x.y")))
    vms.answers.clear()
    assert isinstance(await answer_of(vms, handler, ask("x.y"), answer_bytes_max=VALUE_BYTES_MAX + 1), bytes)


async def test_calls_over_the_bound_are_refused_at_once(vms: Vms, monkeypatch):
    monkeypatch.setattr(boundary, "CALLS_MAX", 1)

    async def handler(call: HostCall) -> bytes:
        await asyncio.Event().wait()
        return b""

    context = VMContext(vms, caps_of, RateLimits(), {"x.y": Operation(handler=handler)})
    context.host_call(1, 1, ask("x.y"))
    context.host_call(1, 2, ask("x.y"))
    assert "too many" in str(vms.answers[2])
    await asyncio.sleep(0)
    await context.close()
    assert vms.answers[1] == "the worker is closing"
