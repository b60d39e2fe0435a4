"""What every request passes: one log line without secrets, every failure as JSON, and no request from another site.

A browser that is on some other page can send requests to a loopback address, so a request that says it comes from
elsewhere (`Origin`, `Sec-Fetch-Site`) is refused, and a body must be declared as JSON, which a plain form cannot do.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from router.contract.errors import InvalidSpec, Problem, TidegateError
from router.control.assets import AssetTooLarge

_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY_BYTES = 1 << 20
"""Largest JSON body; files travel as assets."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Refused(TidegateError):
    """The request was refused before its handler saw it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def failure(error: TidegateError, headers: dict[str, str] | None = None) -> web.Response:
    """The JSON answer for `error`."""
    more = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status, {})
    return web.json_response(error.to_json(), status=error.status, headers={**(headers or {}), **more}, dumps=_dumps)


def _dumps(body: Any) -> str:
    return json.dumps(body, default=str)


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line per request: method, path, status, time. Neither headers, query nor bodies."""
    start = time.perf_counter()
    response = await handler(request)
    elapsed_ms = (time.perf_counter() - start) * 1000
    quiet = request.method in ("GET", "HEAD") and response.status < 400
    level = logging.DEBUG if quiet else logging.INFO
    _log.log(level, "%s %s %d %.1f ms", request.method, request.path, response.status, elapsed_ms)
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as `{"error": {"code", "message"}}`; what nobody expected is logged and says nothing else."""
    try:
        return await handler(request)
    except TidegateError as error:
        return failure(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return failure(
            _translated(request, error), {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        )
    except (ConnectionResetError, web.RequestPayloadError):
        return failure(Refused(400, "BadArgument", "the request broke off"))
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return failure(TidegateError("the control plane failed on this request; its log says why"))


def _translated(request: web.Request, error: web.HTTPException) -> TidegateError:
    if error.status == 404:
        return Refused(
            404, "ResourceNotFound", f"there is nothing at {request.path}; /openapi.json lists every address"
        )
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return Refused(405, "MethodNotAllowed", f"{request.method} is not possible at {request.path}; use {allowed}")
    if error.status == 413:
        return AssetTooLarge(f"a JSON body may have {MAX_BODY_BYTES} bytes at most")
    return Refused(error.status, "BadArgument" if error.status < 500 else "InternalServerError", error.reason)


@web.middleware
async def same_site(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a browser sends on behalf of another site."""
    origin = request.headers.get("Origin")
    if origin is not None and not _own(origin, request.headers.get("Host", ""), request):
        raise Refused(
            403, "CrossSite", f"requests from {origin} are refused: a browser may only act for the console itself"
        )
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Refused(403, "CrossSite", "requests that another site makes a browser send are refused")
    return await handler(request)


def _own(origin: str, host: str, request: web.Request) -> bool:
    """Whether `origin` is the address that this server was called by, and no foreign name that leads to loopback."""
    try:
        parts = urlsplit(origin)
        called = urlsplit(f"//{host}")
        same = parts.scheme == request.scheme and (parts.hostname, parts.port) == (called.hostname, called.port)
    except ValueError:
        return False
    local = None if request.transport is None else request.transport.get_extra_info("sockname")
    on_loopback = local is not None and local[0] in LOOPBACK
    return same and (not on_loopback or parts.hostname in LOOPBACK)


@web.middleware
async def json_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """415 for a body that is not declared as JSON; assets are files and say so by their address."""
    if request.can_read_body and not request.path.startswith("/v1/assets/"):
        if request.content_type != "application/json":
            found = request.headers.get("Content-Type", "nothing")
            raise Refused(415, "UnsupportedMediaType", f"send Content-Type: application/json; it is {found}")
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise AssetTooLarge(f"a JSON body may have {MAX_BODY_BYTES} bytes at most")
    return await handler(request)


async def json_body(request: web.Request, *, required: bool) -> dict[str, Any]:
    """The request's JSON object; `{}` when there is none and none is required. Raises `InvalidSpec`."""
    text = await request.read()
    if not text and not required:
        return {}
    try:
        body = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidSpec([Problem("body", "too deeply nested")]) from None
    except ValueError as error:
        raise InvalidSpec([Problem("body", f"must be a JSON object: {error}")]) from error
    if not isinstance(body, dict):
        raise InvalidSpec([Problem("body", "must be a JSON object", type(body).__name__)])
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
