"""The soak's model: what it is asked to do stands in the request's fields; every answer says which request it answers.

`x-soak-do`: `score` (JSON with the hash of the body; the default), `events` (server-sent events), `pass` (each piece of the
body goes back as it comes), `large` (many bytes), `unframed` (the end of the connection is the end of the body). What asks for a
WebSocket gets one, on which everything comes back, frame by frame.
With HOSTILE=1 it treats callers badly, in a way that changes every few seconds; its probe is always well.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

NAME = os.environ.get("MODEL_NAME", "?")
PID = os.getpid()
HOSTILE = os.environ.get("HOSTILE") == "1"
HOSTILITIES = ("dead", "slow", "resetting", "deaf", "endless")
TURN_SECONDS = float(os.environ.get("TURN_SECONDS", "7"))
REMEMBERED = 50_000
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE, PING, PONG = 8, 9, 10
REASONS = {
    101: "Switching Protocols",
    200: "OK",
    404: "Not Found",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
seen: OrderedDict[str, int] = OrderedDict()


class Request:
    """One head, and its body as it comes."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = lines[0].split(" ")
        self.fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        self.id = self.fields.get("x-soak-id", "")
        self._reader = reader

    def number(self, name: str, otherwise: int = 0) -> int:
        """A field's value as a number."""
        return int(self.fields.get(f"x-soak-{name}", otherwise))

    async def frame(self) -> tuple[int, bytes]:
        """One frame of a WebSocket: its first byte, and what it carries, unmasked."""
        first, second = await self._reader.readexactly(2)
        size = second & 127
        if size > 125:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
        mask = await self._reader.readexactly(4)
        data = await self._reader.readexactly(size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size])
        return first, (int.from_bytes(data) ^ key).to_bytes(size)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body."""
        if "chunked" in self.fields.get("transfer-encoding", ""):
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield await self._reader.readexactly(size)
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
            return
        left = int(self.fields.get("content-length", 0))
        while left:
            data = await self._reader.read(min(left, 1 << 16))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data


def head(request: Request, status: int, *fields: str) -> bytes:
    """The answer's head; `fields` say how the body is framed."""
    lines = (f"HTTP/1.1 {status} {REASONS.get(status, 'So')}", f"x-soak-id: {request.id}", f"x-soak-pid: {PID}",
             f"x-soak-seen: {seen.get(request.id, 0)}", *fields, "", "")  # fmt: skip
    return "\r\n".join(lines).encode()


async def score(request: Request, writer: asyncio.StreamWriter) -> None:
    """The whole body is read, then answered."""
    digest, size = hashlib.sha256(), 0
    async for piece in request.pieces():
        digest.update(piece)
        size += len(piece)
    await asyncio.sleep(request.number("wait-ms") / 1000)
    told = {"id": request.id, "sha256": digest.hexdigest(), "bytes": size, "model": NAME, "method": request.method}
    body = json.dumps(told).encode()
    front = head(
        request, request.number("status", 200), "content-type: application/json", f"content-length: {len(body)}"
    )
    writer.write(front if request.method == "HEAD" else front + body)


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def events(request: Request, writer: asyncio.StreamWriter) -> None:
    """Numbered events, then DONE."""
    async for _ in request.pieces():
        pass
    writer.write(head(request, 200, "content-type: text/event-stream", "transfer-encoding: chunked"))
    for number in range(request.number("count", 10)):
        await asyncio.sleep(request.number("gap-ms", 20) / 1000)
        writer.write(chunk(f"data: {request.id} {number}\n\n".encode()))
        await writer.drain()
    writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def passing(request: Request, writer: asyncio.StreamWriter) -> None:
    """Both ways at once."""
    writer.write(head(request, 200, "content-type: application/octet-stream", "transfer-encoding: chunked"))
    async for piece in request.pieces():
        writer.write(chunk(piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


def pattern(size: int) -> bytes:
    """The bytes of a large answer."""
    line = b"".join(b"%08d" % number for number in range(128))
    return (line * (size // len(line) + 1))[:size]


async def large(request: Request, writer: asyncio.StreamWriter) -> None:
    """Many bytes of a known pattern."""
    async for _ in request.pieces():
        pass
    body = pattern(request.number("bytes"))
    writer.write(head(request, 200, "content-type: application/octet-stream", f"content-length: {len(body)}") + body)


async def unframed(request: Request, writer: asyncio.StreamWriter) -> None:
    """Neither length nor coding."""
    async for _ in request.pieces():
        pass
    body = pattern(request.number("bytes"))
    writer.write(head(request, 200, "content-type: application/octet-stream", "connection: close") + body)
    await writer.drain()
    writer.close()


def frame(first: int, data: bytes) -> bytes:
    """A frame without a mask."""
    size = len(data)
    length = (
        bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 1 << 16 else b"\x7f" + size.to_bytes(8)
    )
    return bytes([first]) + length + data


async def talk(request: Request, writer: asyncio.StreamWriter) -> None:
    """A WebSocket: each frame comes back, until the caller closes it."""
    digest = hashlib.sha1(request.fields["sec-websocket-key"].encode() + MAGIC, usedforsecurity=False).digest()
    accept = base64.b64encode(digest).decode()
    writer.write(head(request, 101, "connection: upgrade", "upgrade: websocket", f"sec-websocket-accept: {accept}"))
    while True:
        first, data = await request.frame()
        opcode = first & 15
        if opcode == PING:
            writer.write(frame(0x80 | PONG, data))
        elif opcode != PONG:
            writer.write(frame(first, data))
        if opcode == CLOSE:
            break
        await writer.drain()
    await writer.drain()
    writer.close()


DOES = {"score": score, "events": events, "pass": passing, "large": large, "unframed": unframed}


async def hostile(writer: asyncio.StreamWriter) -> None:
    """What a shadow does at its worst, each in its turn."""
    turn = HOSTILITIES[int(time.time() / TURN_SECONDS) % len(HOSTILITIES)]
    if turn == "dead":
        os._exit(1)
    elif turn == "slow":
        await asyncio.sleep(30)
    elif turn == "resetting":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif turn == "deaf":
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads
        await asyncio.sleep(60)
    else:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while not writer.is_closing():
            writer.write(b"x-more: " + b"y" * 1000 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)


async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
    """One request."""
    if request.path == "/ready":
        body = NAME.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        return
    if HOSTILE:
        await hostile(writer)
        return
    if request.id:
        seen[request.id] = seen.get(request.id, 0) + 1
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)
    does = talk if "upgrade" in request.fields else DOES[request.fields.get("x-soak-do", "score")]
    await does(request, writer)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    try:
        while not writer.is_closing():
            request = Request(reader, await reader.readuntil(b"\r\n\r\n"))
            await answer(request, writer)
            await writer.drain()
            if request.fields.get("connection") == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the caller left
    finally:
        writer.close()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    flags = parser.parse_args()
    server = await asyncio.start_server(serve, flags.host, flags.port, limit=1 << 20, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
