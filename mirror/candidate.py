"""The far side: one HTTP/1.1 exchange with a candidate's replica, on a pooled connection.

A candidate may be dead, slow, endless or hostile: every buffer here is bounded, what arrives is handed on piece by piece,
and the deadline is the caller's. Heads go out as raw bytes, so that the candidate sees what the live replica saw.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mirror.capture import RequestBody
from mirror.reading import Lost, Reader, Reply
from router.runtime.replica_tls import Trust

Address = tuple[str, int]
"""(host, port) of a replica."""
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


def around(trust: Trust, protocol: str, address: Address, server_name: str | None) -> dict[str, Any]:
    """How a connection for `protocol` (ALPN's name) is opened: plain, or over TLS where there is a `server_name`."""
    if server_name is None:
        return {}
    return {"ssl": trust.context(protocol), "server_hostname": server_name or address[0]}


def unreached(error: OSError) -> Lost:
    """A connection that did not come about, in a word."""
    if isinstance(error, ssl.SSLError):
        return Lost(f"TLS: {getattr(error, 'verify_message', '') or error.reason}")
    return Lost(f"connect: {error.strerror or error}")


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False


class CandidateClient:
    """Sends shadows and keeps a few connections per replica."""

    def __init__(self, trust: Trust | None = None) -> None:
        """`trust`: how candidates that speak TLS are known; None: by the system's authorities."""
        self._trust = trust or Trust()
        self._idle: dict[Address, deque[_Connection]] = {}

    async def exchange(
        self, address: Address, outgoing: Outgoing, reply: Reply, server_name: str | None = None
    ) -> None:
        """Send one request and fill `reply`; what goes wrong stands in `reply.error`, only cancellation is raised.

        With a `server_name` over TLS; that must be the name in the certificate, or the address where it is empty.

        A kept connection that turns out to be closed before it answered a byte is replaced once by a fresh one.
        """
        while True:
            connection = self._kept(address)
            try:
                connection = connection or await self._connect(address, server_name)
                await self._over(connection, address, outgoing, reply)
            except Lost as error:
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

    async def _connect(self, address: Address, server_name: str | None) -> _Connection:
        try:
            way = around(self._trust, "http/1.1", address, server_name)
            return _Connection(*await asyncio.open_connection(*address, **way))
        except OSError as error:
            raise unreached(error) from error

    async def _over(self, connection: _Connection, address: Address, outgoing: Outgoing, reply: Reply) -> None:
        answer = Reader(reply, outgoing.method)
        sending = asyncio.create_task(_send(connection.writer, outgoing), name="shadow request body")
        try:
            await _receive(connection.reader, answer, reply)
            keep = answer.reusable and sending.done() and sending.exception() is None
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


async def _receive(reader: asyncio.StreamReader, answer: Reader, reply: Reply) -> None:
    loop = asyncio.get_running_loop()
    while not reply.complete:
        try:
            data = await reader.read(_READ_BYTES)
        except OSError as error:
            raise Lost(f"connection lost: {error.strerror or error}") from error
        if not data:
            answer.eof()
            return
        reply.first_byte_at = reply.first_byte_at or loop.time()
        answer.feed(data)
