"""The far side: one HTTP/1.1 exchange with a candidate's replica, on a pooled connection.

A candidate may be dead, slow, endless or hostile: every buffer here is bounded, what arrives is handed on piece by piece,
and the deadline is the caller's. Heads go out as raw bytes, so that the candidate sees what the live replica saw.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httptools

from mirror.capture import RequestBody
from mirror.heads import plain_type

Address = tuple[str, int]
"""(host, port) of a replica."""
_HEAD_BYTES = 256 << 10
"""Interim and final response heads together."""
_READ_BYTES = 64 << 10
_IDLE_PER_REPLICA = 16
"""Open connections kept for the next shadow; more are closed after use."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One shadow request."""

    head: bytes
    body: RequestBody
    chunked: bool
    method: str


@dataclass(slots=True)
class Reply:
    """What a candidate answered, filled in as it comes: what stands here when a deadline strikes is what was seen."""

    take: Callable[[bytes], None]
    """Gets each piece of the body."""
    status: int = 0
    """0 until the final response's head was seen."""
    first_byte_at: float = 0.0
    """Loop time; 0 until then."""
    content_type: str = ""
    content_encoding: str = ""
    complete: bool = False
    error: str = ""


class _Lost(Exception):
    """The connection did not carry the exchange to its end."""


@dataclass(slots=True)
class _Parser:
    """Callbacks of llhttp, which checks the framing strictly."""

    reply: Reply
    method: str
    reusable: bool = False
    _framed: bool = False
    _headers_done: bool = False
    _parser: httptools.HttpResponseParser = field(init=False)
    _head_bytes: int = 0

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        if not self._headers_done:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES + _READ_BYTES:
                raise _Lost(f"response head above {_HEAD_BYTES} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.reply.complete:
                raise _Lost(f"not HTTP/1.1: {error}") from error
            self.reusable = False

    def eof(self) -> None:
        """The candidate closed: the end of a body without length, or a loss."""
        if self._headers_done and not self._framed:
            self.reply.complete = True
        elif not self._headers_done:
            raise _Lost("closed before the response")
        else:
            raise _Lost("closed in the middle of the response")

    def on_message_begin(self) -> None:
        if self.reply.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reply.complete:
            return
        lower = name.lower()
        if lower in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif lower == b"content-type":
            self.reply.content_type = plain_type(value)
        elif lower == b"content-encoding":
            self.reply.content_encoding = value.strip().lower().decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.reply.complete:
            return
        if status < 200:
            self._framed = False
            self.reply.content_type = self.reply.content_encoding = ""
            return
        self._headers_done = True
        self.reply.status = status
        if self.method == "HEAD":
            self.reply.complete = True

    def on_body(self, body: bytes) -> None:
        if not self.reply.complete:
            self.reply.take(body)

    def on_message_complete(self) -> None:
        if self._headers_done and not self.reply.complete:
            self.reply.complete = True
            self.reusable = self._parser.should_keep_alive()


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False


class CandidateClient:
    """Sends shadows and keeps a few connections per replica."""

    def __init__(self) -> None:
        self._idle: dict[Address, deque[_Connection]] = {}

    async def exchange(self, address: Address, outgoing: Outgoing, reply: Reply) -> None:
        """Send one request and fill `reply`; what goes wrong stands in `reply.error`, only cancellation is raised.

        A kept connection that turns out to be closed before it answered a byte is replaced once by a fresh one.
        """
        while True:
            connection = self._kept(address)
            try:
                connection = connection or await self._connect(address)
                await self._over(connection, address, outgoing, reply)
            except _Lost as error:
                if connection is not None and connection.used and not reply.first_byte_at:
                    continue
                reply.error = str(error)
            return

    def forget(self, keep: Iterable[Address]) -> None:
        """Close idle connections to replicas that are not among `keep`."""
        known = set(keep)
        for address in [address for address in self._idle if address not in known]:
            for connection in self._idle.pop(address):
                connection.writer.transport.abort()

    def _kept(self, address: Address) -> _Connection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.transport.abort()
        return None

    async def _connect(self, address: Address) -> _Connection:
        try:
            return _Connection(*await asyncio.open_connection(*address))
        except OSError as error:
            raise _Lost(f"connect: {error.strerror or error}") from error

    async def _over(self, connection: _Connection, address: Address, outgoing: Outgoing, reply: Reply) -> None:
        parser = _Parser(reply, outgoing.method)
        sending = asyncio.create_task(_send(connection.writer, outgoing), name="shadow request body")
        try:
            await _receive(connection.reader, parser, reply)
            keep = parser.reusable and sending.done() and sending.exception() is None
        except BaseException:
            await _abandon(connection, sending)
            raise
        idle = self._idle.setdefault(address, deque())
        if keep and len(idle) < _IDLE_PER_REPLICA:
            connection.used = True
            idle.append(connection)
        else:
            await _abandon(connection, sending)


async def _abandon(connection: _Connection, sending: asyncio.Task[None]) -> None:
    connection.writer.transport.abort()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, outgoing: Outgoing) -> None:
    """Write head and body; losing the connection is for the receiving side to report, an early answer may be there."""
    try:
        writer.write(outgoing.head)
        for piece in outgoing.body.pieces():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if outgoing.chunked else piece)
            await writer.drain()
        if outgoing.chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
    except OSError:
        writer.transport.abort()


async def _receive(reader: asyncio.StreamReader, parser: _Parser, reply: Reply) -> None:
    loop = asyncio.get_running_loop()
    while not reply.complete:
        try:
            data = await reader.read(_READ_BYTES)
        except OSError as error:
            raise _Lost(f"connection lost: {error.strerror or error}") from error
        if not data:
            parser.eof()
            return
        reply.first_byte_at = reply.first_byte_at or loop.time()
        parser.feed(data)
