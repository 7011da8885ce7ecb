"""native/types says what is registered, neither more nor less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.test_docs import luau_api

TYPES = Path(__file__).parent.parent.parent / "native" / "types"
MEMBER = re.compile(r"(?:read |function )?(\w+)")

#: An expression of each type, in a handler's scope.
OBJECTS = {
    "TemplateContext": "ctx",
    "KvExecutor": "ctx.KV",
    "GlobalKvExecutor": "ctx.GlobalKV",
    "Bucket": "ctx.ObjectStorage",
    "DiscordActionExecutor": "ctx.Discord",
    "RuntimeExecutor": "ctx.Runtime",
    "Lazy": "typesext.newlazystringmap({})",
    "Vfs": "typesext.Vfs.newoverlay({})",
    "I64": "typesext.I64()",
    "U64": "typesext.U64()",
    "Blob": "datamgmt.newblob('')",
    "TarArchive": "datamgmt.TarArchive()",
    "OneshotChannel": "channel.OneshotChannel()",
    "DelayChannel": "channel.DelayChannel()",
    "KeyHandle": "channel.DelayChannel():add(1, datetime.timedelta_hours(1))",
    "DateTime": "datetime.UTC:now()",
    "TimeDelta": "datetime.timedelta_hours(1)",
    "Timezone": "datetime.UTC",
    "Url": "ctx.HTTPClient.new_url('http://example.com')",
    "Headers": "ctx.HTTPClient.new_headers()",
    "Request": "ctx.HTTPClient.new_request('GET', 'http://example.com')",
}
TABLES = {
    "Channel": "channel",
    "DataManagement": "datamgmt",
    "DateTimeLibrary": "datetime",
    "Interop": "interop",
    "Json": "json",
    "Luau": "luau",
    "TypesExt": "typesext",
    "Bitu64": "typesext.bitu64",
    "HTTPClient": "ctx.HTTPClient",
    "ImageCaptcha": "ctx.ImageCaptcha",
    "task": "task",
}
#: Types that only the host makes, and those whose members are in a Luau source.
NOT_LISTED = {"Response", "Opaque", "Chunk"}
LIBRARIES = ("channel", "datamgmt", "datetime", "interop", "json", "luau", "typesext")


def declared() -> dict[str, set[str]]:
    """The members of every class and table type of native/types."""
    found: dict[str, set[str]] = {}
    for path in sorted(TYPES.glob("*.d.luau")):
        _, entries = luau_api.read(path.read_text())
        name = ""
        for depth, code, _ in entries:
            if depth == 0:
                opened = luau_api._OPENS.match(code)
                name = opened[2] if opened else ""
            elif depth == 1 and not code.startswith("function __") and (member := MEMBER.match(code)):
                found.setdefault(name, set()).add(member[1])
    return found


@pytest.fixture(scope="module")
def registered() -> dict[str, set[str]]:
    from tests.native.conftest import Driver

    requires = "".join(f'local {name} = require("@antiraid/{name}")\n' for name in LIBRARIES)
    lines = [f"out.{name} = members({made})" for name, made in OBJECTS.items()]
    lines += [f"out.{name} = keys({made})" for name, made in TABLES.items()]
    source = f"""{requires}
    local function keys(t) local all = {{}} for key in t do table.insert(all, key) end return all end
    return function(ctx)
        local out = {{}}
        {chr(10).join(lines)}
        return out
    end"""
    driver = Driver()
    try:
        driver.engine.set_program(1, msgpack.packb([["t", "init", {"init.luau": source}, ["*"], ["*"]]]))
        done = driver.done(driver.event())
        value: dict[str, Any] = done.value
        assert isinstance(value, dict), done.error
        return {name: set(members) for name, members in value.items()}
    finally:
        driver.engine.close()


@pytest.mark.parametrize("name", sorted(OBJECTS | TABLES))
def test_a_type_says_what_is_registered(registered, name):
    assert declared().get(name, set()) == registered[name]


def test_every_class_is_looked_at():
    classes = {name for path in TYPES.glob("*.d.luau") for name in re.findall(r"declare class (\w+)", path.read_text())}
    assert classes == set(OBJECTS) | NOT_LISTED


def test_a_library_is_a_file():
    from pytw import _native  # noqa: F401  the libraries are the engine's; a new one needs its file

    assert {path.name.removesuffix(".d.luau") for path in TYPES.glob("*.d.luau")} >= set(LIBRARIES)
