"""The OpenAPI 3.1 document, made from the table of routes and the schemas beside this file. Pure."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from router.control.openapi_schemas import HEADERS, PARAMETERS, SCHEMAS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Body:
    """One answer."""

    schema: str | None = None
    """A name in `SCHEMAS`; None = no JSON."""
    media: str | None = None
    """The media type where it is not JSON."""
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One address and method. What the handler's docstring says becomes the summary."""

    method: str
    path: str
    handler: Handler
    answers: Mapping[int, Body]
    body: str | None = None
    """A name in `SCHEMAS`, or a media type for a body that is a file."""
    optional: bool = False
    """Whether the body may be left out."""
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = field(default=())


_WORDS = {200: "Done", 201: "Created", 202: "Accepted: follow the operation", 404: "There is none"}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate control plane",
            "version": "1",
            "description": "Online endpoints, their deployments, and what they are doing. See docs/rest-api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = [*re.findall(r"{(\w+)}", route.path), *route.query, *route.headers]
    answers = {str(status): _answer(status, body) for status, body in route.answers.items()}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__.strip("_"),
        "summary": (route.handler.__doc__ or "").strip(),
        "parameters": [PARAMETERS[name] for name in names],
        "responses": {**answers, "default": {"description": "Refused or failed", "content": _json("Error")}},
    }
    if route.body is not None:
        content = {route.body: {}} if "/" in route.body else _json(route.body)
        operation["requestBody"] = {"required": not route.optional, "content": content}
    return operation


def _answer(status: int, body: Body) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _WORDS[status]}
    if body.schema is not None:
        answer["content"] = _json(body.schema)
    elif body.media is not None:
        answer["content"] = {body.media: {"schema": {"type": "string"}}}
    if body.headers:
        answer["headers"] = {name: HEADERS[name] for name in body.headers}
    return answer


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
