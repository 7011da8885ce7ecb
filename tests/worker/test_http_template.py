"""`ctx.HTTPClient` as a template sees it: a real worker, a real VM and a real web server."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from pytw.limits import HTTP_BODY_BYTES_MAX
from pytw.types import Outcome
from pytw.worker.thread import WorkerThread
from pytw.worker.worker import Worker

from .fakes import MemoryDb, MemoryDiscord, template
from .httprig import Internet
from .workerlike_contract import A, event, spec

PRELUDE = """
local datamgmt, datetime, interop = require("@antiraid/datamgmt"), require("@antiraid/datetime"), require("@antiraid/interop")
local function request(path, method)
    return http.new_request(method or "GET", "http://good.test" .. path)
end
local function told(f, ...)
    local ok, err = pcall(f, ...)
    return if ok then "it did not fail" else tostring(err)
end
"""


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "body": body.decode("latin-1"),
            "version": f"{request.version.major}.{request.version.minor}",
            "none": None,
            "empty": [],
        },
        status=202,
    )


async def text(_request: web.Request) -> web.Response:
    return web.Response(text="h\u00e9llo", headers=[("X-Twice", "a"), ("X-Twice", "b"), ("X-Raw", "\u00e9")])


async def packed(_request: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(b'{"list": [1, 2]}'), headers={"Content-Encoding": "gzip"})


async def bytes_of(request: web.Request) -> web.Response:
    return web.Response(body=b"\x00\xff" * (int(request.query["n"]) // 2))


async def elsewhere(_request: web.Request) -> web.Response:
    raise web.HTTPFound("http://good.test/text")


async def never(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


class World:
    """A worker whose templates find the test's web server behind the domain good.test."""

    def __init__(self) -> None:
        self.internet = Internet()
        self.db = MemoryDb()
        self.worker = WorkerThread(Worker(spec(), self.db, MemoryDiscord(), http=self.internet.http))
        app = web.Application()
        app.router.add_route("*", "/echo", echo)
        app.router.add_get("/text", text)
        app.router.add_get("/packed", packed)
        app.router.add_get("/bytes", bytes_of)
        app.router.add_get("/elsewhere", elsewhere)
        app.router.add_get("/never", never)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    async def open(self) -> None:
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.internet.port = self.runner.addresses[0][1]
        await self.worker.start()

    async def close(self) -> None:
        await self.worker.kill()
        await self.runner.cleanup()

    async def run(self, body: str, caps: tuple[str, ...] = ("*",)) -> Any:
        source = f"local http {PRELUDE} return {{ E = function(ctx)\nhttp = ctx.HTTPClient\n{body}\nend }}"
        self.db.put(A, template("t", source, "E", caps=caps))
        await self.worker.refresh_tenant(A)
        result = await self.worker.dispatch_event(A, event())
        assert result.outcome is Outcome.OK, result.templates
        return result.templates[0].value


@pytest.fixture
async def world() -> AsyncIterator[World]:
    found = World()
    await found.open()
    yield found
    await found.close()


async def test_request_arrives_as_it_was_set_and_consumes_its_body(world: World) -> None:
    body = """
    local r = request("/echo?a=%20b", "post")
    local headers = http.new_headers()
    headers:set("X-One", 1)
    headers:set("Content-Type", "application/json")
    r.headers = headers
    r.body_bytes = { list = { 1, 2 }, empty = {}, none = interop.null, at = vector.create(1, 2.5, -3) }
    r.version = "HTTP/1.0"
    r.timeout = datetime.timedelta_seconds(2)
    local response = r:send()
    assert(r.body_bytes == nil and response.status == 202 and response.url.path == "/echo")
    local told = response:json()
    assert(told.none == nil and getmetatable(told.empty) == false, "set A")
    assert(told.headers["x-one"] == "1" and told.headers["content-type"] == "application/json")
    assert(string.find(told.headers["user-agent"], "^pytw/"))
    return { told.method, told.path, told.body, told.version }
    """
    sent = '{"at":[1.0,2.5,-3.0],"empty":{},"list":[1,2],"none":null}'
    assert await world.run(body) == ["POST", "/echo?a=%20b", sent, "1.0"]


@pytest.mark.parametrize(
    ("body", "arrived"),
    [('"t\\u{e9}xt"', "t\u00e9xt"), ('buffer.fromstring("\\0\\255")', "\0\u00ff"), ('datamgmt.newblob("b")', "b")],
)
async def test_bodies_of_each_kind(world: World, body: str, arrived: str) -> None:
    source = f'local r = request("/echo", "PUT") r.body_bytes = {body} return r:send():json().body'
    got = await world.run(source)
    assert got.encode("latin-1") == arrived.encode("utf-8" if body.startswith('"') else "latin-1")


async def test_content_is_taken_once_in_each_form(world: World) -> None:
    body = """
    local text = request("/text"):send()
    local known = text.headers
    assert(typeof(known) == "Headers" and text.content_length == 6 and text.status == 200)
    assert(known:get("X-Twice") == "a" and buffer.tostring(known:headers_bytes()["x-twice"]) == "a, b")
    local raw = told(known.get, known, "x-raw")
    assert(string.find(raw, "not ASCII", 1, true), raw)
    assert(text:text() == "h\\u{e9}llo")
    for _, again in { "text", "json", "blob" } do
        assert(told(text[again], text) == "Response has been exhausted", again)
    end
    local json = request("/packed"):send()
    assert(json.content_length == nil and json:json().list[2] == 2)
    assert(told(json.blob, json) == "Response has been exhausted")
    local blob = request("/bytes?n=6"):send():blob()
    local size = #blob
    return { size, buffer.readu8(blob:tobuffer(), 1), told(blob.tobuffer, blob) }
    """
    assert await world.run(body) == [6, 255, "userdata has been destructed"]


async def test_redirect_is_an_answer_like_others(world: World) -> None:
    body = """
    local response = request("/elsewhere"):send()
    return { response.status, response.headers:get("location"), response.url.path, (request("/nothing"):send()).status }
    """
    assert await world.run(body) == [302, "http://good.test/text", "/elsewhere", 404]


async def test_largest_body_is_of_use_and_a_larger_one_is_refused(world: World) -> None:
    most = HTTP_BODY_BYTES_MAX
    body = f"""
    local blob = request("/bytes?n={most}"):send():blob()
    assert(buffer.len(blob:tobuffer()) == {most})
    return told(function() return request("/bytes?n={most + 2}"):send() end)
    """
    assert await world.run(body) == f"Response body size exceeds the limit ({most:,} bytes)"


async def test_time_that_was_set_ends_the_wait(world: World) -> None:
    body = """
    local r = request("/never")
    r.timeout = datetime.timedelta_millis(100)
    return told(r.send, r)
    """
    assert await world.run(body) == "the request did not end within 0.1 s"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://evil.test/", "Domain evil.test is not whitelisted"),
        ("http://not-good.test/", "Domain not-good.test is not whitelisted"),
        ("http://localhost/", "localhost resolution is not allowed"),
        ("http://127.0.0.1/", "Domain 127.0.0.1 is not whitelisted"),
        ("http://10.0.0.1/", "localhost resolution is not allowed"),
        ("http://inside.good.test/", "localhost resolution is not allowed"),
        ("http://good.test:8080/", "a URL with a port cannot be requested"),
        ("ftp://good.test/", "only http:// and https:// URLs can be requested"),
        (
            "http://me:pw@good.test/",
            "a URL with a user name or password cannot be requested: use the Authorization header",
        ),
    ],
)
async def test_where_a_request_may_not_go_is_told(world: World, url: str, told: str) -> None:
    world.internet.answers["inside.good.test"] = [["10.0.0.1"]]
    assert await world.run(f'return told(function() return http.new_request("GET", "{url}"):send() end)') == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('r.method = "TRACE"', "method must be one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ('headers:set("Host", "evil")', "the header host cannot be set: it belongs to the connection"),
        ('headers:set("X", "\\255")', "the header x must be text in UTF-8"),
    ],
)
async def test_what_a_request_may_not_say_is_told(world: World, change: str, told: str) -> None:
    body = (
        f'local r, headers = request("/echo"), http.new_headers() {change} r.headers = headers return told(r.send, r)'
    )
    assert await world.run(body) == told


async def test_no_capability_is_needed_and_the_rate_counts_what_is_refused_too(world: World) -> None:
    body = """
    local seen = {}
    for _, url in { "http://good.test/text", "http://evil.test/", "http://good.test/text", "http://good.test/text" } do
        table.insert(seen, (string.gsub(told(function() return http.new_request("GET", url):send() end), "[%d.]+m?s", "N")))
    end
    return seen
    """
    assert await world.run(body, caps=()) == [
        "it did not fail",
        "Domain evil.test is not whitelisted",
        "it did not fail",
        "Global ratelimit hit for bucket 'send', wait time: N",
    ]
