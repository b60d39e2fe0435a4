"""A candidate's replica that does what its script says, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Received:
    head: bytes
    length: int = 0
    digest: str = ""
    body: bytes = b""
    connection: int = 0

    @property
    def first_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.lower(): value.strip() for name, _, value in pairs}


Script = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: int = 200, content_type: str = "application/json", extra: str = "") -> Script:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"

    async def script(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)

    return script


async def hang(_: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def reset(_: Received, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


@dataclass
class Candidate:
    script: Script
    read_body: bool = True
    received: list[Received] = field(default_factory=list)
    active: int = 0
    most_active: int = 0
    connections: int = 0
    port: int = 0
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Received(head[:-2], connection=number)
                if self.read_body:
                    await self._body(reader, request)
                await self._serve_one(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_one(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            async with self.arrived:
                self.received.append(request)
                self.arrived.notify_all()
            await self.script(request, writer)
            await writer.drain()
        finally:
            self.active -= 1

    async def _body(self, reader: asyncio.StreamReader, request: Received) -> None:
        digest = hashlib.sha256()
        headers = request.headers

        async def take(size: int) -> None:
            left = size
            while left:
                data = await reader.read(min(left, 1 << 16))
                if not data:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(data)
                digest.update(data)
                request.length += len(data)
                if request.length <= 1 << 20:
                    request.body += data

        if "chunked" in headers.get("transfer-encoding", ""):
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await take(size)
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
        else:
            await take(int(headers.get("content-length", "0")))
        request.digest = digest.hexdigest()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(60), self.arrived:
            await self.arrived.wait_for(lambda: len(self.received) >= count)


@contextlib.asynccontextmanager
async def candidate(
    script: Script, *, read_body: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Candidate]:
    scripted = Candidate(script, read_body)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await scripted.serve(reader, writer)
        except asyncio.CancelledError:
            return  # the stream protocol's callback would report the cancellation as an error
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
