"""What one caller sends over HTTP/1.1: bytes cut into heads and bodies, each head a request. What comes before its turn waits.

Heads are judged by a strict parser and then by `policy.headers`; where a request has no single meaning, the answer is
400 and the connection ends. Pipelined requests wait in a bounded backlog. Whose bytes they are (`down`) is told with each call:
the two would hold each other for ever otherwise.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from router.gateway.calls import refused
from router.gateway.exchange import Exchange
from router.gateway.responses import Refusal
from router.gateway.tracing import TracedExchange
from router.gateway.turns import LARGE_HEAD
from router.policy.chunked import MOST_PIECES, BadChunk, Decoder

if TYPE_CHECKING:
    from router.gateway.calls import Call
    from router.gateway.downstream import Downstream
    from router.gateway.state import State

HEAD: Final = 0
"""A head is next, or the rest of one."""
LENGTH: Final = 1
"""So many bytes of a body are."""
CHUNKED: Final = 2
"""A body in chunks is."""
WAIT: Final = 3
"""The request has wholly come; what comes now is the next one's."""
DISCARD: Final = 4
"""The last answer has been given: nothing that comes matters."""
UNWELCOME: Final = 5
"""Whatever is asked for is refused."""
HANDED_OVER: Final = 6
"""Somebody else reads."""
_BAD_REQUEST: Final = Refusal.BAD_REQUEST
_LINGER_BYTES: Final = 16 << 20
_BACKLOG_BYTES: Final = 65536
_EMPTY_BYTES: Final = 1024
"""Of empty lines that come in one piece before a request line: they are cheap to send, and each is looked at."""
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""With which the preface of HTTP/2 begins; to HTTP/1.1 it is a head."""


class Intake:
    """Of one connection."""

    __slots__ = (
        "_decoder",
        "_discarded",
        "_large",
        "_left",
        "_state",
        "_used",
        "_usual",
        "backlog",
        "head_since",
        "held",
        "mode",
        "rest",
    )

    def __init__(self, state: State) -> None:
        self._state = state
        self.mode = HEAD
        self.held = b""
        """Of a head that has not wholly come."""
        self.head_since = 0
        """When its first bytes came; 0: there are none."""
        self.backlog = b""
        """Of the requests behind the one that is under way."""
        self.rest = b""
        """Of a chunked body, what is for a later turn of the loop."""
        self._left = 0
        self._decoder: Decoder | None = None
        self._discarded = 0
        self._used = False
        """It has begun with HTTP/1.1, and stays with that."""
        self._usual = 0
        """Where the last head ended, if it was one that had come before; 0: it was not."""
        self._large = 0
        """Where a head ends that waits for its turn; 0: none does."""

    def take(self, down: Downstream, data: bytes) -> None:
        """Bytes from the caller."""
        mode = self.mode
        if mode == HEAD:
            if self.held:
                self._more_of_a_head(down, data)
            elif not self._usual or not self._comes_again(down, data, self._usual):
                self._head(down, data, self._large or data.find(b"\r\n\r\n") + 4, 0)
        elif mode == LENGTH:
            self._length(down, data)
        elif mode == CHUNKED:
            self._chunked(down, data)
        elif mode == WAIT:
            self._keep(down, data)
        elif mode == DISCARD:
            self._discard(down, data)
        else:
            assert down.unwelcome is not None
            self.refuse(down, down.unwelcome, "there are too many connections", data)

    def refuse(self, down: Downstream, refusal: Refusal, message: str, head: bytes) -> None:
        """Answer a request that never became one, and end the connection."""
        exchange = Exchange(self._state, down, refused(refusal, message, head), b"")
        down.exchange = exchange
        exchange.refuse(refusal, message)

    def request_over(self) -> None:
        """The request is answered, or never will be."""
        self._decoder = None
        self._used = True

    def wait(self) -> None:
        """Begin nothing: what has come of a head goes to the backlog."""
        self.backlog, self.held, self.mode = self.held, b"", WAIT
        self.head_since = 0

    def take_backlog(self) -> bytes:
        """What has come of the requests behind; it is the caller's of this from now on."""
        backlog, self.backlog = self.backlog, b""
        return backlog

    def is_idle(self) -> bool:
        """Whether it is between two requests, and nothing of the next has come."""
        return self.mode == HEAD and not self.held and not self.backlog

    def takes_body(self) -> bool:
        """Whether more of a body is to come."""
        return self.mode in (LENGTH, CHUNKED)

    # Heads ----------------------------------------------------------------------------------------------------------

    def _comes_again(self, down: Downstream, data: bytes, end: int) -> bool:
        """Whether it begins with a head that is known and ends at `end`: nobody has to search for where it ends."""
        raw = data[:end]
        call = self._state.calls.whole.get(raw)
        if call is None:
            return False
        self.head_since = 0  # an empty line before it may have come in pieces
        # It may be all that has come, and shorter.
        self._begin(down, data, len(raw), call, call.length, call.after_peer)
        return True

    def _more_of_a_head(self, down: Downstream, data: bytes) -> None:
        """Behind what has been looked at before: only once per byte, or a head in many pieces would cost its square."""
        known = self.held
        data = known + data
        self.held = b""
        end = data.find(b"\r\n\r\n", max(0, len(known) - 3)) + 4
        self._head(down, data, end, len(known) - known.endswith(b"\r"))

    def _head(self, down: Downstream, data: bytes, end: int, known: int) -> None:
        """A head that ends at `end`; below 4: it does not yet, and its first `known` bytes have been here before."""
        if end < 4:
            self._partial(down, data, known)
        elif data.startswith(b"\r\n"):
            self._skip_empty_lines(down, data)
        else:
            self._request(down, data, end)

    def _partial(self, down: Downstream, data: bytes, known: int) -> None:
        if len(data) > self._state.settings.max_head_bytes:
            self.refuse(down, Refusal.HEAD_TOO_LARGE, "the request line and headers are too large", data)
        elif data.count(b"\n", known) != data.count(b"\r\n", known):
            self.refuse(down, Refusal.BAD_REQUEST, "a line that does not end in CR LF", data)
        else:
            if not self.head_since:
                self.head_since = time.monotonic_ns()
                self._state.wheel.arm(down, self.head_since + self._state.head_ns)
            self.held = data

    def _skip_empty_lines(self, down: Downstream, data: bytes) -> None:
        """Empty lines before a request line are tolerated (RFC 9112, 2.2)."""
        self._used = True
        at = 0
        while at < _EMPTY_BYTES and data.startswith(b"\r\n", at):
            at += 2
        if at >= _EMPTY_BYTES:
            self.refuse(down, Refusal.BAD_REQUEST, "endless empty lines before the request line", data)
        elif at < len(data):
            self.take(down, data[at:])

    def _request(self, down: Downstream, data: bytes, end: int) -> None:
        state = self._state
        self.head_since = 0
        if end > LARGE_HEAD:
            if self._large != end:
                self._wait_for_turn(down, data, end)
                return
            self._large = 0
        raw = data[:end]
        call = state.calls.whole.get(raw)
        if call is not None:
            self._usual = end
            self._begin(down, data, end, call, call.length, call.after_peer)
            return
        self._usual = 0
        if end > state.settings.max_head_bytes:
            self.refuse(down, Refusal.HEAD_TOO_LARGE, "the request line and headers are too large", data)
        elif raw == _HTTP2 and not self._used and down.transport.get_extra_info("tls") is None:
            down.become_http2(data)
        elif raw.count(b"\n") - 2 > state.settings.max_header_fields:
            text = f"more than {state.settings.max_header_fields} header fields"
            self.refuse(down, Refusal.TOO_MANY_FIELDS, text, data)
        else:
            call, length, after_peer = state.calls.find(raw, state.table)
            self._begin(down, data, end, call, length, after_peer)

    def _wait_for_turn(self, down: Downstream, data: bytes, end: int) -> None:
        """So large a head takes long: nothing more is read before its turn."""
        self._large = end
        self.backlog = data
        self.mode = WAIT
        down.pause_reading()
        self._state.wheel.arm(down, time.monotonic_ns() + self._state.head_ns)
        self._state.turns.add(down.next_request)

    def _begin(  # noqa: PLR0917 -- once per request: keywords would cost as much as a look-up
        self, down: Downstream, data: bytes, end: int, call: Call, length: int, after_peer: bytes
    ) -> None:
        """A request: its head ends at `end` and makes `call`; length of the body, end of the head for the replica."""
        state = self._state
        tracer = state.tracer
        if tracer is None:
            exchange = Exchange(state, down, call, after_peer)
        else:
            exchange = TracedExchange(state, down, call, after_peer, tracer)
        down.exchange = exchange
        state.counters.requests += 1
        if call.refusal is _BAD_REQUEST:
            exchange.refuse(call.refusal, call.message)
        elif call.chunked:
            self._first_chunks(down, exchange, data[end:])
        else:
            self._first_body(down, exchange, data, end, length)

    # Bodies ---------------------------------------------------------------------------------------------------------

    def _first_body(self, down: Downstream, exchange: Exchange, data: bytes, end: int, length: int) -> None:
        """Take what came of the body with the head."""
        have = len(data) - end
        if have == length:
            self.mode = WAIT
            exchange.first_body([data[end:]] if have else [], have, complete=True)
        elif have > length:
            self.mode = WAIT
            self.backlog = data[end + length :]
            exchange.first_body([data[end : end + length]] if length else [], length, complete=True)
        else:
            self.mode = LENGTH
            self._left = length - have
            down.expect_body(exchange.arrival, have)
            exchange.first_body([data[end:]] if have else [], have, complete=False)
        exchange.start()

    def _first_chunks(self, down: Downstream, exchange: Exchange, data: bytes) -> None:
        decoder = self._decoder = Decoder()
        self.mode = CHUNKED
        try:
            pieces, rest = decoder.feed(data, MOST_PIECES)
        except BadChunk as error:
            exchange.keep_alive = False
            exchange.refuse(Refusal.BAD_REQUEST, f"malformed body: {error}")
            return
        size = sum(map(len, pieces))
        if decoder.done:
            self.mode = WAIT
            self.backlog = rest
        else:
            down.expect_body(exchange.arrival, size)
        exchange.first_body(pieces, size, complete=decoder.done)
        if not down.outgrows(exchange):
            exchange.start()
            if rest and self.mode == CHUNKED:
                self._later(down, rest)

    def _length(self, down: Downstream, data: bytes) -> None:
        exchange = down.exchange
        assert exchange is not None
        extra = len(data) - self._left
        if extra > 0:
            self.backlog = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        if not self._left:
            self.mode = WAIT
        exchange.body([data])
        if self.mode == LENGTH and down.dawdles(time.monotonic_ns()):
            down.refuse_slow_body()
        elif self.mode == WAIT and down.exchange is exchange:
            exchange.body_complete()

    def _chunked(self, down: Downstream, data: bytes) -> None:
        if self.rest:
            self._later(down, self.rest + data)
            return
        exchange, decoder = down.exchange, self._decoder
        assert exchange is not None
        assert decoder is not None
        try:
            pieces, rest = decoder.feed(data, MOST_PIECES)
        except BadChunk as error:
            exchange.keep_alive = False
            if exchange.first_byte:
                exchange.abandon()
            else:
                exchange.refuse(Refusal.BAD_REQUEST, f"malformed body: {error}")
            return
        if pieces:
            exchange.body(pieces)
            if down.exchange is exchange and down.outgrows(exchange):
                return
        if decoder.done and down.exchange is exchange:
            self.mode = WAIT
            self.backlog = rest
            exchange.body_complete()
        elif rest and self.mode == CHUNKED:
            self._later(down, rest)
        elif self.mode == CHUNKED and down.dawdles(time.monotonic_ns()):
            down.refuse_slow_body()

    def _later(self, down: Downstream, rest: bytes) -> None:
        """So many chunks are work for further turns of the loop; nothing more is read before."""
        if not self.rest:
            self._state.loop.call_soon(self._go_on, down)
        self.rest = rest
        down.pause_reading()

    def _go_on(self, down: Downstream) -> None:
        rest, self.rest = self.rest, b""
        exchange = down.exchange
        if self.mode != CHUNKED or exchange is None or down.transport.is_closing():
            return
        self._chunked(down, rest)
        if not self.rest:
            # A replica that is behind, or not there yet, has its word when it has room.
            if self.mode != CHUNKED or (exchange.up is not None and not exchange.up.paused):
                down.resume_reading()
            if down.has_ended:
                down.no_more()

    # What is not a request's ----------------------------------------------------------------------------------------

    def _keep(self, down: Downstream, data: bytes) -> None:
        """Of the next request, while this one is not over."""
        self.backlog += data
        backlog = self.backlog
        if len(backlog) > _BACKLOG_BYTES or backlog.count(b"\r\n\r\n") > self._state.settings.max_pipelined:
            down.pause_reading()

    def _discard(self, down: Downstream, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES:
            down.transport.abort()
