"""Routes of versions and of the shop: who may ask, and what is no question. Their work is in tests/worker/test_deployments.py."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api

TEMPLATE = "/guilds/5/templates/t"
ROUTES = [
    ("GET", f"{TEMPLATE}/versions"),
    ("GET", f"{TEMPLATE}/versions/1"),
    ("POST", f"{TEMPLATE}/deploy"),
    ("POST", f"{TEMPLATE}/rollback"),
    ("POST", f"{TEMPLATE}/undelete"),
    ("GET", "/i/shop"),
    ("GET", "/i/shop/greet/1"),
    ("PUT", "/i/shop/greet/1"),
    ("PUT", "/i/shop/greet/1/review"),
    ("PUT", "/i/shop/greet/1/withdraw"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_root_users_may_ask(api: Api, method: str, path: str) -> None:
    assert (await api.call(method, path, {}, tcp=True))[0] == 401
    assert (await api.call(method, path, {}, tcp=True, headers={"Authorization": "user-token"}))[0] == 403
    # Root gets further: to a store that this server does not have.
    assert (await api.call(method, path, {}, tcp=True, headers={"Authorization": "root-token"}))[0] in (400, 404, 503)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{TEMPLATE}/versions?limit=0", None),
        ("GET", f"{TEMPLATE}/versions?limit=501", None),
        ("GET", f"{TEMPLATE}/versions?before=x", None),
        ("GET", f"{TEMPLATE}/versions/0", None),
        ("GET", f"{TEMPLATE}/versions/1.5", None),
        ("GET", f"{TEMPLATE}/versions/" + "9" * 30, None),
        ("POST", f"{TEMPLATE}/deploy", {}),
        ("POST", f"{TEMPLATE}/deploy", {"version": 0}),
        ("POST", f"{TEMPLATE}/deploy", {"version": "1"}),
        ("POST", f"{TEMPLATE}/deploy", {"version": 1 << 63}),
        ("POST", f"{TEMPLATE}/rollback", {"to": 1}),
        ("GET", "/guilds/x/templates/t/versions", None),
        ("GET", "/guilds/5/templates/$builtins/versions", None),
    ],
)
async def test_bad_questions_are_the_callers_fault(api: Api, method: str, path: str, body: Any) -> None:
    status, answer = await api.call(method, path, body)
    assert (status, answer["code"]) == (400, "bad_request")
