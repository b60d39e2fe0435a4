"""HTTP of the autoscaler: what the control plane asks of it, and demand that comes past the log.

On a Unix socket of the data folder, owner only: `GET /logs` of a deployment, `GET /healthz`, `GET /readyz`, `GET /metrics`,
`POST /v1/demand`, and `GET /v1/demand` of what was handed over. On TCP, where it is wanted, the same behind a token and TLS;
without them health, metrics and the handing over alone. No HTTP framework:
nothing serves before the autoscaler has started, and importing one would take as long as all the rest of that.
Connections stay open behind demand, and end behind everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from autoscaler.control.answers import Answers, failure
from autoscaler.control.door import Door
from autoscaler.control.requests import HEAD_BYTES, Head, Refused, Request, read_request
from router.contract.handover import REQUEST_BYTES
from router.runtime.credentials import NONE, Credentials, check_listening

EXCHANGE_SECONDS = 30.0
"""For one request and its answer, the wait for the request included."""
HANDSHAKE_SECONDS = 10.0
"""For TLS, before the first request."""
SHUTDOWN_SECONDS = 1.0
"""Longest wait at the end for the requests under way."""
LINGER_SECONDS = 1.0
"""How long the rest of a refused request is read, so that its sender sees the answer and not a reset."""
MOST_CONNECTIONS = 2048
"""At once; a gateway worker and a mirror hold one each. Further ones are closed unanswered."""


class _Site:
    """The connections under way."""

    def __init__(self, answers: Answers, door: Door, *, closed: bool) -> None:
        """`closed`: whoever comes in by TCP has shown something."""
        self._closed = closed
        self._answers = answers
        self._door = door
        self._under_way: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[Any]] = set()
        """Those of them that wait for a request."""
        self._ended = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a new connection to the Unix socket."""
        self._accept(reader, writer, local=True)

    def accept_remote(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The same for TCP, where logs are only for those who have shown who they are."""
        self._accept(reader, writer, local=False)

    async def end(self) -> None:
        """Let what is under way finish for a moment, then cancel it; connections without a request end at once."""
        self._ended = True
        for task in self._silent:
            task.cancel()
        tasks = set(self._under_way)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, local: bool) -> None:
        # One that was accepted just before the end may come here behind it, when nobody waits for its task any more.
        if self._ended or len(self._under_way) >= MOST_CONNECTIONS:
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
            request = await self._heard(reader, local)
        except Refused as refused:
            writer.write(failure(refused.status, refused.code, refused.message).encode())
            await _linger(reader, writer)
            writer.close()
            return False
        answer = await self._answers.to(request, known=local or self._closed)
        stays = request.stays and request.method == "POST" and answer.status is HTTPStatus.OK
        writer.write(answer.encode(stays=stays))
        if stays:
            await writer.drain()
        else:
            writer.close()
        return stays

    async def _heard(self, reader: asyncio.StreamReader, local: bool) -> Request:
        task = asyncio.current_task()
        assert task is not None
        self._silent.add(task)
        try:
            return await read_request(reader, REQUEST_BYTES, _owner if local else self._door.admit)
        finally:
            self._silent.discard(task)


def _owner(_: Head) -> None:
    """The socket's own mode has admitted whoever is there."""


@contextlib.asynccontextmanager
async def admin_site(
    socket: Path,
    answers: Answers,
    listen: tuple[str, int] | None = None,
    *,
    credentials: Credentials = NONE,
    door: Door | None = None,
) -> AsyncIterator[tuple[str, int] | None]:
    """Serve `answers` on `socket`, owner only, while inside. A socket left behind by a dead process is replaced.

    With `listen` (host, port; port 0 = any), TCP too, for those whom `door` (by default: the token of `credentials`)
    admits; where it admits everybody, all but the logs. Yields the host and port that TCP listens on, None without `listen`. Raises `OSError` when the
    port cannot be had, and `InvalidSpec` for one that other machines reach without a token.
    """
    if listen is not None:
        check_listening(listen, credentials)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)  # the data folder is owned already, so nobody alive listens there
    site = _Site(answers, door or Door(credentials.token), closed=bool(credentials.token) or credentials.certified)
    servers = [await asyncio.start_unix_server(site.accept, str(socket), limit=HEAD_BYTES)]
    try:
        os.chmod(socket, 0o600)
        bound = None
        if listen is not None:
            servers.append(await _tcp(site, listen, credentials))
            bound = servers[-1].sockets[0].getsockname()[:2]
        yield bound
    finally:
        for server in servers:
            server.close()
        await site.end()
        socket.unlink(missing_ok=True)


async def _tcp(site: _Site, listen: tuple[str, int], credentials: Credentials) -> asyncio.Server:
    if credentials.tls is None:
        return await asyncio.start_server(site.accept_remote, *listen, limit=HEAD_BYTES)
    return await asyncio.start_server(
        site.accept_remote,
        *listen,
        limit=HEAD_BYTES,
        ssl=credentials.tls,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
        ssl_shutdown_timeout=SHUTDOWN_SECONDS,
    )


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read what still comes of a refused request, for a moment: a close with bytes unread would be a reset."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(HEAD_BYTES):
                pass
