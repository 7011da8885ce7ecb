"""`Scrubber`, and what leaves a real worker once a template has read a secret."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytw import values
from pytw.errors import ScriptError
from pytw.types import DispatchResult, Outcome, TenantState
from pytw.worker.context.operation import Operation
from pytw.worker.scrub import Scrubber
from pytw.worker.template import Template
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template, until
from .workerlike_contract import A, B, event, spec

SECRET = 'hunter2/ü?"x"'
CUT = 1_000


def knowing(*pairs: tuple[str, str]) -> Scrubber:
    made = Scrubber(CUT)
    for name, value in pairs:
        made.learn(A, name, value)
    return made


def body(outcome: Outcome, *parts: list[Any], limit: str | None = None) -> bytes:
    return bytes(values.pack([int(outcome), limit, list(parts), [1, 2, {}, 3]]))


@pytest.mark.parametrize(
    "text",
    [SECRET, f"a {SECRET} b {SECRET}", "https://x/?k=hunter2%2F%C3%BC%3F%22x%22&a", 'json "hunter2/ü?\\"x\\""'],
    ids=["alone", "twice", "url", "json"],
)
def test_a_secret_is_found_as_people_and_programs_write_it(text: str):
    found = knowing(("key", SECRET)).text(A, text)
    assert "hunter2" not in found
    assert "[secret key]" in found


def test_the_longer_of_two_goes_first():
    assert knowing(("short", "abcd"), ("long", "abcdefgh")).text(A, "abcdefgh abcd") == "[secret long] [secret short]"


def test_lines_of_a_key_are_found_alone():
    pem = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----"
    assert knowing(("pem", pem)).text(A, "line 2: MIIEvQIBADANBg") == "line 2: [secret pem]"


def test_others_texts_and_too_short_secrets_are_left_alone():
    made = knowing(("key", SECRET), ("short", "abc"))
    assert made.text(B, SECRET) == SECRET
    assert made.text(A, "abc") == "abc"
    assert Scrubber(CUT).text(A, SECRET) == SECRET


def test_the_beginning_of_a_secret_at_the_end_of_a_cut_text_goes():
    made = knowing(("key", "hunter2hunter2"))
    assert made.text(A, "x" * (CUT - 8) + "hunter2h") == "x" * (CUT - 8) + "[secret key]"
    assert made.text(A, "x" * (CUT - 2) + "hu") == "x" * (CUT - 2) + "hu"
    assert made.text(A, "hunter2h") == "hunter2h"


def test_of_several_beginnings_at_the_end_of_a_cut_text_the_longest_goes():
    made = knowing(("one", "abcdabcdX"), ("two", "cdabcdabQ"))
    assert made.text(A, "x" * CUT + "abcdabcdab") == "x" * CUT + "ab[secret two]"
    assert made.text(A, "x" * CUT + "abcdXabcd") == "x" * CUT + "abcdX[secret one]"
    made = knowing(("one", "abcdab" + "Q" * 20))
    assert made.text(A, "x" * CUT + "abcdYYabcdab") == "x" * CUT + "abcdYY[secret one]"


def test_only_errors_and_reasons_of_a_result_change():
    made = knowing(("key", SECRET))
    deep = {"v": [SECRET, None, 1.5]}
    before = body(
        Outcome.SCRIPT_ERROR,
        ["t", 2, None, None, f"no {SECRET}"],
        ["u", 0, None, deep, None],
        limit=f"load: {SECRET}",
    )
    after = DispatchResult(made.body(A, before))
    assert after.limit == "load: [secret key]"
    assert [(t.template, t.outcome, t.error) for t in after.templates] == [
        ("t", Outcome.SCRIPT_ERROR, "no [secret key]"),
        ("u", Outcome.OK, None),
    ]
    assert (after.templates[1].value, after.meter.result_bytes) == (deep, 3)
    assert made.body(B, before) == before
    ok = body(Outcome.OK, ["u", 0, None, SECRET, None])
    assert made.body(A, ok) == ok


def test_text_that_is_no_utf8_passes():
    made = knowing(("key", SECRET))
    raw = body(Outcome.SCRIPT_ERROR, ["t", 2, None, None, "xx"]).replace(b"xx", b"\xffx")
    assert b"\xffx" in made.body(A, raw)


def test_memory_is_bounded_by_forgetting_who_was_idle():
    made = Scrubber(CUT, bytes_max=10_000)
    for tenant in range(100):
        made.learn(tenant, "k", f"{tenant:0900}")
        made.learn(A, "k", SECRET)
    assert made.bytes <= 10_000
    assert made.text(0, f"{0:0900}") == f"{0:0900}"
    assert made.text(99, f"{99:0900}") == "[secret k]"
    assert made.text(A, SECRET) == "[secret key]".replace("key", "k")


READS = """
local function get(ctx) return ctx.Runtime:get_secret('key') end
return {
	Read = function(ctx) return get(ctx) end,
	Missing = function(ctx) return ctx.Runtime:get_secret('other') end,
	Raise = function(ctx) error('no ' .. get(ctx)) end,
	Table = function(ctx) error({ deep = get(ctx) }) end,
	Later = function(ctx) local k = get(ctx) task.delay(0, function() error('late ' .. k) end) end,
	Fetch = function(ctx)
		local url = 'http://127.0.0.1:1/?token=' .. get(ctx)
		return ctx.HTTPClient:new_request('GET', url):send()
	end,
	Broken = function(ctx) get(ctx) ctx.Runtime:stats() end,
}
"""
EVENTS = ("Read", "Missing", "Raise", "Table", "Later", "Fetch", "Broken")


class Rig:
    def __init__(self) -> None:
        self.db = MemoryDb()
        self.db.secrets[A, "t", "key"] = self.db.secrets[A, "$builtins", "key"] = SECRET
        self.threads: list[WorkerThread] = []

    async def start(self, builtins: str = "", caps: tuple[str, ...] = ("secret:key", "runtime:*")) -> "Rig":
        if not builtins:
            self.db.put(A, template("t", READS, *EVENTS, caps=caps))
        self.threads.append(
            WorkerThread(Worker(msgspec.structs.replace(spec(), builtins_dir=builtins), self.db, MemoryDiscord()))
        )
        await self.threads[-1].start()
        return self

    @property
    def worker(self) -> Worker:
        return self.threads[-1].worker

    async def run(self, name: str) -> DispatchResult:
        return await self.threads[-1].dispatch_event(A, event(name))


@pytest.fixture
async def rig():
    made = Rig()
    yield made
    for thread in made.threads:
        await thread.kill()


def unseen(caplog: pytest.LogCaptureFixture) -> bool:
    formatter = logging.Formatter()
    return not any("hunter2" in formatter.format(record) for record in caplog.records)


async def test_a_template_reads_its_secret_as_it_is(rig: Rig):
    await rig.start()
    assert [(await rig.run(name)).templates[0].value for name in ("Read", "Missing")] == [SECRET, None]


@pytest.mark.parametrize(
    ("caps", "may"),
    [
        (("*",), True),
        (("secret:*",), True),
        (("secret:key",), True),
        (("secret:other", "runtime:*"), False),
        ((), False),
    ],
)
async def test_reading_needs_its_capability(rig: Rig, caps: tuple[str, ...], may: bool):
    await rig.start(caps=caps)
    (part,) = (await rig.run("Read")).templates
    assert (part.error is None) is may
    if not may:
        assert "secret `key` is not allowed in this template context" in part.error


async def test_another_template_of_the_tenant_has_other_secrets(rig: Rig):
    rig.db.secrets.clear()
    rig.db.secrets[A, "u", "key"] = rig.db.secrets[B, "t", "key"] = SECRET
    await rig.start()
    assert (await rig.run("Read")).templates[0].value is None


@pytest.mark.parametrize("name", ["Raise", "Table"])
async def test_errors_their_log_and_why_do_not_show_it(rig: Rig, name: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    await rig.start()
    (part,) = (await rig.run(name)).templates
    assert part.outcome is Outcome.SCRIPT_ERROR
    assert "hunter2" not in part.error
    if name == "Raise":
        assert "no [secret key]" in part.error
        assert any("no [secret key]" in text for text in caplog.messages)
    assert not any("hunter2" in str(note.reason) for note in await rig.threads[-1].why(A))
    assert unseen(caplog)


async def test_log_lines_do_not_show_it(rig: Rig, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    await rig.start()
    assert (await rig.run("Later")).outcome is Outcome.OK
    await until(lambda: any("[secret key]" in text and "late" in text for text in caplog.messages), "the late error")
    assert unseen(caplog)


async def test_a_host_calls_error_that_names_it_does_not_show_it(rig: Rig, caplog: pytest.LogCaptureFixture):
    await rig.start(caps=("*",))
    (part,) = (await rig.run("Fetch")).templates
    assert part.outcome is Outcome.SCRIPT_ERROR
    assert "hunter2" not in part.error
    assert unseen(caplog)


async def test_a_bug_of_ours_that_names_it_does_not_show_it(rig: Rig, caplog: pytest.LogCaptureFixture):
    await rig.start()

    async def broken(_call: object) -> bytes:
        raise ValueError(SECRET)

    rig.worker.context._operations["runtime.stats"] = Operation(handler=broken)
    (part,) = (await rig.run("Broken")).templates
    assert "internal error in runtime.stats" in part.error
    assert any("[secret key]" in text for text in caplog.messages)
    assert unseen(caplog)


async def test_a_check_does_not_show_it(rig: Rig):
    await rig.start()
    await rig.run("Read")
    with pytest.raises(ScriptError) as refused:
        await rig.worker.check_template(A, Template(template("u", f"error([[{SECRET}]])")))
    assert "[secret key]" in refused.value.detail
    assert "hunter2" not in refused.value.detail


LOOP = """
return function(ctx)
	local key = ctx.Runtime:get_secret('key')
	local name = ctx:event().name
	if name == 'Raise' then error('loop ' .. key) end
	return {
		{ type = 'err', id = 'a', value = 'no ' .. key },
		{ type = 'err', id = 'b', value = { deep = { key } } },
		{ type = 'ok', id = 'c', value = 'fine' },
	}
end
"""


async def test_errors_in_a_loops_results_do_not_show_it(rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "init.luau").write_text(LOOP)
    rig.db.states[A] = TenantState(frozenset({"E", "Raise"}), {})
    await rig.start(str(tmp_path))
    ended = (await rig.run("E")).templates
    assert [(part.template, part.outcome) for part in ended] == [
        ("a", Outcome.SCRIPT_ERROR),
        ("b", Outcome.SCRIPT_ERROR),
        ("c", Outcome.OK),
    ]
    assert "no [secret key]" in ended[0].error
    assert "hunter2" not in repr(ended)
    (part,) = (await rig.run("Raise")).templates
    assert "loop [secret key]" in part.error
    assert unseen(caplog)


def test_secrets_within_and_over_each_other_go_from_the_left_the_longest_first() -> None:
    scrubber = Scrubber(4_096)
    for name, value in (("short", "abab"), ("long", "ababab"), ("over", "bbcc")):
        scrubber.learn(1, name, value)
    assert scrubber.text(1, "xabababbcc") == "x[secret long]bcc"
    assert scrubber.text(1, "aababababbcc") == "a[secret long]a[secret over]"
    assert scrubber.text(1, "ababbcc bbcc") == "[secret short]bcc [secret over]"
