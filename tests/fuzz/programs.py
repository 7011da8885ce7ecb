"""Random Luau programs that compile, nest, allocate, wait and fail: what a hostile author could write, without the skill."""

from __future__ import annotations

import random

SIZES = ["0", "1", "7", "100", "3000", "70000", "1e6", "4e6", "2^31", "-1", "1 / 0", "0 / 0"]
SMALL = ["0", "1", "2", "3", "10", "100"]
METAMETHODS = [
    "__index",
    "__newindex",
    "__call",
    "__eq",
    "__lt",
    "__le",
    "__len",
    "__concat",
    "__unm",
    "__add",
    "__iter",
    "__tostring",
    "__mode",
    "__metatable",
    "__gc",
]
LIBRARIES = {
    "string": [
        "rep",
        "find",
        "match",
        "gsub",
        "gmatch",
        "format",
        "split",
        "byte",
        "sub",
        "upper",
        "reverse",
        "pack",
        "unpack",
        "len",
        "char",
    ],
    "table": [
        "insert",
        "remove",
        "concat",
        "sort",
        "create",
        "clone",
        "clear",
        "move",
        "find",
        "unpack",
        "pack",
        "freeze",
        "foreach",
    ],
    "coroutine": ["create", "wrap", "resume", "yield", "status", "close", "running", "isyieldable"],
    "task": ["spawn", "defer", "delay", "wait", "cancel"],
    "buffer": ["create", "fromstring", "tostring", "fill", "copy", "readstring", "len"],
    "math": ["random", "floor", "max", "abs"],
    "debug": ["traceback", "info"],
    "utf8": ["len", "char", "codepoint", "offset"],
}
BARE = [
    "tostring",
    "tonumber",
    "type",
    "typeof",
    "select",
    "pcall",
    "xpcall",
    "error",
    "assert",
    "setmetatable",
    "getmetatable",
    "rawget",
    "rawset",
    "rawequal",
    "rawlen",
    "next",
    "pairs",
    "ipairs",
    "unpack",
    "newproxy",
    "loadstring",
    "require",
    "gcinfo",
    "collectgarbage",
]
MODULES = {
    "json": ["tojsonstring", "fromjsonstring"],
    "datamgmt": ["newblob", "base64encode", "base64decode", "compress", "decompress", "TarArchive"],
    "datetime": ["new", "timedelta_seconds"],
    "typesext": ["U64", "I64", "newlazystringmap", "randstring", "createglobalproxy", "castlazyvaluetolazymap"],
    "interop": ["memusage"],
    "luau": ["format", "compile"],
    "channel": ["OneshotChannel", "selectoneshots", "DelayChannel"],
}
CALLS = ["'x'", "'fail'", "'never'", "'a.b'", "''"]


class Author:
    """Writes one program; the same seed writes the same."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)

    def write(self) -> str:
        body = "\n".join(self.statement(4) for _ in range(self.r.randint(1, 8)))
        return f"local ctx = ...\nlocal V = {{}}\nlocal function f(...) return ... end\n{body}\nreturn {self.expression(2)}"

    def block(self, depth: int) -> str:
        return " ".join(self.statement(depth - 1) for _ in range(self.r.randint(1, 3)))

    def function(self, depth: int) -> str:
        last = self.r.choice(["", f"return {self.expression(depth - 2)}", "return ...", "return false", "return V"])
        return f"function(...) local a, b = ... {self.block(depth - 1)} {last} end"

    def variable(self) -> str:
        return f"V[{self.r.randint(1, 5)}]"

    def statement(self, depth: int) -> str:
        r = self.r
        if depth <= 0:
            return f"{self.variable()} = {self.expression(0)}"
        return r.choice(
            [
                lambda: f"{self.variable()} = {self.expression(depth)}",
                lambda: f"{self.variable()} = {self.expression(depth)}",
                lambda: (
                    f"while {r.choice(['true', self.expression(1)])} do {self.block(depth)} {r.choice(['', '', 'break'])} end"
                ),
                lambda: f"for i = 1, {r.choice(SIZES)} do {self.block(depth)} end",
                lambda: f"for i = 1, {r.choice(SMALL)} do {self.block(depth)} end",
                lambda: f"repeat {self.block(depth)} until {self.expression(1)}",
                lambda: f"pcall({self.function(depth)})",
                lambda: f"pcall({self.function(depth)})",
                lambda: f"pcall(xpcall, {self.function(depth)}, {self.function(depth)})",
                lambda: (
                    f"local co = coroutine.create({self.function(depth)}) {self.variable()} = co pcall(coroutine.resume, co, {self.expression(1)})"
                ),
                lambda: f"pcall(coroutine.wrap({self.function(depth)}))",
                lambda: f"pcall(task.{r.choice(['spawn', 'defer'])}, {self.function(depth)})",
                lambda: f"pcall(task.delay, {r.choice(['0', '0.05', '60', *SIZES])}, {self.function(depth)})",
                lambda: f"pcall(task.wait, {r.choice(['0', '0.05', '1'])})",
                lambda: f"pcall(task.cancel, {self.variable()})",
                lambda: (
                    f"{self.variable()} = select(2, pcall(setmetatable, {{}}, {{{r.choice(METAMETHODS)} = {self.function(depth)}}}))"
                ),
                lambda: f"pcall(table.sort, {{3, 1, 2, {self.expression(1)}}}, {self.function(depth)})",
                lambda: f"pcall(string.gsub, ('a'):rep({r.choice(SMALL)}), '.', {self.function(depth)})",
                lambda: f"pcall(host, {r.choice(CALLS)}, {self.expression(depth)})",
                lambda: f"pcall(error, {self.expression(1)})",
                lambda: f"pcall({self.call(depth)})",
                lambda: f"pcall({self.call(depth)})",
                lambda: f"pcall(loadstring({self.quoted(depth)}) or f)",
                lambda: f"ctx.store.x = {self.expression(1)}",
                lambda: f"f = {self.function(depth)}",
                lambda: f"pcall(f, {self.expression(1)})",
                lambda: f"if {self.expression(1)} then {self.block(depth)} else {self.block(depth)} end",
            ]
        )()

    def quoted(self, depth: int) -> str:
        return "[==[ local ctx, V = ..., {} local f = print " + self.block(min(depth, 2)).replace("==", "~=") + " ]==]"

    def call(self, depth: int) -> str:
        """A function and its arguments, for pcall."""
        r = self.r
        kind = r.random()
        if kind < 0.25:
            name = r.choice(BARE)
        elif kind < 0.4:
            module = r.choice(list(MODULES))
            name = f"require('@antiraid/{module}').{r.choice(MODULES[module])}"
        else:
            library = r.choice(list(LIBRARIES))
            name = f"{library}.{r.choice(LIBRARIES[library])}"
        return ", ".join([name, *(self.expression(depth - 1) for _ in range(r.randint(0, 3)))])

    def expression(self, depth: int) -> str:
        r = self.r
        simple = [
            self.variable,
            self.variable,
            lambda: r.choice(SIZES),
            lambda: r.choice(SMALL),
            lambda: r.choice(
                [
                    "nil",
                    "true",
                    "false",
                    "'a'",
                    "'%s'",
                    "'[a-'",
                    "'x=1'",
                    "V",
                    "f",
                    "ctx",
                    "ctx:event()",
                    "coroutine.running()",
                ]
            ),
        ]
        if depth <= 0:
            return r.choice(simple)()
        return r.choice(
            [
                *simple,
                lambda: f"{{{', '.join(self.expression(depth - 1) for _ in range(r.randint(0, 4)))}}}",
                lambda: f"{{a = {self.expression(depth - 1)}}}",
                lambda: f"select(2, pcall({self.call(depth)}))",
                lambda: f"select(2, pcall(string.rep, '{r.choice('a([%1')}', {r.choice(SIZES)}))",
                lambda: f"select(2, pcall(table.create, {r.choice(SIZES)}, {self.expression(0)}))",
                lambda: f"select(2, pcall(buffer.create, {r.choice(SIZES)}))",
                lambda: (
                    f"(pcall(function() return {self.expression(depth - 1)} {r.choice(['+', '..', '<', '==', '*', '//'])} {self.expression(depth - 1)} end))"
                ),
                lambda: self.function(depth - 1) if depth > 1 else "f",
            ]
        )()
