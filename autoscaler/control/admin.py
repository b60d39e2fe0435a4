"""HTTP of the autoscaler: what the control plane asks of it, and demand that comes past the log.

On a Unix socket of the data folder, owner only: `GET /logs` of a deployment, `GET /healthz`, `POST /v1/demand`. On TCP,
where it is wanted, the same without the logs. No HTTP framework: nothing serves before the autoscaler has started, and
importing one would take as long as all the rest of that. Connections stay open behind demand, and end behind
everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from autoscaler.backends.base import Backend
from autoscaler.control.requests import HEAD_BYTES, Refused, Request, read_request
from router.contract.codec import Malformed, UnknownSchema
from router.contract.errors import Unavailable
from router.contract.handover import PATH, REQUEST_BYTES, Handed, decode_handed, encode_told

_LOG = logging.getLogger(__name__)

DEFAULT_LINES = 500
MOST_LINES = 10_000
EXCHANGE_SECONDS = 30.0
"""For one request and its answer, the wait for the request included."""
SHUTDOWN_SECONDS = 1.0
"""Longest wait at the end for the requests under way."""
LINGER_SECONDS = 1.0
"""How long the rest of a refused request is read, so that its sender sees the answer and not a reset."""
MOST_CONNECTIONS = 2048
"""At once; a gateway worker and a mirror hold one each. Further ones are closed unanswered."""

BackendOf = Callable[[str, str], Backend | None]
"""(endpoint, deployment) → the backend it runs on, None when there is no such deployment."""
Take = Callable[[Sequence[Handed]], Sequence[tuple[str, bytes]]]
"""Takes demand, and returns (endpoint, `encode_replicas`) of what the reporters do not route by yet. Raises
`Unavailable` when the same should be handed again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with a body: JSON, or bytes as they are."""

    status: HTTPStatus
    body: Mapping[str, Any] | bytes

    def encode(self, *, stays: bool = False) -> bytes:
        """As HTTP; the connection ends behind it unless it `stays`."""
        kind, content = "octet-stream", self.body
        if not isinstance(content, bytes):
            kind, content = "json", json.dumps(content).encode()
        end = "\r\n" if stays else "Connection: close\r\n\r\n"
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: application/{kind}\r\n"
            f"Content-Length: {len(content)}\r\n{end}"
        )
        return head.encode() + content


class _Site:
    """The routes and the connections under way."""

    def __init__(self, backend_of: BackendOf, take: Take | None) -> None:
        self._backend_of = backend_of
        self._take = take
        self._under_way: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[Any]] = set()
        """Those of them that wait for a request."""

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a new connection to the Unix socket."""
        self._accept(reader, writer, local=True)

    def accept_remote(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The same for TCP, where logs are not for everybody who can connect."""
        self._accept(reader, writer, local=False)

    async def end(self) -> None:
        """Let what is under way finish for a moment, then cancel it; connections without a request end at once."""
        for task in self._silent:
            task.cancel()
        tasks = set(self._under_way)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool) -> None:
        if len(self._under_way) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._connection(reader, writer, local), name="admin request")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: bool) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):  # the client is gone or stuck
                stays = True
                while stays:
                    async with asyncio.timeout(EXCHANGE_SECONDS):
                        stays = await self._exchange(reader, writer, local)
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, local: bool) -> bool:
        """One request and its answer; returns whether the connection stays open."""
        try:
            request = await self._heard(reader)
        except Refused as refused:
            writer.write(_error(refused.status, "BadArgument", refused.message).encode())
            await _linger(reader, writer)
            writer.close()
            return False
        answer = await self._guarded(request, local)
        stays = request.stays and request.method == "POST" and answer.status is HTTPStatus.OK
        writer.write(answer.encode(stays=stays))
        if stays:
            await writer.drain()
        else:
            writer.close()
        return stays

    async def _heard(self, reader: asyncio.StreamReader) -> Request:
        task = asyncio.current_task()
        assert task is not None
        self._silent.add(task)
        try:
            return await read_request(reader, REQUEST_BYTES)
        finally:
            self._silent.discard(task)

    async def _guarded(self, request: Request, local: bool) -> Answer:
        """`_answer`, whose surprises are this request's alone."""
        try:
            return await self._answer(request, local)
        except Unavailable as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, error.code, error.message)
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.target)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "see the autoscaler's output")

    async def _answer(self, request: Request, local: bool) -> Answer:
        try:
            url = urlsplit(request.target)
        except ValueError:
            return _error(HTTPStatus.BAD_REQUEST, "BadArgument", "the address cannot be read")
        methods = {"/healthz": "GET"}
        if local:
            methods["/logs"] = "GET"
        if self._take is not None:
            methods[PATH] = "POST"
        method = methods.get(url.path)
        if method is None:
            return _error(HTTPStatus.NOT_FOUND, "ResourceNotFound", f"there is nothing at {url.path}")
        if request.method != method:
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "BadArgument", f"{url.path} takes {method} alone")
        if url.path == "/healthz":
            return Answer(HTTPStatus.OK, {"status": "ok"})
        if url.path == "/logs":
            return await self._logs(dict(parse_qsl(url.query, keep_blank_values=True)))
        return self._demand(request)

    def _demand(self, request: Request) -> Answer:
        assert self._take is not None
        if request.body is None:
            return _error(HTTPStatus.LENGTH_REQUIRED, "BadArgument", "say the length of the body in Content-Length")
        try:
            messages = decode_handed(request.body)
        except (Malformed, UnknownSchema) as error:
            return _error(HTTPStatus.BAD_REQUEST, "BadArgument", f"the body makes no sense: {error}")
        return Answer(HTTPStatus.OK, encode_told(self._take(messages)))

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
async def admin_site(
    socket: Path, backend_of: BackendOf, take: Take | None = None, listen: tuple[str, int] | None = None
) -> AsyncIterator[tuple[str, int] | None]:
    """Serve the routes on `socket`, owner only, while inside. A socket left behind by a dead process is replaced.

    With `take`, demand is taken too; with `listen` (host, port; port 0 = any), TCP serves `/v1/demand` and `/healthz`.
    Yields the host and port that TCP listens on, None without `listen`. Raises `OSError` when the port cannot be had.
    """
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)  # the data folder is owned already, so nobody alive listens there
    site = _Site(backend_of, take)
    servers = [await asyncio.start_unix_server(site.accept, str(socket), limit=HEAD_BYTES)]
    try:
        os.chmod(socket, 0o600)
        bound = None
        if listen is not None:
            servers.append(await asyncio.start_server(site.accept_remote, *listen, limit=HEAD_BYTES))
            bound = servers[-1].sockets[0].getsockname()[:2]
        yield bound
    finally:
        for server in servers:
            server.close()
        await site.end()
        socket.unlink(missing_ok=True)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what still comes of a refused request, for a moment: a close with bytes unread would be a reset."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(HEAD_BYTES):
                pass


def _error(status: HTTPStatus, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})
