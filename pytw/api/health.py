"""How the server is: ``/healthz`` (alive, and each part), ``/readyz`` (200 when requests should come), ``/metrics``."""

from __future__ import annotations

import asyncio

from aiohttp import web

from pytw import luau
from pytw.api.answers import answer
from pytw.api.context import CONTEXT

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def routes() -> list[web.RouteDef]:
    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
        # The reference's, which says nothing: for its monitors.
        web.get("/healthcheck", healthcheck),
        web.post("/healthcheck", healthcheck),
    ]


async def healthz(request: web.Request) -> web.Response:
    health = request.app[CONTEXT].health
    ready, parts = await health.ready()
    return answer({"engine": luau.ENGINE_VERSION, **health.health(), "ready": ready, "parts": parts})


async def readyz(request: web.Request) -> web.Response:
    health = request.app[CONTEXT].health
    ready, parts = await health.ready()
    return answer({"ready": ready, "parts": parts, "database": health.database()}, status=200 if ready else 503)


async def metrics(request: web.Request) -> web.Response:
    text = await asyncio.to_thread(request.app[CONTEXT].health.metrics())
    return web.Response(body=text.encode(), headers={"Content-Type": EXPOSITION})


async def healthcheck(_request: web.Request) -> web.Response:
    return answer(None)
