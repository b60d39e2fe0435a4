"""The shapes of answers that several routes share: entity tags and the addresses of operations."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from router.control.content import Standing
from router.control.operations import Operation
from router.control.preconditions import Precondition, precondition_of


def tagged(standing: Standing) -> dict[str, str]:
    """The `ETag` header of an endpoint or of one of its deployments."""
    return {"ETag": f'"{standing.revision}"'}


def following(request: web.Request, operation: Operation) -> dict[str, str]:
    """Where the caller finds the operation, and how often to look."""
    address = f"{request.scheme}://{request.host}/v1/operations/{operation.id}"
    return {"Azure-AsyncOperation": address, "Retry-After": "1"}


def precondition(request: web.Request) -> Precondition:
    """What the request says about the state it changes; raises `InvalidSpec`."""
    return precondition_of(request.headers.get("If-Match"), request.headers.get("If-None-Match"))


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`body` as JSON."""
    return web.json_response(body, status=status, headers=headers)
