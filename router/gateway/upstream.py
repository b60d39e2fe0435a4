"""The far side: one kept-alive connection to a replica, and what answers look like on the wire.

A connection serves one exchange at a time. It goes back to its replica only after an answer whose end is certain;
bytes out of turn, nonsense or an early end close it. A machine that is gone without a word ends none of its connections: the
kernel asks those that are quiet whether anybody is there, and `is_unheard` says so of one that was sent something.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING, Final, cast

from router.gateway.calls import Switching
from router.gateway.ends import Far
from router.gateway.turns import LARGE_PIECE
from router.policy.chunked import MOST_PIECES, BadChunk, Decoder
from router.policy.grammar import may_begin_response
from router.policy.retrying import Failure

if TYPE_CHECKING:
    from router.gateway.calls import Answer
    from router.gateway.exchange import Exchange
    from router.gateway.target import Target

_LOG = logging.getLogger(__name__)
MAX_HEAD_BYTES: Final = 65536
_QUIET_SECONDS = 3
LOOK_NS: Final = _QUIET_SECONDS * 1_000_000_000
"""Between two looks at a connection that owes an answer; one that is quiet for as long is asked by the kernel."""
_UNHEARD_MS = 5000
"""What was sent and not acknowledged for so long has met nobody."""
_UNANSWERED = 3
"""Questions of the kernel without an answer that are the end of a connection."""
_PER_SECOND = 1000
"""Connections that may be asked at the usual pace. Of very many that are quiet each is asked more seldom: fifty thousand
questions a second are work, and where they get lost, connections end that were well.
"""
_INFO_BYTES, _RETRANSMITS, _LAST_ACK_MS = 60, 2, slice(56, 60)
"""Of Linux' `struct tcp_info`: how often the same was sent again, and how long ago anything was acknowledged."""
_MOST_INTERIM: Final = 32
"""Interim answers to one request; they prolong no deadline, but each is work."""
_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_UNTIL_CLOSE: Final = 4


def ask_whether_alive(transport: asyncio.BaseTransport, connections: int) -> None:
    """Let the kernel ask the other end when it is quiet: one of so many `connections` to replicas."""
    # TCP_USER_TIMEOUT would do it with one number, but it also ends connections to a replica that is there and does not read.
    pace = 1 + connections // _PER_SECOND
    end = transport.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS * pace)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pace)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _UNANSWERED)


def is_unheard(transport: asyncio.Transport) -> bool:
    """Whether what was sent is sent again and again, and nobody has acknowledged anything for seconds."""
    end = transport.get_extra_info("socket")
    told = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    return bool(told[_RETRANSMITS]) and int.from_bytes(told[_LAST_ACK_MS], sys.byteorder) >= _UNHEARD_MS


class Upstream(Far):
    """One connection to a replica; a protocol by its methods alone, so that it can be compiled."""

    __slots__ = ("_buffer", "_decoder", "_interim", "_left", "_mode", "_rest", "_resting", "_reusable", "_usual", "held_back", "used")  # fmt: skip

    def __init__(self, target: Target) -> None:
        self.target = target
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.exchange: Exchange | None = None
        self.used = False
        """Whether it has carried an exchange before: then an early end may only mean that it was stale."""
        self.held_back = False
        self.paused = False
        """Whether the replica reads slower than the caller sends."""
        self._mode = _IDLE
        self._buffer = b""
        self._left = 0
        self._decoder: Decoder | None = None
        self._rest = b""
        """Of a chunked body, what is for a later turn of the loop."""
        self._resting = False
        """Nothing is read before its next turn."""
        self._reusable = True
        self._interim = 0
        self._usual = 0
        """Where the last head ended, if it was one that had come before; 0: it was not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)
        self.target.joined(self)
        ask_whether_alive(transport, self.target.upstreams)

    def is_unheard(self) -> bool:
        """Whether what was sent is sent again and again, and nobody has acknowledged anything for seconds."""
        return is_unheard(self.transport)

    def carry(self, exchange: Exchange) -> None:
        """Expect the answer of `exchange`, whose request is about to be written."""
        self.exchange = exchange
        self._mode = _HEAD
        self._interim = 0

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        exchange = self.exchange
        if exchange is None:
            self.close()
            return
        mode = self._mode
        if mode == _HEAD:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._head(exchange, data)
        elif mode == _UNTIL_CLOSE:
            exchange.reply.relay([data])
        else:
            self._body(exchange, data)
        if len(data) >= LARGE_PIECE and self.exchange is exchange and not self._rest:
            self._pause_for_others()

    def _head(self, exchange: Exchange, data: bytes) -> None:
        end = self._usual
        if end:  # where it is that one again, nobody has to search for its end
            raw = data[:end]
            known = self.target.answers.get(raw)
            if known is not None and known.status >= 200:
                self._begin(exchange, known, raw, data)
                return
            self._usual = 0
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._partial(exchange, data)
                return
            raw = data[:end]
            answer = self.target.answers.get(raw)
            if answer is None:
                try:
                    answer = self.target.understand(raw)
                except Switching as switching:
                    self._switch(exchange, switching, data[end:])
                    return
                except ValueError as error:
                    self._nonsense(exchange, str(error))
                    return
            elif answer.status >= 200:
                self._usual = end
            if answer.status >= 200:
                break
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                self._nonsense(exchange, "endless interim answers")
                return
            exchange.reply.interim(answer)
            data = data[end:]
        self._begin(exchange, answer, raw, data)

    def _begin(self, exchange: Exchange, answer: Answer, raw: bytes, data: bytes) -> None:
        """An answer: `data` begins with its head `raw`."""
        end = len(raw)
        self._frame(exchange, answer)
        exchange.answer(answer, raw, self)
        if self._mode == _LENGTH and self._left == len(data) - end:
            if self._left:
                exchange.reply.relay_whole(data[end:])
            self._complete(exchange, clean=True)
        elif len(data) > end:
            self._more(exchange, data[end:])
        else:
            exchange.reply.flush_head()

    def _partial(self, exchange: Exchange, data: bytes) -> None:
        """Not a whole head yet."""
        if len(data) > MAX_HEAD_BYTES:
            self._nonsense(exchange, "an endless head")
        elif not may_begin_response(data):
            self._nonsense(exchange, "not a status line and lines that end in CR LF")
        else:
            self._buffer = data

    def _frame(self, exchange: Exchange, answer: Answer) -> None:
        """Where the body will end (RFC 9112, 6.3)."""
        self._reusable = not answer.closes
        if exchange.call.method == b"HEAD" or answer.status in (204, 304):
            self._mode, self._left = _LENGTH, 0
            if answer.length or answer.chunked:
                # There must be no body, but a model that writes one all the same must not write it to the next caller.
                self._reusable = False
        elif answer.length is not None:
            self._mode, self._left = _LENGTH, answer.length
        elif answer.chunked:
            self._mode, self._decoder = _CHUNKED, Decoder()
        else:
            self._mode, self._reusable = _UNTIL_CLOSE, False

    def _more(self, exchange: Exchange, data: bytes) -> None:
        """The first of a body that did not come whole with its head."""
        if self._mode == _UNTIL_CLOSE:
            exchange.reply.relay([data])
        elif self._mode == _LENGTH and not self._left:
            self._complete(exchange, clean=False)
        else:
            self._body(exchange, data)

    def _body(self, exchange: Exchange, data: bytes) -> None:
        if self._mode == _LENGTH:
            extra = len(data) - self._left
            if extra > 0:
                data = data[: self._left]
            self._left -= len(data)
            exchange.reply.relay([data])
            if self._left == 0 and self.exchange is exchange:
                self._complete(exchange, clean=extra <= 0)
            return
        if self._rest:
            self._later(self._rest + data)
            return
        decoder = self._decoder
        assert decoder is not None
        size = decoder.whole(data)
        if size:
            exchange.reply.relay_chunk(data, size)
            return
        try:
            pieces, rest = decoder.feed(data, MOST_PIECES)
        except BadChunk as error:
            self._nonsense(exchange, str(error))
            return
        if pieces:
            exchange.reply.relay(pieces)
        else:
            exchange.reply.flush_head()
        if self.exchange is not exchange:
            return
        if decoder.done:
            self._complete(exchange, clean=not rest)
        elif rest:
            self._later(rest)

    def _pause_for_others(self) -> None:
        """Large pieces of a body are read one in each turn: the rest stays in the kernel until then."""
        if not self._resting and not self.transport.is_closing():
            self._resting = True
            if not self.held_back:
                self.transport.pause_reading()
            self.target.turns.add(self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self.held_back and not self._rest and not self.transport.is_closing():
            self.transport.resume_reading()

    def _later(self, rest: bytes) -> None:
        """So many chunks are work for further turns of the loop; nothing more is read before."""
        if not self._rest:
            asyncio.get_running_loop().call_soon(self._go_on)
        self._rest = rest
        self.transport.pause_reading()

    def _go_on(self) -> None:
        rest, self._rest = self._rest, b""
        if self.exchange is not None and self._mode == _CHUNKED and not self.transport.is_closing():
            self._body(self.exchange, rest)
            if not self._rest and not self.held_back and not self.transport.is_closing():
                self.transport.resume_reading()

    def _complete(self, exchange: Exchange, *, clean: bool) -> None:
        self.exchange = None
        self._mode = _IDLE
        self.used = True
        self._decoder = None
        if clean and self._reusable and exchange.request.complete and not self.paused:
            if self.held_back:  # by a caller that is still to read the last bytes: the next one must not find it deaf
                self.resume_reading()
            self.target.give_back(self)
        else:
            self.close()
        exchange.answered()

    def _switch(self, exchange: Exchange, switching: Switching, early: bytes) -> None:
        try:
            agreement = switching.agreement(exchange.call.websocket)
        except ValueError as error:
            self._nonsense(exchange, str(error))
        else:
            exchange.switch(self, switching, agreement, early)

    def _nonsense(self, exchange: Exchange, why: str) -> None:
        self.exchange = None
        self.close()
        _LOG.warning("a replica answered nonsense", extra={"replica": self.target.id, "why": why})
        exchange.upstream_failed(Failure.NONSENSE)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """It speaks HTTP no longer: from now on `protocol` hears of everything, and passes `connection_lost` on."""
        self.exchange = None
        self.resume_reading()
        self.transport.set_protocol(protocol)

    def pause_reading(self) -> None:
        """The caller reads slower than the replica sends."""
        if not self.held_back and not self.transport.is_closing():
            self.held_back = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The caller has caught up."""
        if self.held_back and not self.transport.is_closing():
            self.held_back = False
            if not self._rest and not self._resting:
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.paused = True
        if self.exchange is not None:
            self.exchange.down.pause_for_replica()

    def resume_writing(self) -> None:
        """The other end has caught up."""
        self.paused = False
        if self.exchange is not None:
            self.exchange.down.resume_for_replica()

    def eof_received(self) -> bool:
        """The replica sends nothing more: nothing can be asked of it either."""
        while self._rest:
            self._go_on()
        return False

    def close(self) -> None:
        """End it now, whatever it was doing."""
        self.target.forget(self)
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.target.lost(self)
        exchange, self.exchange = self.exchange, None
        if isinstance(exc, TimeoutError):  # nobody answered the kernel's questions
            self.target.standing.unreachable()
        if exchange is None:
            return
        if self._mode == _UNTIL_CLOSE and exc is None:
            exchange.answered()
        elif self._mode == _HEAD:
            stale = self.used and not self._buffer and not self._interim
            exchange.upstream_failed(Failure.STALE if stale else Failure.DIED)
        else:
            exchange.upstream_failed(Failure.DIED)
