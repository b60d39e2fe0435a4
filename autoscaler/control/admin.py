"""HTTP on a Unix socket of the data folder: `GET /logs` of a deployment, `GET /healthz`. For the control plane.

One request per connection. No HTTP framework: nothing serves before the autoscaler has started, and importing one would
take as long as all the rest of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from autoscaler.backends.base import Backend

_LOG = logging.getLogger(__name__)

DEFAULT_LINES = 500
MOST_LINES = 10_000
HEAD_BYTES = 1 << 15
"""Longest request line with its headers."""
EXCHANGE_SECONDS = 30.0
"""From a connection to its end."""
SHUTDOWN_SECONDS = 1.0
"""Longest wait at the end for the requests under way."""

BackendOf = Callable[[str, str], Backend | None]
"""(endpoint, deployment) → the backend it runs on, None when there is no such deployment."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with a JSON body."""

    status: HTTPStatus
    body: Mapping[str, Any]

    def encode(self) -> bytes:
        """As HTTP; the connection ends behind it."""
        content = json.dumps(self.body).encode()
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + content


class _Site:
    """The routes and the connections under way."""

    def __init__(self, backend_of: BackendOf) -> None:
        self._backend_of = backend_of
        self._under_way: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a new connection."""
        task = asyncio.create_task(self._exchange(reader, writer), name="admin request")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def end(self) -> None:
        """Let what is under way finish for a moment, then cancel it."""
        tasks = set(self._under_way)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):  # the client is gone or stuck
                async with asyncio.timeout(EXCHANGE_SECONDS):
                    heard = await self._heard(reader)
                    answer = heard if isinstance(heard, Answer) else await self._guarded(*heard)
                    writer.write(answer.encode())
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _guarded(self, method: str, target: str) -> Answer:
        """`_answer`, whose surprises are this request's alone."""
        try:
            return await self._answer(method, target)
        except Exception:
            _LOG.exception("%s %s failed", method, target)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "see the autoscaler's output")

    async def _heard(self, reader: asyncio.StreamReader) -> tuple[str, str] | Answer:
        """(method, target) of the request, or the answer to what is none."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "BadArgument", "the request's head is too long")
        match head.partition(b"\r\n")[0].decode("latin-1").split(" "):
            case [method, target, version] if version.startswith("HTTP/1."):
                return method, target
        return _error(HTTPStatus.BAD_REQUEST, "BadArgument", "this is not a request of HTTP/1.1")

    async def _answer(self, method: str, target: str) -> Answer:
        try:
            url = urlsplit(target)
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "BadArgument", "the address cannot be read")
        if url.path not in ("/logs", "/healthz"):
            return _error(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"there is nothing at {url.path}")
        if method != "GET":
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "BadArgument", f"{url.path} can only be read")
        if url.path == "/healthz":
            return Answer(HTTPStatus.OK, {"status": "ok"})
        return await self._logs(dict(parse_qsl(url.query, keep_blank_values=True)))

    async def _logs(self, query: Mapping[str, str]) -> Answer:
        endpoint, deployment = query.get("endpoint", ""), query.get("deployment", "")
        text = query.get("lines", str(DEFAULT_LINES))
        if not text.isdecimal() or not 0 < int(text) <= MOST_LINES:
            message = f"lines must be a number from 1 to {MOST_LINES}, not '{text}'"
            return _error(HTTPStatus.BAD_REQUEST, "BadArgument", message)
        backend = self._backend_of(endpoint, deployment.lower())
        if backend is None:
            message = f"there is no deployment '{deployment}' of endpoint '{endpoint}'"
            return _error(HTTPStatus.NOT_FOUND, "ResourceNotFound", message)
        return Answer(HTTPStatus.OK, {"content": await backend.logs(endpoint, deployment.lower(), int(text))})


@contextlib.asynccontextmanager
async def admin_site(socket: Path, backend_of: BackendOf) -> AsyncIterator[None]:
    """Serve the routes on `socket`, owner only, while inside. A socket left behind by a dead process is replaced."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)  # the data folder is owned already, so nobody alive listens there
    site = _Site(backend_of)
    server = await asyncio.start_unix_server(site.accept, str(socket), limit=HEAD_BYTES)
    try:
        os.chmod(socket, 0o600)
        yield
    finally:
        server.close()
        await site.end()
        socket.unlink(missing_ok=True)


def _error(status: HTTPStatus, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})
