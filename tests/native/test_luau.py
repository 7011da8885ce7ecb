"""Runs every fact of tests/luau: a script, or a folder with an ``init.luau``, whose handler raises if the fact does not hold.

The entry is one function or has the key ``E``. Host calls go to a small key-value store and a guild.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from pytw.types import Outcome

ROOT = Path(__file__).parent.parent / "luau"
FACTS = sorted([*ROOT.glob("*/*.luau"), *(entry.parent for entry in ROOT.glob("*/*/init.luau"))])
PAYLOAD = b'{"content":"hi","nothing":null,"author":{"id":"7"},"big":12345678901234567890,"list":[1,2,3]}'


def files_of(fact: Path) -> dict[str, str]:
    if fact.is_file():
        return {"init.luau": fact.read_text()}
    return {str(path.relative_to(fact)): path.read_text() for path in fact.rglob("*") if path.is_file()}


def lazy_json(value: Any) -> msgpack.ExtType:
    """What Discord's answers cross as (docs/values.md)."""
    return msgpack.ExtType(8, json.dumps(value).encode())


def read_only(**fields: Any) -> msgpack.ExtType:
    """What records cross as (docs/values.md)."""
    return msgpack.ExtType(12, msgpack.packb(fields))


def http_response(request: dict[str, Any]) -> dict[str, Any]:
    """Sends back what was asked."""
    headers = [*request["headers"], ["X-Timeout", str(request.get("timeout_ms"))], ["X-Method", request["method"]]]
    headers += [["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"]]
    body = request["body"].data if "body" in request else b""
    about = {"url": request["url"], "status": 200, "headers": headers, "content_length": len(body)}
    return {**about, "body": msgpack.ExtType(9, body)}


class Refused(Exception):
    """The host says no."""


class Host:
    """Answers the host calls of the facts."""

    def __init__(self) -> None:
        self.kv: dict[tuple[str, tuple[str, ...]], Any] = {}

    def __call__(self, name: str, args: list[Any]) -> list[Any]:
        match name, args:
            case "kv.set", [key, value, scopes, options]:
                self.kv[key, tuple(scopes)] = value
                return [] if options is None else [options]
            case "kv.set_expiry", [_, first, second]:
                return [first, second]
            case "kv.exists", [key, scopes]:
                return [(key, tuple(scopes)) in self.kv]
            case "kv.keys", [scopes]:
                return [[key for key, s in self.kv if s == tuple(scopes)]]
            case "kv.getbyid" | "kv.getrecordbyid" | "kv.setbyid" | "kv.setexpirybyid" | "kv.deletebyid", _:
                return [name, *args]
            case "kv.get", [key, scopes]:
                found = (key, tuple(scopes)) in self.kv
                return [self.kv.get((key, tuple(scopes))), found]
            case "kv.getrecord", [key, scopes]:
                found = (key, tuple(scopes)) in self.kv
                return [read_only(key=key, scopes=scopes, exists=found, created_at=msgpack.Timestamp(1772172453))]
            case "kv.delete", [key, scopes]:
                self.kv.pop((key, tuple(scopes)), None)
                return []
            case "kv.find", [_, scopes, _]:
                return [[read_only(key=key, value=value) for (key, s), value in self.kv.items() if s == tuple(scopes)]]
            case "discord.create_message", [request]:
                content = request["data"].get("content")
                return [lazy_json({"id": "9", "channel_id": request["channel_id"], "content": content})]
            case "discord.get_guild", []:
                return [lazy_json({"id": "1", "name": "Guild"})]
            case "http.send", [{"url": "https://evil.example/"}]:
                raise Refused("Domain evil.example is not whitelisted")
            case "http.send", [request]:
                return [http_response(request)]
            case "runtime.gettenantstate", []:
                return [{"events": ["E"], "banned": False, "data": {}}]
            case "runtime.settenantstate", [_]:
                return []
        raise AssertionError(f"unexpected host call {name}{args}")


def run_fact(driver: Any, fact: Path) -> Any:
    template = [fact.stem, "init", files_of(fact), ["*"], ["kv:*", "discord:create_message"]]
    driver.engine.set_program(1, msgpack.packb([template]))
    host = Host()

    def reply(number: int, name: str, args: list[Any]) -> None:
        try:
            driver.engine.answer(number, msgpack.packb(host(name, args)))
        except Refused as refusal:
            driver.engine.answer_error(number, str(refusal))

    driver.reply = reply
    driver.engine.submit_event(1, driver._next(), "E", PAYLOAD, "42", True, 5_000)
    return driver.done(driver.last)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact.parent.name}/{fact.stem}")
def test_fact(make, fact):
    done = run_fact(make(), fact)
    assert done.outcome is Outcome.OK, done.error
