"""A replica's stream: one exchange on a connection that carries others beside it.

What the exchange writes is HTTP/1.1, as to any replica; here its head becomes a block of fields and its body DATA. The answer
comes back as a head of HTTP/1.1 that is judged like any replica's; trailers go past the exchange to a caller that can take them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, cast

from router.gateway.ends import Far
from router.gateway.http2 import grpc
from router.gateway.http2.stream import Stream
from router.gateway.timers import NEVER
from router.policy.chunked import Decoder
from router.policy.fields import answer_head, timeout_of, trailers
from router.policy.headers import BadHead
from router.policy.retrying import Failure
from router.runtime.http2 import packing
from router.runtime.http2.channel import Channel
from router.runtime.http2.frames import Code, Field

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.http2.calling import Calling
    from router.gateway.http2.target import Http2Target

_LOG = logging.getLogger(__name__)
_TIMEOUT = b"\r\ngrpc-timeout: "
_MOST_INTERIM = 32
"""Interim answers to one request; they prolong no deadline, but each is work."""


class Carried(Far):
    """What the exchange knows as its replica."""

    __slots__ = ("asking", "session")

    def __init__(self, target: Http2Target, session: Calling) -> None:
        self.target = target
        self.session = session
        self.exchange: Exchange | None = None
        self.paused = False
        self.asking = Asking(session, self)
        self.transport = cast("asyncio.Transport", self.asking)

    def carry(self, exchange: Exchange) -> None:
        """Expect the answer of `exchange`, whose request is about to be written."""
        self.exchange = exchange

    def is_unheard(self) -> bool:
        """Whether nobody has acknowledged for seconds what was sent."""
        return self.session.is_unheard()

    def pause_reading(self) -> None:
        """The caller reads slower than the replica sends."""
        self.asking.hold_back()

    def resume_reading(self) -> None:
        """The caller has caught up."""
        self.asking.go_on()

    def close(self) -> None:
        """End it now; the connection stays."""
        self.asking.reset(Code.CANCEL)

    def slow(self, *, paused: bool) -> None:
        """Whether the replica reads slower than the caller sends."""
        self.paused = paused
        if self.exchange is not None:
            if paused:
                self.exchange.down.pause_for_replica()
            else:
                self.exchange.down.resume_for_replica()

    def head(self, fields: list[Field], *, ended: bool) -> bool:
        """The answer's, or one before it; whether it makes sense."""
        exchange = self.exchange
        if exchange is None:
            return True
        try:
            raw = answer_head(fields, ended=ended, head_only=exchange.call.method == b"HEAD")
            answer = self.target.answers.get(raw) or self.target.understand(raw)
        except ValueError as error:
            self.nonsense(str(error))
            return False
        if answer.status >= 200:
            empty = exchange.call.method == b"HEAD" or answer.status in (204, 304)
            length = 0 if empty else answer.length
            if ended and length:
                self.nonsense("a body that was announced and does not come")
                return False
            self.asking.answered = True
            self.asking.left = -1 if length is None else length
            exchange.answer(answer, raw, self)
            if not ended:
                exchange.reply.flush_head()
        elif ended or self.asking.interim >= _MOST_INTERIM:
            self.nonsense("endless interim answers, or nothing else")
            return False
        else:
            self.asking.interim += 1
            exchange.reply.interim(answer)
        return True

    def behind(self, fields: list[Field]) -> None:
        """The answer's trailers, or its head where that is all there is: whether gRPC says that the model failed."""
        exchange = self.exchange
        if exchange is None:
            return
        for name, value in fields:
            if name == b"grpc-status":
                exchange.reply.model_failed(grpc.failed_status(value))

    def pass_trailers(self, fields: list[Field]) -> None:
        """To a caller that can take them, and to the mirror."""
        if self.exchange is not None:
            self.exchange.reply.mirror_trailers(fields)
        down = self.exchange.down if self.exchange is not None else None
        if isinstance(down, Stream):
            down.answering.trailers = packing.block(fields)

    def nonsense(self, why: str) -> None:
        """The replica answers what is no answer."""
        exchange, self.exchange = self.exchange, None
        self.asking.reset(Code.PROTOCOL_ERROR)
        _LOG.warning("a replica answered nonsense", extra={"replica": self.target.id, "why": why})
        if exchange is not None:
            exchange.upstream_failed(Failure.NONSENSE)

    def complete(self) -> None:
        """The answer's last byte is here."""
        exchange, self.exchange = self.exchange, None
        if not self.asking.sent_end:
            self.asking.reset(Code.NO_ERROR)  # whatever is still to come of the request is of no use
        if exchange is not None:
            exchange.answered()

    def failed(self, failure: Failure) -> None:
        """It is over, in the middle."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.upstream_failed(failure)


class Asking(Channel):
    """The wire below it: HTTP/1.1 in, frames out."""

    __slots__ = ("_decoder", "_far", "_unsent_body", "answered", "interim", "left")

    def __init__(self, session: Calling, far: Carried) -> None:
        super().__init__(session, 0)
        self._far = far
        self._decoder: Decoder | None = None
        self._unsent_body = 0
        """Of a request with a length."""
        self.answered = False
        """The answer's head has come."""
        self.interim = 0
        self.left = -1
        """Bytes of the answer's body that must still come; -1: as many as do."""

    # Out ------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Of the request, in HTTP/1.1: the head as a whole, body in any pieces."""
        if not self.id:
            end = data.find(b"\r\n\r\n") + 4
            self._head(data[:end])
            data = data[end:]
        if not data or self.gone:
            return
        if self._decoder is None:
            self._unsent_body -= len(data)
            self.send(data, None if self._unsent_body > 0 else b"")
            return
        pieces, _ = self._decoder.feed(data)
        if pieces or self._decoder.done:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.send(body, b"" if self._decoder.done else None)

    def _head(self, head: bytes) -> None:
        exchange = self._far.exchange
        if exchange is not None and exchange.expires < NEVER and _TIMEOUT in head:
            # It is a duration, and some of it has passed.
            before, _, behind = head.partition(_TIMEOUT)
            left = timeout_of(max(1, exchange.expires - time.monotonic_ns()))
            head = b"".join((before, _TIMEOUT, left, behind[behind.index(b"\r\n") :]))
        block, length = packing.request(head)
        cast("Calling", self.session).number(self)
        self._decoder = Decoder() if length < 0 else None
        self._unsent_body = length
        self.send_head(block, last=not length)

    def abort(self) -> None:
        """Nobody is there any more: that is true of the whole connection."""
        cast("Calling", self.session).close()

    def stuck(self) -> None:
        """The replica has no room."""
        self._far.slow(paused=True)

    def unstuck(self) -> None:
        """It has caught up."""
        self._far.slow(paused=False)

    # In -------------------------------------------------------------------------------------------------------------

    def fields(self, fields: list[Field], *, ended: bool) -> None:
        """The answer's head, or what stands behind its body."""
        far = self._far
        if not self.answered:
            if far.head(fields, ended=ended) and ended:
                far.behind(fields)
                far.complete()
            return
        if not ended or self.left > 0:
            far.nonsense("fields in the middle of a body, or a body that is too short")
            return
        try:
            fields = trailers(fields)
        except BadHead as error:
            far.nonsense(str(error))
            return
        far.behind(fields)
        far.pass_trailers(fields)
        far.complete()

    def data(self, body: bytes, *, ended: bool) -> None:
        """Of the answer's body."""
        far, exchange = self._far, self._far.exchange
        if exchange is None:
            return
        if not self.answered:
            far.nonsense("a body without a head")
            return
        if self.left >= 0:
            self.left -= len(body)
            if self.left < 0 or (ended and self.left):
                far.nonsense("a body that is not as long as announced")
                return
        if body:
            exchange.reply.relay([body])
        if ended and far.exchange is exchange:
            far.complete()

    def broken(self, code: Code | None, *, processed: bool) -> None:
        """It is over, in the middle."""
        if code is Code.NO_ERROR and self.answered and self.heard_end:
            return
        if not processed:
            self._far.failed(Failure.STALE)
        else:
            self._far.failed(Failure.DIED if code is None else Failure.NONSENSE)
