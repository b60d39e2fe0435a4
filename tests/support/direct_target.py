"""Stands where an autoscaler listens: takes requests as they come and answers as it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from autoscaler.control.requests import Refused, read_request
from router.contract.handover import REQUEST_BYTES, Handed, decode_handed, encode_told


def ok(body: bytes = encode_told([]), *, more: str = "") -> bytes:
    """An answer that keeps the connection, unless `more` says otherwise."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@dataclass
class Listener:
    """What came, and what is answered."""

    reply: Callable[[list[Handed]], bytes | None] = lambda _: ok()
    """The whole answer; None = none, for ever; empty = the connection is closed instead."""
    batches: list[list[Handed]] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    """Requests that were read before the ones before them were answered."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers wait for it."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def messages(self) -> list[Handed]:
        """Everything that came."""
        return [one for batch in self.batches for one in batch]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(OSError, EOFError, Refused):
            while await self._exchange(reader, writer):
                pass
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await read_request(reader, REQUEST_BYTES)
        assert (request.method, request.target) == ("POST", "/v1/demand")
        batch = decode_handed(request.body or b"")
        self.batches.append(batch)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.released.wait()
            answer = self.reply(batch)
            if answer is None:
                await reader.read()  # until the sender has had enough
                return False
            writer.write(answer)
            return bool(answer)
        finally:
            self.at_once -= 1


@contextlib.asynccontextmanager
async def listening(path: Path, listener: Listener, *, held: bool = False) -> AsyncIterator[str]:
    """`listener` on the Unix socket `path`; yields the target that leads there. `held`: answers wait to be released."""
    if not held:
        listener.released.set()
    server = await asyncio.start_unix_server(listener.serve, str(path))
    try:
        yield f"unix:{path}"
    finally:
        server.close()
        for writer in listener.writers:
            writer.transport.abort()
        path.unlink(missing_ok=True)
        await asyncio.sleep(0)
