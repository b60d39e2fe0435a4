"""A gateway worker as the mirror sees it: a Unix connection that speaks tee frames."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from router.contract.tee import (
    END_FIELDS,
    MAX_PAYLOAD_BYTES,
    RESPONSE_FIELDS,
    Decoder,
    Kind,
    Open,
    frame,
    open_frame,
)

JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


@dataclass
class FakeGateway:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    endpoint: str = "shop"
    candidates: tuple[str, ...] = ("green",)
    done: list[int] = field(default_factory=list)
    newest: int = -1
    _decoder: Decoder = field(default_factory=Decoder)

    def send(self, kind: Kind, exchange: int, payload: bytes = b"") -> None:
        self.writer.write(frame(kind, exchange, payload))

    def open(self, head: bytes | None = None, *, body: bytes = b"", request_id: str = "", end: bool = True) -> int:
        """OPEN, BODY and REQUEST_END of one exchange."""
        self.newest += 1
        number = self.newest
        opening = Open(self.endpoint, "blue", self.candidates, request_id or f"request-{number}", 1)
        length = f"content-length: {len(body)}\r\n" if body else ""
        head = head or f"POST /score HTTP/1.1\r\nhost: shop.localhost\r\n{length}\r\n".encode()
        self.writer.write(open_frame(number, opening, head))
        self.body(number, body)
        if end:
            self.send(Kind.REQUEST_END, number)
        return number

    def body(self, number: int, body: bytes) -> None:
        for at in range(0, len(body), MAX_PAYLOAD_BYTES):
            self.send(Kind.BODY, number, body[at : at + MAX_PAYLOAD_BYTES])

    def respond(
        self, number: int, body: bytes = b"", status: int = 200, head: bytes = JSON_HEAD, trailers: bytes = b""
    ) -> None:
        """RESPONSE, RESPONSE_BODY, TRAILERS if there are any, and END of one exchange."""
        self.send(Kind.RESPONSE, number, RESPONSE_FIELDS.pack(status, 1500) + head)
        for at in range(0, len(body), MAX_PAYLOAD_BYTES):
            self.send(Kind.RESPONSE_BODY, number, body[at : at + MAX_PAYLOAD_BYTES])
        if trailers:
            self.send(Kind.TRAILERS, number, trailers)
        self.send(Kind.END, number, END_FIELDS.pack(status, 2500, len(body)))

    def exchange(self, body: bytes, response: bytes, **more: bytes) -> int:
        number = self.open(body=body, head=more.get("head"))
        self.respond(number, response)
        return number

    async def wait_done(self, *numbers: int) -> None:
        """Until all of `numbers` were answered DONE."""
        async with asyncio.timeout(60):
            await self.writer.drain()
            while not set(numbers) <= set(self.done):
                data = await self.reader.read(65536)
                assert data, "the mirror closed the connection"
                for kind, number, payload in self._decoder.feed(data):
                    assert (kind, payload) == (Kind.DONE, b"")
                    assert number not in self.done, f"{number} was answered twice"
                    self.done.append(number)

    async def wait_closed(self) -> None:
        """Until the mirror has closed the connection."""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    continue


@contextlib.asynccontextmanager
async def gateway(path: Path, candidates: tuple[str, ...] = ("green",)) -> AsyncIterator[FakeGateway]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield FakeGateway(reader, writer, candidates=candidates)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
