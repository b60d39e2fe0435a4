"""The far side: HTTP/1.1 exchanges with a candidate's replica, one at a time on each of a few connections that are kept.

A candidate may be dead, slow, endless or hostile: every buffer here is bounded, what arrives is handed on piece by piece,
and the deadline is the caller's. Heads go out as raw bytes, so that the candidate sees what the live replica saw.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

from mirror.call import Address, Call, Carrier, Start
from mirror.reading import Lost, Reader
from router.runtime.replica_tls import Trust

IDLE_PER_REPLICA = 64
"""Open connections kept for the next shadow, as many as a busy replica has in flight; more are closed after use."""


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


class CandidateClient:
    """Sends shadows and keeps a few connections per replica."""

    def __init__(self, start: Start, trust: Trust | None = None) -> None:
        """`trust`: how candidates that speak TLS are known; None: by the system's authorities."""
        self._start = start
        self._trust = trust or Trust()
        self._idle: dict[Address, list[Connection]] = {}
        self.loop = asyncio.get_running_loop()

    def begin(self, call: Call) -> None:
        """Send one request and fill its reply. `over` never comes before this returns.

        A kept connection that turns out to be closed before it answered a byte is replaced once by a fresh one.
        """
        idle = self._idle.get(call.address)
        while idle:
            connection = idle.pop()
            if connection.is_open():
                connection.carry(call)
                return
            connection.close()
        call.task = self._start(self._connect(call), "connection to a candidate")

    async def _connect(self, call: Call) -> None:
        try:
            way = around(self._trust, "http/1.1", call.address, call.server_name)
            connection = Connection(self, call.address)
            host, port = call.address
            await self.loop.create_connection(lambda: cast("asyncio.Protocol", connection), host, port, **way)
        except Exception as error:
            call.task = None
            call.over(unreached(error) if isinstance(error, OSError) else error)
            return
        call.task = None
        connection.carry(call)

    def keep(self, connection: Connection) -> None:
        """It may carry another exchange."""
        idle = self._idle.setdefault(connection.address, [])
        if len(idle) < IDLE_PER_REPLICA:
            idle.append(connection)
        else:
            connection.close()

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        idle = self._idle.get(connection.address)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def forget(self, keep: Iterable[Address]) -> None:
        """Close idle connections to replicas that are not among `keep`."""
        known = set(keep)
        for address in [address for address in self._idle if address not in known]:
            for connection in self._idle.pop(address):
                connection.close()


class Connection(Carrier):
    """One connection; a protocol by its methods alone, so that it can be compiled."""

    def __init__(self, client: CandidateClient, address: Address) -> None:
        self._client = client
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._reader: Reader | None = None
        self._pieces: Iterator[bytes] | None = None
        """Of the request's body, those that have yet to be written."""
        self._chunked = False
        self._paused = False
        self._used = False
        """Whether it has carried an exchange before: then an early end may only mean that it was stale."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)

    def is_open(self) -> bool:
        """Whether it can carry anything."""
        return self._transport is not None and not self._transport.is_closing()

    def carry(self, call: Call) -> None:
        """Send the request of `call` and expect its answer."""
        outgoing, transport = call.outgoing, self._transport
        assert outgoing is not None
        self._call = call
        self._reader = Reader(call.reply, outgoing.method)
        call.carrier = self
        if transport is None:  # it was closed in the very turn in which it came
            self._client.loop.call_soon(self._ended, None)
            return
        body = outgoing.body.whole()
        if body is None:
            transport.write(outgoing.head)
            self._chunked = outgoing.chunked
            self._pieces = outgoing.body.pieces()
            self._send()
        elif outgoing.chunked:
            transport.write(outgoing.head + (_chunk(body) if body else b"") + b"0\r\n\r\n")
        else:
            transport.write(outgoing.head + body)

    def _send(self) -> None:
        """Write what there is room for. Losing the connection is for the receiving side to report: an early answer may be there."""
        pieces, transport = self._pieces, self._transport
        if pieces is None or transport is None:
            return
        try:
            while not (self._paused or transport.is_closing()):
                piece = next(pieces, None)
                if piece is None:
                    self._pieces = None
                    if self._chunked:
                        transport.write(b"0\r\n\r\n")
                    return
                transport.write(_chunk(piece) if self._chunked else piece)
        except OSError:
            transport.abort()

    def pause_writing(self) -> None:
        """The candidate reads slower than it is sent to."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False
        self._send()

    def data_received(self, data: bytes) -> None:
        """Bytes from the candidate."""
        call, reader = self._call, self._reader
        if call is None or reader is None:  # out of turn
            self.close()
            return
        reply = call.reply
        if not reply.first_byte_at:
            reply.first_byte_at = time.monotonic()
        try:
            reader.feed(data)
        except Exception as error:
            self._release()
            self.close()
            call.over(error)
            return
        if reply.complete:
            keep = reader.reusable and self._pieces is None and not self._paused
            self._release()
            if keep:
                self._used = True
                self._client.keep(self)
            else:
                self.close()
            call.over(None)

    def eof_received(self) -> bool:
        """The candidate sends nothing more: the end of a body without length, or a loss."""
        self._ended(None)
        self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._transport = None
        self._client.gone(self)
        self._ended(exc)

    def _ended(self, exc: Exception | None) -> None:
        call, reader = self._call, self._reader
        if call is None or reader is None:
            return
        self._release()
        lost: Exception | None = None
        if exc is None:
            try:
                reader.eof()
            except Lost as error:
                lost = error
        else:
            lost = Lost(f"connection lost: {getattr(exc, 'strerror', None) or exc}")
        if lost is not None and self._used and not call.reply.first_byte_at:
            self._client.begin(call)
        else:
            call.over(lost)

    def _release(self) -> None:
        """It carries nothing any more."""
        call = self._call
        if call is not None:
            call.carrier = None
        self._call = None
        self._reader = None
        self._pieces = None

    def abandon(self) -> None:
        """Its call is of no interest any more."""
        self._release()
        self.close()

    def close(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
