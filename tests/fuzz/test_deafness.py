"""P7: no native function that a script can reach keeps its VM thread deaf, whatever it is given."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pytw.types import Outcome

from .conftest import Budget, Driver, keep

NATIVE = Path(__file__).parents[2] / "native" / "src"
GLOBALS = [
    "assert",
    "bit32",
    "buffer",
    "collectgarbage",
    "coroutine",
    "debug",
    "error",
    "gcinfo",
    "getmetatable",
    "host",
    "ipairs",
    "loadstring",
    "math",
    "newproxy",
    "next",
    "os",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "require",
    "select",
    "setmetatable",
    "string",
    "table",
    "task",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "utf8",
    "vector",
    "xpcall",
    "createglobalproxy",
    "print",
    "warn",
]
#: The rule is 100 ms. What looks longer is tried alone before it counts: others have the core, too.
DEAF_MS = 100
SUSPECT_MS = 60

SIZES = [1, 1_000, 100_000, 1_000_000]
TEXTS = [
    "a",
    "\\255",
    " ",
    "1",
    "[",
    '{"a":',
    "(",
    "%a",
    "a-",
    "[^a]",
    "../",
    "%Y",
    "é",
    "0.",
    ",",
    "\\0",
    "x=1 ",
    "\\\\u0061",
    "{1}",
    "=",
    "1,",
]
TABLES = [
    "table.create({n}, 1)",
    "table.create({n}, 'abc')",
    "table.create({n}, {{}})",
    "hash({n})",
    "sparse({n})",
    "deep({n})",
    "shared({n})",
    "names({n})",
    "hollow({n})",
]
NUMBERS = [
    "0",
    "1",
    "-1",
    "3",
    "1e3",
    "1e6",
    "2^31 - 1",
    "-2^31",
    "2^32",
    "2^53",
    "-2^53",
    "1e308",
    "-1e308",
    "1 / 0",
    "-1 / 0",
    "0 / 0",
    "0.5",
    "1e-320",
]
OTHERS = [
    "nil",
    "true",
    "print or pcall",
    "rawequal",
    "function(...) return ... end",
    "coroutine.create(function() end)",
    "vector.create(1, 2, 3)",
    "newproxy(true)",
    "setmetatable({{}}, {{__index = rawequal, __newindex = rawequal, __len = function() return 2^31 end}})",
    "ctx",
    "ctx:event()",
    "'n'",
    "'%d'",
    "'<i8'",
    "'E'",
]

PRELUDE = """
local ctx = ...
local function hash(n) local t = {} for i = 1, math.min(n, 150000) do t['k' .. i] = i end return t end
local function sparse(n) local t = {} for i = 1, math.min(n, 200000) do t[i * 7] = i end return t end
local function deep(n) local t = {} for i = 1, math.min(n, 100000) do t = {t} end return t end
local function shared(n) local t = {} for i = 1, math.min(n, 60) do t = {t, t, a = t} end return t end
local function names(n) local t = {} for i = 1, math.min(n, 100000) do t[i] = 'n' .. i end return t end
local function hollow(n) local t = table.create(math.min(n, 700000)) t[1] = 1 return t end
local slow = {}
local function try(which, make, call)
    local made, a, b, c, d = pcall(make)
    if not made then return end
    local since = os.clock()
    task.spawn(pcall, call, a, b, c, d)
    local ms = (os.clock() - since) * 1000
    if ms >= %d then slow[#slow + 1] = {which, ms} end
end
"""


def libraries() -> list[str]:
    texts = [path.read_text() for path in (NATIVE / "api").rglob("*.rs")]
    return sorted({name for text in texts for name in re.findall(r'c"(@antiraid/[a-z0-9]+)"', text)})


def reachable(driver: Driver) -> list[str]:
    """What tests/fuzz/reach.luau finds; the names of members are those in the native sources."""
    texts = [path.read_text() for path in NATIVE.rglob("*.rs")]
    names = sorted({name for text in texts for name in re.findall(r'["`.]([A-Za-z][A-Za-z0-9_]{1,30})"', text)})
    lists = ", ".join("{" + ", ".join(f'"{item}"' for item in items) + "}" for items in (names, libraries(), GLOBALS))
    walker = (
        (Path(__file__).parent / "reach.luau")
        .read_text()
        .replace(
            "local ctx, NAMES, LIBRARIES, GLOBALS = ...", f"local ctx = ...\nlocal NAMES, LIBRARIES, GLOBALS = {lists}"
        )
    )
    found: list[str] = driver.ok(walker)
    return found


def argument(r: random.Random, size: int) -> str:
    kind = r.random()
    if kind < 0.45:
        text = r.choice(TEXTS)
        return f"('{text}'):rep({max(1, 6 * size // len(text)) if size >= 1_000_000 else size})"
    if kind < 0.7:
        return r.choice(TABLES).format(n=size)
    if kind < 0.78:
        return f"buffer.create({6 * size if size >= 1_000_000 else size})"
    return r.choice(NUMBERS) if kind < 0.92 else r.choice(OTHERS).format()


def arguments(r: random.Random) -> str:
    """Up to four, one of them large; now and then the same twice, or nearly."""
    n = r.choice([1, 1, 2, 2, 3, 4])
    large = r.randrange(n)
    items = [argument(r, r.choice(SIZES) if i == large else r.choice([1, 3, 1_000])) for i in range(n)]
    if n > 1 and r.random() < 0.3:
        other = (large + 1) % n
        items[other] = items[large] if r.random() < 0.5 or "rep(" not in items[large] else f"{items[large]} .. 'b'"
    return ", ".join(items)


def call_of(expression: str) -> str:
    found = re.fullmatch(r"(.*):([A-Za-z_0-9]+)", expression, re.S)
    if found and not found[1].endswith(("(", "'")):
        return f"function(...) local o = {found[1]} return o:{found[2]}(...) end"
    return expression


def script(cases: list[tuple[str, str]], suspect_ms: int = SUSPECT_MS) -> str:
    lines = [f"try({i}, function() return {args} end, {call_of(f)})" for i, (f, args) in enumerate(cases)]
    return PRELUDE % suspect_ms + "\n".join(lines) + "\nreturn slow"


class Ear:
    """Runs batches of calls and tells which kept the thread too long."""

    def __init__(self) -> None:
        self.driver = self.fresh()
        self.functions = reachable(self.driver)

    @staticmethod
    def fresh() -> Driver:
        return Driver(cpu_bucket_ms=600_000, unbreakable_ms=50, log_bytes_per_s=0)

    def run(self, cases: list[tuple[str, str]], suspect_ms: int = SUSPECT_MS) -> list[tuple[int, float]]:
        done = self.driver.wait(self.driver.script(script(cases, suspect_ms), timeout_ms=60_000), 90)
        self.driver.calls.clear()
        self.driver.logs.clear()
        if done.outcome is Outcome.OK and done.value:
            return [(which, ms) for which, ms in done.value]
        return []

    def is_deaf(self, case: tuple[str, str]) -> float:
        """The shortest of five attempts, in milliseconds, each in a VM of its own."""
        best = float("inf")
        for _ in range(5):
            self.driver.wait(self.driver.drop())
            slow = self.run([case], DEAF_MS)
            if not slow:
                return 0.0
            best = min(best, slow[0][1])
        return best

    def listen(self, cases: list[tuple[str, str]], seed: int) -> None:
        for which, _ in self.run(cases):
            ms = self.is_deaf(cases[which])
            if ms >= DEAF_MS:
                place = keep("deafness", seed, script([cases[which]], 0))
                pytest.fail(f"{cases[which][0]}({cases[which][1]}) keeps the thread for {ms:.0f} ms: {place}")

    def close(self) -> None:
        self.driver.engine.close()


def test_the_walk_finds_libraries_modules_and_methods() -> None:
    ear = Ear()
    ear.close()
    joined = "\n".join(ear.functions)
    for expected in (
        'string["rep"]',
        'table["move"]',
        "coroutine",
        "task",
        "require",
        "ctx:event",
        "ctx.KV:get",
        "datamgmt",
        "datetime",
    ):
        assert expected in joined, ear.functions
    assert len(ear.functions) > 200


def test_no_native_function_keeps_the_thread_deaf() -> None:
    budget, ear = Budget("deafness", 6), Ear()
    for seed in budget.rounds_of_seeds():
        r = random.Random(seed)
        ear.listen([(r.choice(ear.functions), arguments(r)) for _ in range(12)], seed)
    ear.close()
    budget.summary()
