"""A caller's stream: one request and its answer, beside others on the same connection.

What the exchange writes is HTTP/1.1, as for any caller; here its head becomes a block of fields and its body DATA. An answer
that is whole ends the stream, one that is broken off resets it, so that nobody takes it for a whole one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from router.gateway.exchange import Exchange
from router.gateway.http2 import grpc
from router.gateway.keeping_up import Caller
from router.gateway.responses import Refusal
from router.gateway.timers import NEVER
from router.policy.chunked import Decoder
from router.runtime.http2 import packing
from router.runtime.http2.channel import Channel
from router.runtime.http2.frames import Code, Field

if TYPE_CHECKING:
    from router.gateway.http2.serving import Serving
    from router.gateway.state import State

_HEAD, _LENGTH, _CHUNKED, _UNTIL_OVER, _DONE = range(5)


class Stream(Caller):
    """What the exchange knows as its caller."""

    __slots__ = ("answering", "grpc", "left")

    def __init__(self, state: State, session: Serving, number: int) -> None:
        self._state = state
        self.answering = Answering(session, number, self)
        self.transport = cast("asyncio.Transport", self.answering)
        self.exchange: Exchange | None = None
        self.peer = session.peer
        self.deadline = NEVER
        self.slot = NEVER
        self.paused = False
        self.paused_since = 0
        self.grpc = False
        self.left = -1
        """Bytes of the body that must still come; -1: as many as do."""
        self._pace = None
        self._unsent = 0

    def expect(self, length: int, now: int) -> None:
        """A body follows: so many bytes, or (-1) any number."""
        self.left = length
        self.expect_body(now, 0)

    def pause_for_replica(self) -> None:
        """There is no room for more of the body."""
        self.answering.hold_back()

    def resume_for_replica(self) -> None:
        """There is room again."""
        if self._pace is not None and self.exchange is not None and not self.is_read:
            self._pace.restart(time.monotonic_ns(), self.exchange.received)
        self.answering.go_on()

    @property
    def is_read(self) -> bool:
        """Whether the caller could send more."""
        return not self.answering.held_back

    def end_by_reset(self) -> None:
        """Every end that comes too early is one here."""

    def says(self, refusal: Refusal, message: str, fields: bytes) -> bool:
        """Tell a caller of gRPC in its own words."""
        exchange = self.exchange
        if not self.grpc or exchange is None:
            return False
        label = exchange.lane.label if exchange.lane is not None else b""
        lines = b"".join((b"x-request-id: ", exchange.request_id, b"\r\n", label, fields, self._state.date))
        self.answering.tell(grpc.refused(refusal, message, lines))
        return True

    def take(self, body: bytes, *, ended: bool) -> None:
        """Of the request's body."""
        exchange = self.exchange
        if exchange is None:
            return
        if self.left >= 0:
            self.left -= len(body)
            if self.left < 0 or (ended and self.left):
                self._malformed(exchange)
                return
        if body:
            exchange.body([body])
        if self.exchange is not exchange or self.outgrows(exchange):
            return
        if ended:
            exchange.body_complete()
        elif self.dawdles(time.monotonic_ns()):
            self.refuse_slow_body()

    def dawdles(self, now: int) -> bool:
        """Whether the body comes too slowly."""
        return not self.answering.heard_end and super().dawdles(now)

    def _malformed(self, exchange: Exchange) -> None:
        if exchange.first_byte:
            exchange.abandon()
        else:
            exchange.refuse(
                Refusal.BAD_REQUEST, "malformed body: its length is not the one that Content-Length announced"
            )
        self.answering.session.strike()

    def exchange_over(self, *, close: bool, cut: bool, now: int) -> None:  # noqa: ARG002 -- a stream ends in any case
        """The exchange has ended."""
        self.exchange = None
        answering = self.answering
        answering.finish(cut=cut, grpc_call=self.grpc)
        if answering.unsent:
            self._state.wheel.arm(self, now + self._state.send_ns)
        else:
            self._state.wheel.disarm(self)

    def on_deadline(self, now: int) -> None:
        """The exchange's, or that of a caller who does not take the rest of the answer."""
        if self.exchange is not None:
            if self.dawdles(now):
                self.refuse_slow_body()
            else:
                self.exchange.on_deadline(now)
        elif not (self.paused and self.reads_on(now)):
            self.answering.reset(Code.CANCEL)

    def unsent_bytes(self) -> int:
        """What waits for the caller now."""
        return self.answering.unsent

    def settle(self) -> None:
        """The last of the answer is on its way."""
        self._state.wheel.disarm(self)

    def gone(self) -> None:
        """The caller has taken the request back, or has left."""
        self._state.wheel.disarm(self)
        if self.exchange is not None:
            self.exchange.abandon()

    def slow(self, *, paused: bool) -> None:
        """Whether the caller reads slower than the answer comes."""
        self.paused = paused
        exchange = self.exchange
        if paused:
            self.paused_since, self._unsent = time.monotonic_ns(), self.unsent_bytes()
        if exchange is not None and exchange.up is not None:
            if paused:
                exchange.up.pause_reading()
            else:
                exchange.up.resume_reading()


class Answering(Channel):
    """The wire below it: HTTP/1.1 in, frames out."""

    __slots__ = ("_decoder", "_left", "_near", "_phase", "_well", "is_head", "trailers")

    def __init__(self, session: Serving, number: int, near: Stream) -> None:
        super().__init__(session, number)
        self._near = near
        self._phase = _HEAD
        self._left = 0
        self._decoder: Decoder | None = None
        self._well = False
        """It is answered, and not by an error."""
        self.is_head = False
        """The request is HEAD."""
        self.trailers = b""
        """What stands behind the body, packed."""

    # Out ------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Of the answer, in HTTP/1.1: heads as a whole, body in any pieces."""
        if self._phase == _HEAD:
            end = data.find(b"\r\n\r\n") + 4
            self._head(data[:end])
            data = data[end:]
        if not data or self.gone:
            return
        if self._phase == _LENGTH:
            self._left -= len(data)
            if self._left <= 0:
                self._phase = _DONE
            self.send(data, None if self._left > 0 else self.trailers)
        elif self._phase == _CHUNKED:
            self._unchunk(data)
        elif self._phase == _UNTIL_OVER:
            self.send(data)

    def _head(self, head: bytes) -> None:
        lines = head[:-4].split(b"\r\n")
        status = int(lines[0][9:12])
        block = [packing.status(status)]
        length, chunked = -1, False
        for line in lines[1:]:
            # The exchange writes these itself, in lower case; a replica's own have ended before.
            if line.startswith(b"transfer-encoding: "):
                chunked = True
            elif not line.startswith(b"connection: "):
                block.append(packing.line(line))
                if line.startswith(b"content-length: "):
                    length = int(line[16:])
        if status < 200:
            self.send_head(b"".join(block))
            return
        self._well = status < 400
        empty = self.is_head or status in (204, 304) or length == 0
        self._phase = _DONE if empty else _LENGTH if length > 0 else _CHUNKED if chunked else _UNTIL_OVER
        self._left = length
        self._decoder = Decoder() if self._phase == _CHUNKED else None
        self.send_head(b"".join(block), last=empty)

    def _unchunk(self, data: bytes) -> None:
        assert self._decoder is not None
        pieces, _ = self._decoder.feed(data)
        done = self._decoder.done
        if done:
            self._phase = _DONE
        if pieces or done:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.send(body, self.trailers if done else None)

    def tell(self, block: bytes) -> None:
        """These fields are the whole answer."""
        self._phase = _DONE
        self.send_head(block, last=True)

    def finish(self, *, cut: bool, grpc_call: bool) -> None:
        """Nothing more will be written."""
        if self.gone:
            return
        if cut or self._phase != _DONE:
            if self._phase == _UNTIL_OVER and not cut:
                self._phase = _DONE
                self.send(b"", self.trailers)
            elif grpc_call and self._phase in (_CHUNKED, _UNTIL_OVER):
                self._phase = _DONE
                self.send(b"", grpc.ending(grpc.UNAVAILABLE, "the answer broke off"))
            else:
                self.reset(Code.INTERNAL_ERROR)
                return
        if self.sent_end:
            self._stop_caller()

    def _stop_caller(self) -> None:
        """Wholly answered, in front of whatever is still to come of the request (RFC 9113, 8.1)."""
        if not self.heard_end:
            self.reset(Code.NO_ERROR)

    def stuck(self) -> None:
        """The caller has no room."""
        self._near.slow(paused=True)

    def unstuck(self) -> None:
        """It has caught up."""
        self._near.slow(paused=False)

    def ended(self) -> None:
        """The answer's last byte is on its way; the exchange may not have said yet that it is over."""
        if self._well:
            self.session.good()
        if self._near.exchange is None:
            self._near.settle()
            self._stop_caller()

    # In -------------------------------------------------------------------------------------------------------------

    def data(self, body: bytes, *, ended: bool) -> None:
        """Of the request's body."""
        self._near.take(body, ended=ended)

    def fields(self, fields: list[Field], *, ended: bool) -> None:
        """Behind the body. Nobody who speaks HTTP/1.1 would get them, and gRPC has none."""
        if not ended or any(name.startswith(b":") for name, _ in fields):
            self.fail(Code.PROTOCOL_ERROR)
        else:
            self._near.take(b"", ended=True)

    def broken(self, code: Code | None, *, processed: bool) -> None:  # noqa: ARG002 -- a caller needs no reason
        """The caller has taken the request back, or has left."""
        self._near.gone()
