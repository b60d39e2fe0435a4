"""A replica that does what a test tells it, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.gateway_rig import KEY, PATIENCE


@dataclass
class Request:
    """What the replica got."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The only value of a field, in any case; fails if there are several."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) < 2, f"{name} more than once: {found}"
        return found[0] if found else None

    async def read_body(self) -> bytes:
        """The whole body."""
        length = self.header("content-length")
        if length is not None:
            self.body = await self.reader.readexactly(int(length))
        elif self.header("transfer-encoding") == "chunked":
            self.body = await read_chunked(self.reader)
        return self.body


async def read_chunked(reader: asyncio.StreamReader) -> bytes:
    """A chunked body, whole."""
    body = b""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
        if size == 0:
            return body


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[Any]]


async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with the body it got."""
    body = await request.read_body()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def answer(raw: bytes) -> Script:
    """A script that reads the request and answers with these bytes."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(raw)

    return script


@dataclass
class ScriptedReplica:
    """One listening replica."""

    script: Script
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    connections: int = 0
    open: int = 0
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway closes a connection while the script runs."""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop at once, like a killed process."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted.set()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = [(name, value) for name, value in (line.split(": ", 1) for line in lines)]
        request = Request(method, target, headers, reader)
        self.requests.append(request)
        await self.script(request, writer)
        if writer.is_closing():
            return False
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def scripted(script: Script = echo, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedReplica]:
    """A replica for as long as the block runs."""
    server = ScriptedReplica(script, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def gone(reader: asyncio.StreamReader) -> None:
    """Wait until the other end is gone, then say so as a stream does."""
    while await reader.read(65536):
        pass
    raise ConnectionResetError


async def trickle(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Write this again and again until the other end is gone, then say so as a stream does."""
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    raise ConnectionResetError


@dataclass
class Answer:
    """What a caller got."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """False when the connection ended before the body did."""


class Caller:
    """One connection to the gateway, raw."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """These bytes."""
        self.writer.write(data)

    async def head(self) -> Answer:
        """The next answer's head."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, whole, and past any 100 before it."""
        while (got := await self.head()).status == 100:
            pass
        try:
            got.body = await asyncio.wait_for(self._body(got, head_only=head_only), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError):
            got.whole = False
        return got

    async def _body(self, got: Answer, *, head_only: bool) -> bytes:
        if head_only or got.status in (204, 304):
            return b""
        if "content-length" in got.headers:
            return await self.reader.readexactly(int(got.headers["content-length"]))
        if got.headers.get("transfer-encoding") == "chunked":
            return await read_chunked(self.reader)
        return await self.reader.read()

    async def ended(self) -> bool:
        """Whether the gateway ends the connection without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE) == b""
        except ConnectionError:
            return True

    def shut(self) -> None:
        """Send nothing more, and read on."""
        self.writer.write_eof()

    def abort(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def caller(port: int, limit: int = 1 << 20) -> AsyncIterator[Caller]:
    """A connection for as long as the block runs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def post(
    body: bytes = b"",
    *,
    path: str = "/endpoints/demo/score",
    key: str | None = KEY,
    extra: str = "",
    method: str = "POST",
) -> bytes:
    """The bytes of a request with a length."""
    authorization = f"Authorization: Bearer {key}\r\n" if key is not None else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n{authorization}Content-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode("latin-1") + body


async def ask(port: int, request: bytes | None = None) -> Answer:
    """One request on a connection of its own."""
    async with caller(port) as connection:
        connection.send(post(b"hello") if request is None else request)
        return await connection.answer()
