"""JSON out: one envelope for every error, and no text of ours where JSON is due.

Error bodies are ``{"message", "code", "hint"?}`` besides what an error adds of its own. Source: spec 1.1.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import msgpack
import orjson
from aiohttp import web

from pytw import values
from pytw.errors import DeadlineExceeded, LimitExceeded, PytwError, RequestError, ScriptError, Unavailable, WorkerLost
from pytw.limits import API_RETRY_AFTER_S

log = logging.getLogger("api")

_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
}


def plain(value: Any) -> Any:
    """What JSON has no type for: the nearest plain value, for people to read."""
    match value:
        case datetime():
            return value.isoformat()
        case msgpack.Timestamp():
            return values.rfc3339(value).removesuffix("Z") + "+00:00"
        case values.RawText():
            return bytes(value).decode(errors="replace")
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case values.Map():
            return [[key, item] for key, item in value.items()]
        case tuple():
            return list(value)
        case _:
            return str(value)


def answer(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response."""
    try:
        data = orjson.dumps(body, default=plain, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise RequestError(f"the answer has no JSON form: {error}") from None
    return web.Response(body=data, status=status, headers=headers, content_type="application/json")


def failure(status: int, code: str, message: str, hint: str | None = None, **more: Any) -> web.Response:
    body = {"message": message, "code": code, **({"hint": hint} if hint else {}), **more}
    headers = {"Retry-After": str(API_RETRY_AFTER_S)} if status == 503 else None
    return answer(body, status=status, headers=headers)


def status_of(error: PytwError) -> int:
    """The HTTP status that says who should act."""
    match error:
        case RequestError():
            return error.http
        case ScriptError():
            return 422
        case LimitExceeded():
            return 413 if error.limit == "size" else 422
        case WorkerLost():
            return 502
        case DeadlineExceeded():
            return 504
        case Unavailable():
            return 503
        case _:
            return 500


@web.middleware
async def envelope(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns whatever a handler raises into the envelope."""
    try:
        return await handler(request)
    except PytwError as error:
        status = status_of(error)
        if status == 500:
            log.error("%s %s: %s", request.method, request.path, error, exc_info=error)
        return failure(status, error.code, error.detail, error.hint)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        response = failure(error.status, _CODES.get(error.status, "bad_request"), error.reason)
        response.headers.update(headers)
        return response
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        return failure(500, "internal", f"a bug of ours: {type(error).__name__}; the log has the rest")
