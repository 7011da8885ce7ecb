"""Health, readiness and metrics are open and say what they were told."""

from __future__ import annotations

from pytw import luau
from tests.api.conftest import Api


async def test_healthz_names_each_part_and_the_engine(api: Api) -> None:
    status, body = await api.call("GET", "/healthz", tcp=True)
    assert (status, body["engine"], body["rights"]) == (200, luau.ENGINE_VERSION, {"seccomp": True})
    assert (body["ready"], body["parts"]) == (True, {"database": True, "workers": True})
    api.health.parts["database"] = False
    status, body = await api.call("GET", "/healthz", tcp=True)
    assert (status, body["ready"]) == (200, False)


async def test_readyz_is_200_only_when_everything_is_ready(api: Api) -> None:
    known = {"parts": api.health.parts, "database": {"state": "closed"}}
    assert await api.call("GET", "/readyz", tcp=True) == (200, {"ready": True, **known})
    api.health.parts["workers"] = False
    assert await api.call("GET", "/readyz", tcp=True) == (503, {"ready": False, **known})


async def test_metrics_are_prometheus_text(api: Api) -> None:
    async with api.tcp.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    assert text == "# HELP tw_x A number.\n# TYPE tw_x gauge\ntw_x 1.0\n"


async def test_the_references_healthcheck(api: Api) -> None:
    for method in ("GET", "POST"):
        assert await api.call(method, "/healthcheck", tcp=True) == (200, None)
