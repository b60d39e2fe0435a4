"""What the autoscaler's site answers to each request, by path. No sockets here."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from autoscaler.backends.base import Backend
from autoscaler.control.requests import Request
from router.contract.codec import Malformed, UnknownSchema
from router.contract.errors import Unavailable
from router.contract.handover import PATH, Handed, decode_handed, encode_passed, encode_told
from router.runtime.exposition import CONTENT_TYPE

_LOG = logging.getLogger(__name__)

DEFAULT_LINES = 500
MOST_LINES = 10_000

BackendOf = Callable[[str, str], Backend | None]
"""(endpoint, deployment) → the backend it runs on, None when there is no such deployment."""
Take = Callable[[Sequence[Handed]], Sequence[tuple[str, bytes]]]
"""Takes demand, and returns (endpoint, `encode_replicas`) of what the reporters do not route by yet. Raises
`Unavailable` when the same should be handed again later."""
Passed = Callable[[int], tuple[int, Sequence[Handed]]]
"""Place → what was handed over from there on, and the place to ask for next."""
Metrics = Callable[[], Awaitable[str]]
"""Makes the text for Prometheus."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with a body: JSON, text, or bytes as they are."""

    status: HTTPStatus
    body: Mapping[str, Any] | str | bytes

    def encode(self, *, stays: bool = False) -> bytes:
        """As HTTP; the connection ends behind it unless it `stays`."""
        match self.body:
            case bytes():
                kind, content = "application/octet-stream", self.body
            case str():
                kind, content = CONTENT_TYPE, self.body.encode()
            case _:
                kind, content = "application/json", json.dumps(self.body).encode()
        more = "WWW-Authenticate: Bearer\r\n" if self.status is HTTPStatus.UNAUTHORIZED else ""
        end = "\r\n" if stays else "Connection: close\r\n\r\n"
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(content)}\r\n{more}{end}"
        )
        return head.encode() + content


def failure(status: HTTPStatus, code: str, message: str) -> Answer:
    """An error as JSON."""
    return Answer(status, {"error": {"code": code, "message": message}})


class Answers:
    """The routes."""

    def __init__(
        self,
        backend_of: BackendOf,
        take: Take | None = None,
        metrics: Metrics | None = None,
        passed: Passed | None = None,
        *,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Without `take`, `metrics` or `passed` there is no such route. `ready`: whether the autoscaler does its work."""
        self._ready = ready
        self._backend_of = backend_of
        self._passed = passed
        self._take = take
        self._metrics = metrics

    async def to(self, request: Request, *, known: bool) -> Answer:
        """The answer to `request`, whose surprises are its alone. `known`: whoever sent it has proved who they are."""
        try:
            return await self._to(request, known)
        except Unavailable as error:
            return failure(HTTPStatus.SERVICE_UNAVAILABLE, error.code, error.message)
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.target)
            return failure(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "see the autoscaler's output")

    async def _to(self, request: Request, known: bool) -> Answer:
        try:
            url = urlsplit(request.target)
        except ValueError:
            return failure(HTTPStatus.BAD_REQUEST, "BadArgument", "the address cannot be read")
        there = [method for method, path in self._routes(known) if path == url.path]
        if not there:
            return failure(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"there is nothing at {url.path}")
        if request.method not in there:
            message = f"{url.path} takes {' and '.join(there)} alone"
            return failure(HTTPStatus.METHOD_NOT_ALLOWED, "BadArgument", message)
        return await self._found(request, url)

    def _routes(self, known: bool) -> Iterator[tuple[str, str]]:
        """(method, path) of all that there is for one who has proved who they are (`known`), or for anybody."""
        yield "GET", "/healthz"
        yield "GET", "/readyz"
        if known:
            yield "GET", "/logs"
        if self._metrics is not None:
            yield "GET", "/metrics"
        if self._take is not None:
            yield "POST", PATH
        if self._passed is not None and known:
            yield "GET", PATH

    async def _found(self, request: Request, url: SplitResult) -> Answer:
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if url.path == "/healthz":
            return Answer(HTTPStatus.OK, {"status": "ok"})
        if url.path == "/readyz":
            if self._ready():
                return Answer(HTTPStatus.OK, {"status": "ok"})
            message = "the autoscaler has not read the log yet, or has no share of the endpoints"
            return failure(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
        if url.path == "/logs":
            return await self._logs(query)
        if url.path == "/metrics":
            assert self._metrics is not None
            return Answer(HTTPStatus.OK, await self._metrics())
        return self._demand(request) if request.method == "POST" else self._handed(query.get("after", ""))

    def _handed(self, after: str) -> Answer:
        assert self._passed is not None
        if not (after.isascii() and after.isdecimal() and len(after) < 20):
            return failure(HTTPStatus.BAD_REQUEST, "BadArgument", "after is the place that the last answer named, or 0")
        return Answer(HTTPStatus.OK, encode_passed(*self._passed(int(after))))

    def _demand(self, request: Request) -> Answer:
        assert self._take is not None
        if request.body is None:
            return failure(HTTPStatus.LENGTH_REQUIRED, "BadArgument", "say the length of the body in Content-Length")
        try:
            messages = decode_handed(request.body)
        except (Malformed, UnknownSchema) as error:
            return failure(HTTPStatus.BAD_REQUEST, "BadArgument", f"the body makes no sense: {error}")
        return Answer(HTTPStatus.OK, encode_told(self._take(messages)))

    async def _logs(self, query: Mapping[str, str]) -> Answer:
        endpoint, deployment = query.get("endpoint", ""), query.get("deployment", "")
        text = query.get("lines", str(DEFAULT_LINES))
        if not text.isdecimal() or not 0 < int(text) <= MOST_LINES:
            message = f"lines must be a number from 1 to {MOST_LINES}, not '{text}'"
            return failure(HTTPStatus.BAD_REQUEST, "BadArgument", message)
        backend = self._backend_of(endpoint, deployment.lower())
        if backend is None:
            message = f"there is no deployment '{deployment}' of endpoint '{endpoint}'"
            return failure(HTTPStatus.NOT_FOUND, "ResourceNotFound", message)
        return Answer(HTTPStatus.OK, {"content": await backend.logs(endpoint, deployment.lower(), int(text))})
