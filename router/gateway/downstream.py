"""The near side: one caller's connection. It cuts the bytes into requests and carries answers, one at a time.

Heads are judged by a strict parser and then by `policy.headers`; where a request has no single meaning, the answer is
400 and the connection ends. Pipelined requests wait in a bounded backlog. A caller that shuts its sending side still gets
what it has asked for in full; one that has left is found out (`leaving`), and what runs for it is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, cast

from router.gateway.calls import refused
from router.gateway.exchange import Exchange
from router.gateway.http2.serving import Serving
from router.gateway.keeping_up import Caller
from router.gateway.leaving import Watch
from router.gateway.responses import Refusal
from router.gateway.timers import NEVER
from router.gateway.tracing import TracedExchange
from router.policy.chunked import BadChunk, Decoder

if TYPE_CHECKING:
    from router.gateway.state import State

_HEAD, _LENGTH, _CHUNKED, _WAIT, _DISCARD, _UNWELCOME, _HANDED_OVER = range(7)
_LINGER_NS = 2_000_000_000
"""After an answer to a request that had not wholly come: time for the caller to read it before the connection ends."""
_LINGER_BYTES = 16 << 20
_BACKLOG_BYTES = 65536
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\n"
"""With which the preface of HTTP/2 begins; to HTTP/1.1 it is a head."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: what is not sent yet is dropped, and the other end is told that the connection broke."""


class Downstream(Caller):
    """One caller's connection; a protocol by its methods alone, so that it can be compiled."""

    __slots__ = (
        "_backlog", "_buffer", "_decoder", "_discarded", "_ended", "_head_since", "_left", "_mode", "_read_paused", "_unwelcome",
        "_used", "_watch", "quiet_since",
    )  # fmt: skip

    def __init__(self, state: State) -> None:
        self._state = state
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.exchange: Exchange | None = None
        self.peer = b""
        self.deadline = NEVER
        self.slot = NEVER
        self.paused = False
        """Whether the caller reads slower than the answer comes."""
        self.paused_since = 0
        self._unsent = 0
        self._mode = _HEAD
        self._buffer = b""
        self._backlog = b""
        self._left = 0
        self._decoder: Decoder | None = None
        self._read_paused = False
        self._head_since = 0
        self.quiet_since = 0
        """Since when it is between two requests."""
        self._used = False
        """It has begun with HTTP/1.1, and stays with that."""
        self._discarded = 0
        self._ended = False
        """The caller sends nothing more."""
        self._watch: Watch | None = None
        self._pace = None
        """Of the body that is arriving."""
        self._unwelcome: Refusal | None = None
        """Why it may not stay."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]).encode() if isinstance(address, tuple) else b"unknown"
        self._state.connections.add(self)
        self._state.counters.connections += 1
        self.quiet_since = time.monotonic_ns()
        self._state.wheel.arm(self, self.quiet_since + self._state.head_ns)
        self._unwelcome = self._state.doors.enter(self.peer)
        if self._unwelcome is not None:
            self._turn_away()

    def _turn_away(self) -> None:
        """There are too many: it is told so once it asks for something, which it has to do soon."""
        self._mode = _UNWELCOME
        if self._state.doors.may_be_told():
            self._state.wheel.arm(self, time.monotonic_ns() + _LINGER_NS)
        else:
            self._state.refusals.cut("connections", "more connections than can be told that there are too many")
            self.transport.abort()

    # From the caller ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        mode = self._mode
        if mode == _HEAD:
            if self._buffer:
                self._more_of_a_head(data)
                return
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._partial(data, 0)
            elif data.startswith(b"\r\n"):
                self._skip_empty_lines(data)
            else:
                self._request(data, end)
        elif mode == _LENGTH:
            self._length(data)
        elif mode == _CHUNKED:
            self._chunked(data)
        elif mode == _WAIT:
            self._keep(data)
        elif mode == _DISCARD:
            self._discard(data)
        else:
            assert self._unwelcome is not None
            self._refuse(self._unwelcome, "there are too many connections", data)

    def _more_of_a_head(self, data: bytes) -> None:
        """Behind what has been looked at before: only once per byte, or a head in many pieces would cost its square."""
        known = self._buffer
        data = known + data
        self._buffer = b""
        end = data.find(b"\r\n\r\n", max(0, len(known) - 3)) + 4
        if end < 4:
            self._partial(data, len(known) - known.endswith(b"\r"))
        elif data.startswith(b"\r\n"):
            self._skip_empty_lines(data)
        else:
            self._request(data, end)

    def _partial(self, data: bytes, known: int) -> None:
        """Not a whole head yet; its first `known` bytes have been here before."""
        if len(data) > self._state.settings.max_head_bytes:
            self._refuse(Refusal.HEAD_TOO_LARGE, "the request line and headers are too large", data)
        elif data.count(b"\n", known) != data.count(b"\r\n", known):
            self._refuse(Refusal.BAD_REQUEST, "a line that does not end in CR LF", data)
        else:
            if not self._head_since:
                self._head_since = time.monotonic_ns()
                self._state.wheel.arm(self, self._head_since + self._state.head_ns)
            self._buffer = data

    def _skip_empty_lines(self, data: bytes) -> None:
        """Empty lines before a request line are tolerated (RFC 9112, 2.2)."""
        self._used = True
        at = 0
        while data.startswith(b"\r\n", at):
            at += 2
        if at < len(data):
            self.data_received(data[at:])

    def _request(self, data: bytes, end: int) -> None:
        state = self._state
        self._head_since = 0
        raw = data[:end]
        call = state.calls.whole.get(raw)
        if call is not None:
            length, after_peer = call.length, call.after_peer
        elif end > state.settings.max_head_bytes:
            self._refuse(Refusal.HEAD_TOO_LARGE, "the request line and headers are too large", data)
            return
        elif raw == _HTTP2 and not self._used and self.transport.get_extra_info("tls") is None:
            self._become_http2(data)
            return
        elif raw.count(b"\r\n") - 2 > state.settings.max_header_fields:
            text = f"more than {state.settings.max_header_fields} header fields"
            self._refuse(Refusal.TOO_MANY_FIELDS, text, data)
            return
        else:
            call, length, after_peer = state.calls.find(raw, state.table)
        tracer = state.tracer
        if tracer is None:
            exchange = Exchange(state, self, call, after_peer)
        else:
            exchange = TracedExchange(state, self, call, after_peer, tracer)
        self.exchange = exchange
        state.counters.requests += 1
        if call.refusal is Refusal.BAD_REQUEST:
            exchange.refuse(call.refusal, call.message)
        elif call.chunked:
            self._first_chunks(exchange, data[end:])
        else:
            self._first_body(exchange, data, end, length)

    def _become_http2(self, data: bytes) -> None:
        """The caller speaks HTTP/2 without having asked (RFC 9113, 3.3): from here on somebody else reads its bytes."""
        self.connection_lost(None)
        self._state.counters.connections -= 1
        successor = Serving(self._state)
        self.transport.set_protocol(cast("asyncio.Protocol", successor))
        successor.connection_made(self.transport)
        successor.data_received(data)

    def _first_body(self, exchange: Exchange, data: bytes, end: int, length: int) -> None:
        """Take what came of the body with the head."""
        have = len(data) - end
        if have == length:
            self._mode = _WAIT
            exchange.first_body([data[end:]] if have else [], have, complete=True)
        elif have > length:
            self._mode = _WAIT
            self._backlog = data[end + length :]
            exchange.first_body([data[end : end + length]] if length else [], length, complete=True)
        else:
            self._mode = _LENGTH
            self._left = length - have
            self._pace = self._new_pace(exchange.arrival, have)
            exchange.first_body([data[end:]] if have else [], have, complete=False)
        exchange.start()

    def _first_chunks(self, exchange: Exchange, data: bytes) -> None:
        decoder = self._decoder = Decoder()
        self._mode = _CHUNKED
        try:
            pieces, rest = decoder.feed(data)
        except BadChunk as error:
            exchange.keep_alive = False
            exchange.refuse(Refusal.BAD_REQUEST, f"malformed body: {error}")
            return
        size = sum(map(len, pieces))
        if decoder.done:
            self._mode = _WAIT
            self._backlog = rest
        else:
            self._pace = self._new_pace(exchange.arrival, size)
        exchange.first_body(pieces, size, complete=decoder.done)
        if not self._outgrows(exchange):
            exchange.start()

    def _length(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        extra = len(data) - self._left
        if extra > 0:
            self._backlog = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        if not self._left:
            self._mode = _WAIT
        exchange.body([data])
        if self._mode == _LENGTH and self._dawdles(time.monotonic_ns()):
            self._refuse_slow_body()
        elif self._mode == _WAIT and self.exchange is exchange:
            exchange.body_complete()

    def _chunked(self, data: bytes) -> None:
        exchange, decoder = self.exchange, self._decoder
        assert exchange is not None
        assert decoder is not None
        try:
            pieces, rest = decoder.feed(data)
        except BadChunk as error:
            exchange.keep_alive = False
            if exchange.first_byte:
                exchange.abandon()
            else:
                exchange.refuse(Refusal.BAD_REQUEST, f"malformed body: {error}")
            return
        if pieces:
            exchange.body(pieces)
            if self.exchange is exchange and self._outgrows(exchange):
                return
        if decoder.done and self.exchange is exchange:
            self._mode = _WAIT
            self._backlog = rest
            exchange.body_complete()
        elif self._mode == _CHUNKED and self._dawdles(time.monotonic_ns()):
            self._refuse_slow_body()

    def _keep(self, data: bytes) -> None:
        """Of the next request, while this one is not over."""
        self._backlog += data
        backlog = self._backlog
        if len(backlog) > _BACKLOG_BYTES or backlog.count(b"\r\n\r\n") > self._state.settings.max_pipelined:
            self._pause_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            self.transport.abort()

    def _refuse(self, refusal: Refusal, message: str, head: bytes) -> None:
        """Answer a request that never became one, and end the connection."""
        exchange = Exchange(self._state, self, refused(refusal, message, head), b"")
        self.exchange = exchange
        exchange.refuse(refusal, message)

    # To the caller --------------------------------------------------------------------------------------------------

    def exchange_over(self, *, close: bool, cut: bool, now: int) -> None:
        """The exchange has ended; on to the next request, or to the end."""
        self.exchange = None
        self._decoder = None
        self._used = True
        if self.transport.is_closing():
            return
        if cut:
            self.transport.abort()
        elif close or (self._ended and not self._backlog):
            self._end(now)
        elif self._backlog or self.paused:
            # Still waiting, so that bytes that come before its turn go behind the backlog.
            self._mode = _WAIT
            if self.paused:
                self._wait_for_reader()
            else:
                self._state.loop.call_soon(self._next)
        else:
            self._mode = _HEAD
            self.quiet_since = now
            self._state.wheel.arm(self, now + self._state.idle_ns)
            if self._read_paused:
                self._resume_reading()

    def ends(self) -> None:
        """What is written next is the last: under TLS our close_notify goes with it."""
        tls = self.transport.get_extra_info("tls")
        if tls is not None:
            tls.hold()

    def _wait_for_reader(self) -> None:
        """Nothing new is begun for a caller that has not read its answers."""
        self._pause_reading()
        self._state.wheel.arm(self, self.paused_since + self._state.send_ns)

    def _next(self) -> None:
        if self._mode != _WAIT or self.exchange is not None:
            return
        if self.paused:
            self._wait_for_reader()
            return
        data, self._backlog = self._backlog, b""
        if not self.transport.is_closing():
            self._mode = _HEAD
            self.quiet_since = time.monotonic_ns()
            self._state.wheel.arm(self, self.quiet_since + self._state.idle_ns)
            self._resume_reading()
            if data:
                self.data_received(data)
            if self._ended:
                self._no_more()

    def _end(self, now: int) -> None:
        """Close so that the last answer arrives, also where the caller still sends."""
        if self._mode == _HANDED_OVER:
            return  # whoever has it ends it
        if self._ended or (self._mode == _WAIT and not self._backlog):
            self._state.wheel.arm(self, now + self._state.send_ns)
            self.transport.close()
            return
        self._mode = _DISCARD
        self._backlog = b""
        self._state.wheel.arm(self, now + _LINGER_NS)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._resume_reading()

    @property
    def has_ended(self) -> bool:
        """Whether the caller sends nothing more."""
        return self._ended

    def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """It speaks HTTP no longer: from now on `protocol` hears of everything. Returns what has come already.

        `protocol` has to pass `connection_lost` on.
        """
        early, self._backlog = self._backlog, b""
        self._mode = _HANDED_OVER
        self._state.wheel.disarm(self)
        if self._watch is not None:
            self._watch.cancel()
        self.transport.set_protocol(protocol)
        self._resume_reading()
        return early

    def leave_if_idle(self, since: int) -> None:
        """The worker stops: end now if nothing has come since the monotonic time `since`.

        Any other connection ends with its next answer: a caller that is just about to send must not lose its request.
        """
        quiet = self.exchange is None and not self._buffer and not self._backlog and self._mode == _HEAD
        if quiet and self.quiet_since < since:
            self.transport.close()

    def pause_for_replica(self) -> None:
        """Stop reading: there is no room for more of the body."""
        if self._mode in (_LENGTH, _CHUNKED):
            self._pause_reading()

    def resume_for_replica(self) -> None:
        """There is room again."""
        if self._mode in (_LENGTH, _CHUNKED):
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()
            if self._pace is not None and self.exchange is not None:
                self._pace.restart(time.monotonic_ns(), self.exchange.received)

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.paused = True
        self.paused_since = time.monotonic_ns()
        self._unsent = self.unsent_bytes()
        if self.exchange is None:
            if self._mode == _HEAD:
                self._backlog, self._buffer, self._mode = self._buffer, b"", _WAIT
                self._head_since = 0
                self._wait_for_reader()
        elif self.exchange.up is not None:
            self.exchange.up.pause_reading()

    def resume_writing(self) -> None:
        """The other end has caught up."""
        self.paused = False
        if self.exchange is None:
            if self._mode == _WAIT:
                self._state.loop.call_soon(self._next)
        elif self.exchange.up is not None:
            self.exchange.up.resume_reading()

    def unsent_bytes(self) -> int:
        """What waits for the caller now."""
        return self.transport.get_write_buffer_size()

    @property
    def is_read(self) -> bool:
        """Whether it could send more."""
        return not self._read_paused

    # The end --------------------------------------------------------------------------------------------------------

    def on_deadline(self, now: int) -> None:
        """Of whatever it was waiting for."""
        if self.exchange is not None:
            if self._mode in (_LENGTH, _CHUNKED) and self._dawdles(now):
                self._refuse_slow_body()
            else:
                self.exchange.on_deadline(now)
        elif self._head_since:
            self._refuse(Refusal.SLOW_HEAD, "the request's head took too long", self._buffer)
        elif not (self.paused and self.reads_on(now)):
            self.transport.abort()

    def eof_received(self) -> bool:
        """The caller sends nothing more; it may still read (RFC 9112, 9.6)."""
        self._ended = True
        self._no_more()
        return True

    def _no_more(self) -> None:
        """Behind the caller's last byte: what is whole is answered, what is not never will be."""
        exchange, mode = self.exchange, self._mode
        if self.transport.is_closing():
            return
        if exchange is None:
            if mode == _WAIT:
                return  # the backlog's turn comes
            if mode == _HEAD and self._buffer.strip(b"\r\n"):
                self._refuse(Refusal.BAD_REQUEST, "the connection ended inside a head", self._buffer)
            else:
                self.transport.close()
        elif mode == _WAIT:
            self._watch = self._watch or Watch(self._state.loop, self.transport, self._probe)
        else:
            exchange.cut_short()

    def _probe(self) -> None:
        if self.exchange is not None:
            self.exchange.probe()

    def end_by_reset(self) -> None:
        """Let the end that comes be a break: where the end of the connection is the end of the answer."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and not self.transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            tls = self.transport.get_extra_info("tls")
            if tls is not None:
                tls.truncate()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The connection is gone."""
        self._state.connections.discard(self)
        self._state.doors.leave(self.peer, refused=self._unwelcome is not None)
        self._state.wheel.disarm(self)
        self._backlog = b""
        if self._watch is not None:
            self._watch.cancel()
        if self.exchange is not None:
            self.exchange.abandon()
